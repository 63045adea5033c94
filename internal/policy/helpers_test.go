package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func quoteJSON(t testing.TB, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// manyKeys are n members of an object.
func manyKeys(n int) string {
	members := make([]string, n)
	for i := range members {
		members[i] = fmt.Sprintf(`"key_%d":null`, i)
	}
	return strings.Join(members, ",")
}
