// Package docs holds the tests that keep documents and code in step.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var root = filepath.Join("..", "..")

// TestConditionsAreDocumented holds docs/conditions.md to the constants of
// api/v1alpha1: each has a row that says when it comes, and each row a constant.
func TestConditionsAreDocumented(t *testing.T) {
	constants := constantsOf(t, filepath.Join(root, "api", "v1alpha1", "conditions.go"), "Reason", "Condition")
	rows := rowsOf(t, filepath.Join(root, "docs", "conditions.md"))

	for name, value := range constants {
		if !rows[value] {
			t.Errorf("docs/conditions.md has no row that says when `%s` (%s) comes", value, name)
		}
	}
	documented := slices.Collect(maps.Keys(rows))
	slices.Sort(documented)
	for _, word := range documented {
		if !slices.Contains(slices.Collect(maps.Values(constants)), word) {
			t.Errorf("docs/conditions.md has a row for `%s`, which is no constant of api/v1alpha1", word)
		}
	}
}

// TestAlertsNameConditions holds the expressions in docs/operations.md to the
// constants of api/v1alpha1: an alert on a reason that never comes never fires.
func TestAlertsNameConditions(t *testing.T) {
	text := read(t, filepath.Join(root, "docs", "operations.md"))
	text = regexp.MustCompile(`\bkube_\w+\{[^}]*\}`).ReplaceAllString(text, "") // These are of kube-state-metrics.
	constants := constantsOf(t, filepath.Join(root, "api", "v1alpha1", "conditions.go"), "Reason", "Condition")
	for label, prefix := range map[string]string{"type": "Condition", "reason": "Reason"} {
		var known []string
		for name, value := range constants {
			if strings.HasPrefix(name, prefix) {
				known = append(known, value)
			}
		}
		named := regexp.MustCompile(`\b`+label+`="([^"]*)"`).FindAllStringSubmatch(text, -1)
		if len(named) == 0 {
			t.Errorf("docs/operations.md has no expression with %s", label)
		}
		for _, match := range named {
			if !slices.Contains(known, match[1]) {
				t.Errorf("docs/operations.md alerts on %s, which is no constant of api/v1alpha1", match[0])
			}
		}
	}
}

// constantsOf reads the string constants of a Go file whose names begin with one
// of the prefixes, by name.
func constantsOf(t *testing.T, path string, prefixes ...string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			literal, ok := spec.Values[i].(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING ||
				!slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name.Name, p) }) {
				continue
			}
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			out[name.Name] = value
		}
		return true
	})
	if len(out) < 20 {
		t.Fatalf("%s has only %d constants that begin with %s: it has moved", path, len(out), prefixes)
	}
	return out
}

var row = regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|([^|]*)\\|")

// rowsOf finds the words that stand alone, in backquotes, in the first cell of a
// table's row; true when the second cell says something.
func rowsOf(t *testing.T, path string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, match := range row.FindAllStringSubmatch(string(text), -1) {
		out[match[1]] = strings.TrimSpace(match[2]) != ""
	}
	return out
}
