package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

const examplesDir = "testdata/controls"

// TestExamples decides the cases that docs/controls.md links to, one that each
// control denies and one that it allows, under a profile with this control only.
func TestExamples(t *testing.T) {
	for _, c := range isolation.AllControls() {
		t.Run(string(c.Name()), func(t *testing.T) {
			dir := filepath.Join(examplesDir, string(c.Name()))
			var controls v1alpha1.Controls
			if err := yaml.UnmarshalStrict(read(t, dir, "controls.yaml"), &controls); err != nil {
				t.Fatal(err)
			}
			set := effective(profile("research", v1alpha1.LevelOpen, func(s *v1alpha1.IsolationProfileSpec) { s.Controls = &controls }))
			if held := set.Profiles[0].Values[c]; held.Equal(c.Loosest()) || len(set.Profiles[0].Problems) > 0 {
				t.Fatalf("controls.yaml makes it %s: %v", held, set.Profiles[0].Problems)
			}
			// A server on which distributed tasks get the host network.
			running := policy.Running{NetworkMode: v1alpha1.NetworkModeHostForDistributed}
			without := effective(profile("research", v1alpha1.LevelOpen))
			for _, name := range examplesOf(t, dir, "deny") {
				deny := example(t, dir, name)
				d := policy.Decide(set, running, deny, noon)
				if got := slices.Compact(controlsOf(d.Reasons)); d.Allowed || !slices.Equal(got, []string{string(c.Name())}) {
					t.Errorf("%s is allowed: %t, denied by %q: %s", name, d.Allowed, got, d.Message)
				}
				if d := policy.Decide(without, running, deny, noon); !d.Allowed {
					t.Errorf("%s is denied without the control: %s", name, d.Message)
				}
			}
			for _, name := range examplesOf(t, dir, "allow") {
				if d := policy.Decide(set, running, example(t, dir, name), noon); !d.Allowed {
					t.Errorf("%s is denied: %s", name, d.Message)
				}
			}
		})
	}
}

// TestExamplesAreOfControls finds folders that nothing decides.
func TestExamplesAreOfControls(t *testing.T) {
	entries, err := os.ReadDir(examplesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() && !isControl(entry.Name()) {
			t.Errorf("%s is no control", entry.Name())
		}
	}
}

// examplesOf are VERDICT.json and any others whose names begin with the verdict.
func examplesOf(t *testing.T, dir, verdict string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, verdict+"*.json"))
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = filepath.Base(file)
	}
	if !slices.Contains(names, verdict+".json") {
		t.Fatalf("there is no %s.json among %q", verdict, names)
	}
	return names
}

// example is a request as dstack sends it.
func example(t *testing.T, dir, name string) *policy.Request {
	t.Helper()
	var c capture
	if err := json.Unmarshal(read(t, dir, name), &c); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	c.Name = name
	req, err := policy.Parse(c.kind(t), c.Request)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return req
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
