package expression_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/dstack-isolation/operator/internal/expression"
)

// TestExamplesInTheDocsCompile: those of docs/rules.md.
func TestExamplesInTheDocsCompile(t *testing.T) {
	text, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```cel\n(.*?)```|      expression: '(.*?)'\n").FindAllStringSubmatch(string(text), -1)
	if len(examples) != 3 {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, e := range examples {
		if err := expression.Compile(e[1] + e[2]).Err(); err != nil {
			t.Errorf("%s: %v", e[0], err)
		}
	}
}
