package inject

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/dstack-isolation/operator/internal/dstack"
)

var update = flag.Bool("update", false, "write the golden files")

// The same folders are read by the plugin's Python tests, with dstack's own parser.
func TestMergeGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/merge/*/in.yml")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, in := range cases {
		t.Run(filepath.Base(filepath.Dir(in)), func(t *testing.T) {
			src, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Merge(src, dstack.PluginPython)
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(filepath.Dir(in), "out.yml")
			if *update {
				if err := os.WriteFile(out, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
			again, err := Merge(got, dstack.PluginPython)
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("merging twice changes more: %v\n%s", err, again)
			}
			checkOnlyPluginsDiffer(t, src, got, dstack.PluginPython)
		})
	}
}

// Every byte of the source is in the result, in the same order: nothing is written
// anew. (An alias and a null are the only texts that are replaced.)
func TestMergeOnlyInserts(t *testing.T) {
	cases, err := filepath.Glob("testdata/merge/*/in.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range cases {
		name := filepath.Base(filepath.Dir(in))
		if strings.HasPrefix(name, "null-") || strings.HasPrefix(name, "alias") {
			continue
		}
		src, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Merge(src, dstack.PluginREST)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		added := len(got) - len(src)
		inserted := false
		for at := 0; at <= len(src) && !inserted; at++ {
			inserted = bytes.Equal(src, append(slices.Clone(got[:at]), got[at+added:]...))
		}
		if !inserted {
			t.Errorf("%s: more than an insertion:\n%s", name, got)
		}
	}
}

const secret = "hunter2"

func TestMergeRefuses(t *testing.T) {
	const (
		empty   = "it is empty, and dstack does not start with an empty one: write `projects: []` into it, which changes no project"
		without = "it has no projects, and dstack does not start without them: add `projects: []`, which changes no project"
		unusual = "plugins is written in a way that cannot be added to by machine: write it as a plain list, or add dstack_isolation to it yourself"
	)
	tests := map[string]struct{ src, want string }{
		"empty":                 {"", empty},
		"bom only":              {"\ufeff", empty},
		"blank":                 {" \n\n", empty},
		"comments only":         {"# hunter2\n", empty},
		"document without text": {"---\n...\n", empty},
		"null":                  {"null\n", empty},
		"no projects":           {"plugins: []\n", without},
		"projects null":         {"projects:\nplugins: []\n", without},
		"projects elsewhere":    {"a: {projects: []}\n", without},
		"list":                  {"- hunter2\n", "line 1: it must be a mapping with keys such as projects and plugins; dstack does not start with anything else"},
		"text":                  {"\nhunter2\n", "line 2: it must be a mapping with keys such as projects and plugins; dstack does not start with anything else"},
		"two documents":         {"projects: []\n---\nhunter2: 1\n", "line 2: it holds a second YAML document, and dstack does not start with more than one"},
		"second document wrong": {"projects: []\n---\n]hunter2\n", "line 3: it is not valid YAML: did not find expected node content"},
		"plugins text":          {"projects: []\nplugins: hunter2\n", "line 2: plugins must be a list of names"},
		"plugins mapping":       {"projects: []\nplugins:\n  hunter2: 1\n", "line 3: plugins must be a list of names"},
		"plugins true":          {"projects: []\nplugins: true\n", "line 2: plugins must be a list of names"},
		"plugins of a number":   {"projects: []\nplugins: [a, 1]\n", "line 2: entry 2 of plugins must be a name"},
		"plugins of a null":     {"projects: []\nplugins:\n-\n", "line 3: entry 1 of plugins must be a name"},
		"plugins of a list":     {"projects: []\nplugins: [[hunter2]]\n", "line 2: entry 1 of plugins must be a name"},
		"plugins twice":         {"plugins: [a]\nprojects: []\nplugins: [b]\n", "line 3: plugins stands there a second time, and dstack would read only the last: keep one"},
		"projects twice":        {"projects: []\nprojects: []\n", "line 2: projects stands there a second time, and dstack would read only the last: keep one"},
		"plugins anchored":      {"plugins: &a [a]\nprojects: []\nx: *a\n", "line 1: " + unusual},
		"plugins anchored null": {"plugins: &a\nprojects: []\n", "line 1: " + unusual},
		"plugins tagged":        {"projects: []\nplugins: !!seq [a]\n", "line 2: " + unusual},
		"complex first key":     {"? projects\n: []\n", "line 1: " + unusual},
		"complex block":         {"projects: []\n? plugins\n: - a\n  - b\n", "line 3: " + unusual},
		"key without colon":     {"{projects: [], plugins}", "line 1: " + unusual},
		"anchored flow root":    {"&a {projects: []}", "line 1: " + unusual},
		"merge twice":           {"<<: {projects: []}\n<<: {plugins: [a]}\n", "line 2: a second merge key (<<) in one mapping: merge a list of mappings instead"},
		"merge of a text":       {"<<: hunter2\n", "line 1: a merge key (<<) must have a mapping, or a list of them"},
		"merge of itself":       {"<<: &a\n  <<: *a\n", "line 2: there are too many merge keys (<<), or one that merges itself"},
		"merges that multiply":  {multiply(), "line 2: there are too many merge keys (<<), or one that merges itself"},
		"tab":                   {"projects:\n\t- hunter2\n", "line 2: it is not valid YAML: found character that cannot start any token"},
		"unclosed":              {"projects: [\nhunter2", "line 3: it is not valid YAML: did not find expected ',' or ']'"},
		"wrong indentation":     {"projects: []\n  hunter2: x\n", "line 2: it is not valid YAML: did not find expected key"},
		"no such anchor":        {"projects: []\npassword: *hunter2\n", "line 2: it is not valid YAML: an alias (*name) refers to no anchor; a text that begins with * must be in quotes"},
		"character in a tag":    {"projects: []\npassword: !hunter2{x\n", "line 2: it is not valid YAML: found a character that is not allowed here"},
		"control character":     {"projects: []\na: hunter2\x01\n", "it is not valid YAML: control characters are not allowed"},
		"not utf-8":             {"projects: []\na: \xff\n", "it is not UTF-8 text, which dstack needs"},
		"utf-16":                {"\xff\xfep\x00", "it is not UTF-8 text, which dstack needs"},
		"nul":                   {"projects: []\x00", "it is not UTF-8 text, which dstack needs"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			src := []byte(tc.src)
			got, err := Merge(src, dstack.PluginPython)
			if err == nil {
				t.Fatalf("merged: %s", got)
			}
			if err.Error() != tc.want {
				t.Errorf("got  %s\nwant %s", err, tc.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Error("the message quotes the file")
			}
			if string(src) != tc.src {
				t.Error("the source was changed")
			}
		})
	}
}

// multiply is a mapping that merges ten times one that merges ten times one …
func multiply() string {
	text := "x0: &a0 {a: 1}\n"
	for i := range 12 {
		text += fmt.Sprintf("x%d: &a%d {<<: [%s]}\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	return text + "<<: *a12\n"
}

func TestMergeRefusesNamesThatAreNone(t *testing.T) {
	for _, name := range []string{"", "a b", "a]", "a\n", "é", "1a", "a-b"} {
		if got, err := Merge([]byte("projects: []\n"), name); err == nil {
			t.Errorf("merged %q: %s", name, got)
		}
	}
}

// checkOnlyPluginsDiffer compares decoded data, by the library and not by our code.
func checkOnlyPluginsDiffer(t *testing.T, src, merged []byte, plugin string) {
	t.Helper()
	var before, after map[string]any
	if yaml.Load(src, &before, yaml.WithUniqueKeys(false)) != nil {
		return // valid as nodes, not as Go data: a key that is no text, or too many aliases
	}
	if err := yaml.Load(merged, &after, yaml.WithUniqueKeys(false)); err != nil {
		t.Fatalf("result does not load: %v\n%s", err, merged)
	}
	old, _ := before["plugins"].([]any)
	got, _ := after["plugins"].([]any)
	if want := append([]any{plugin}, old...); !slices.Contains(old, any(plugin)) && !cmp.Equal(want, got) {
		t.Errorf("plugins are %v, want %v", got, want)
	}
	delete(before, "plugins")
	delete(after, "plugins")
	dumpedBefore, errBefore := yaml.Dump(before)
	dumpedAfter, errAfter := yaml.Dump(after)
	if (errBefore == nil) != (errAfter == nil) || !bytes.Equal(dumpedBefore, dumpedAfter) {
		t.Errorf("more than plugins differs (%v, %v)\n%s\n%s", errBefore, errAfter, dumpedBefore, dumpedAfter)
	}
}

func FuzzMerge(f *testing.F) {
	cases, err := filepath.Glob("testdata/merge/*/in.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, in := range cases {
		src, err := os.ReadFile(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, true)
		f.Add(src, false)
	}
	f.Fuzz(func(t *testing.T, src []byte, python bool) {
		plugin := dstack.PluginREST
		if python {
			plugin = dstack.PluginPython
		}
		given := slices.Clone(src)
		merged, err := Merge(src, plugin)
		if !bytes.Equal(given, src) {
			t.Fatal("the source was changed")
		}
		if err != nil {
			return
		}
		checkOnlyPluginsDiffer(t, src, merged, plugin)
		again, err := Merge(merged, plugin)
		if err != nil || !bytes.Equal(again, merged) {
			t.Errorf("merging twice changes more: %v\n%s", err, again)
		}
	})
}
