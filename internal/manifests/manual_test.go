package manifests

import (
	"encoding/json"
	"testing"
)

func TestContains(t *testing.T) {
	for _, c := range []struct {
		name, have, want string
		is               bool
	}{
		{"the same", `{"a":1}`, `{"a":1}`, true},
		{"more than asked", `{"a":1,"b":2}`, `{"a":1}`, true},
		{"less than asked", `{"a":1}`, `{"a":1,"b":2}`, false},
		{"another value", `{"a":2}`, `{"a":1}`, false},
		{"null where a value is asked", `{"a":null}`, `{"a":1}`, false},
		{"a string where an object is asked", `"a"`, `{}`, false},
		{"an object where nothing is asked of it", `{"a":{"b":1}}`, `{"a":{}}`, true},
		{"nothing where an object is asked", `{}`, `{"a":{}}`, false},
		{"entries by name in another order", `[{"name":"x","value":"1"},{"name":"y","value":"2"}]`, `[{"name":"y","value":"2"}]`, true},
		{"an entry with another value", `[{"name":"y","value":"3"}]`, `[{"name":"y","value":"2"}]`, false},
		{"an entry that is missing", `[]`, `[{"name":"y"}]`, false},
		{"an entry that stands twice, the last with another value", `[{"name":"y","value":"2"},{"name":"y","value":"3"}]`, `[{"name":"y","value":"2"}]`, false},
		{"mounts by path, although they have names", `[{"name":"v","mountPath":"/a"},{"name":"v","mountPath":"/b","readOnly":true}]`, `[{"name":"v","mountPath":"/b","readOnly":true}]`, true},
		{"a mount of another volume", `[{"name":"w","mountPath":"/b"}]`, `[{"name":"v","mountPath":"/b"}]`, false},
		{"the same arguments", `["inject","--x"]`, `["inject","--x"]`, true},
		{"arguments in another order", `["--x","inject"]`, `["inject","--x"]`, false},
		{"one more argument", `["inject","--x","--y"]`, `["inject","--x"]`, false},
	} {
		if got := contains(decoded(t, c.have), decoded(t, c.want)); got != c.is {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
