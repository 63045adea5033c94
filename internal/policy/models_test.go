package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestFieldsOfAllReleasesAreKnown: what dstack's models write is known, and all
// captured specifications are.
func TestFieldsOfAllReleasesAreKnown(t *testing.T) {
	unknown := only(v1alpha1.Controls{UnknownFields: "DeniedIfSet"})
	files, err := filepath.Glob("testdata/models/*.jsonl")
	if err != nil || len(files) != 3 {
		t.Fatalf("found %d files: %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if d := decide(t, line, unknown); !d.Allowed {
				t.Errorf("%s: %s", file, d.Message)
			}
			// As if each of them had a value.
			set := strings.NewReplacer(":null", ":[1]", ":false", ":[1]", ":[]", ":[1]").Replace(line)
			for _, r := range decide(t, set, unknown).Reasons {
				if r.Control == "unknownFields" {
					t.Errorf("%s: %s", file, r.Message)
				}
			}
		}
	}
}
