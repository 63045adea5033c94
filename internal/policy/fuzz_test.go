package policy_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

func FuzzParse(f *testing.F) {
	for _, c := range captures(f) {
		f.Add([]byte(c.Request))
	}
	f.Add([]byte(`{"user":"a","project":"p","spec":{},"process":{"plugins":["a"],"last":true,"jobNetworkMode":3}}`))
	f.Add([]byte(`{"user":"a","User":"b","project":"p","spec":[1,{"a":1,"a":2}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		received := bytes.Clone(body)
		req, err := policy.Parse(dstack.KindRun, body)
		if !bytes.Equal(received, body) {
			t.Fatal("the body was changed")
		}
		again, againErr := policy.Parse(dstack.KindRun, body)
		if diff := cmp.Diff(req, again); diff != "" || (err == nil) != (againErr == nil) {
			t.Fatalf("read differently the second time: %s", diff)
		}
		if err != nil {
			if req != nil {
				t.Error("both a request and an error")
			}
			return
		}
		if req.User == "" || req.Project == "" || !json.Valid(req.Spec) {
			t.Errorf("incomplete request %+v", req)
		}
		// What another reader takes for the user and the project is the same.
		var other struct {
			User, Project string
			Spec          json.RawMessage
		}
		if err := json.Unmarshal(body, &other); err != nil {
			t.Fatalf("valid here only: %v", err)
		}
		if other.User != req.User || other.Project != req.Project || !bytes.Equal(other.Spec, req.Spec) {
			t.Errorf("read as %+v, by another reader as %+v", req, other)
		}
	})
}

var hostileSpecs = []string{
	`{"configuration":{"type":"service","replicas":[{"docker":true}],"groups":[{"privileged":1}]}}`,
	`{"configuration":{"type":"task","setup":[{"\u0070rivileged":"x"}],"env":{"docker":"1"},"tags":{"privileged":"1"}}}`,
	`{"configuration":{"type":"task","groups":[{"nodes":1,"env":{"docker":1}},{"nodes":1}],"nodes":3}}`,
	`{"configuration":{"type":"task","volumes":[{"instance_path":"//etc","path":"/x"},{"name":["a"],"path":"/x"}]}}`,
	`{"configuration":{"type":"task","Privileged":true,"doc\u212aer":true},"ssh_key_pub":"ssh-ed25519 '"}`,
	`{"configuration":{"type":"task"},"configuration":{"privileged":true}}`,
	`{"configuration":{"type":"dev-environment","nodes":2,"replicas":{"min":1,"max":{"docker":[]}}}}`,
}

// FuzzDecide looks for a specification that is allowed although another reader
// finds in it what the profile denies: privileged or docker, anywhere in the
// configuration but among the names of variables and tags; an instance volume;
// or more than one node. And decisions are deterministic and do not depend on
// the order of keys.
func FuzzDecide(f *testing.F) {
	for _, c := range captures(f) {
		var body struct{ Spec json.RawMessage }
		if err := json.Unmarshal(c.Request, &body); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(body.Spec))
	}
	for _, spec := range hostileSpecs {
		f.Add([]byte(spec))
	}
	strict := effective(profile("research", v1alpha1.LevelRestricted), profile("watch", v1alpha1.LevelDedicated, audit))
	paths := effective(profile("research", v1alpha1.LevelOpen, allowedPaths("/data"),
		ruled("names", `object.configuration.?env.orValue({}).all(k, k != "docker")`, "no"),
		ruled("fleet", `object.configuration.blocks == 1`, "no"), ofKind(v1alpha1.RuleKindFleet)))
	f.Fuzz(func(t *testing.T, spec []byte) {
		for _, kind := range dstack.ApplyKinds() {
			d := policy.Decide(paths, policy.Running{}, &policy.Request{Kind: kind, User: "ada", Project: "research-x", Spec: spec}, noon)
			checkConsistent(t, d)
		}
		d := policy.Decide(strict, policy.Running{}, runRequest(string(spec)), noon)
		checkConsistent(t, d)
		if diff := cmp.Diff(d, policy.Decide(strict, policy.Running{}, runRequest(string(spec)), noon)); diff != "" {
			t.Fatalf("decided differently the second time: %s", diff)
		}
		if whole := slices.IndexFunc(d.Reasons, func(r policy.Reason) bool { return r.Field == "spec" }); whole >= 0 {
			return // not readable, and so refused
		}
		value := looseRead(t, spec)
		if d.Allowed {
			if found := findDenied(value); found != "" {
				t.Errorf("allowed although %s", found)
			}
		}
		if len(d.Reasons) > 200 {
			return
		}
		sorted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		other := policy.Decide(strict, policy.Running{}, runRequest(string(sorted)), noon)
		if diff := cmp.Diff(d, other); diff != "" {
			t.Errorf("the order of keys matters:\n%s", diff)
		}
	})
}

// looseRead reads as a careless reader would.
func looseRead(t *testing.T, spec []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(spec))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		t.Fatalf("valid here only: %v", err)
	}
	return value
}

// findDenied looks for what Restricted denies, in the plainest way.
func findDenied(spec any) string {
	object, _ := spec.(map[string]any)
	configuration, _ := object["configuration"].(map[string]any)
	free := func(path []string) bool {
		last := path[len(path)-1]
		inGroup := len(path) == 3 && (path[0] == "groups" || path[0] == "replicas")
		return (last == "env" || last == "tags") && (len(path) == 1 || inGroup)
	}
	found := ""
	var walk func(value any, path []string)
	walk = func(value any, path []string) {
		if len(path) > 0 && free(path) {
			return
		}
		switch v := value.(type) {
		case []any:
			for _, x := range v {
				walk(x, append(slices.Clone(path), "[]"))
			}
		case map[string]any:
			for key, x := range v {
				at := append(slices.Clone(path), key)
				set := x != nil && x != false
				if set && (key == "privileged" || key == "docker") || key == "instance_path" {
					if !free(at) {
						found = strings.Join(at, ".") + " is set"
					}
				}
				walk(x, at)
			}
		}
	}
	walk(configuration, nil)
	nodes := 0
	groups, _ := configuration["groups"].([]any)
	for _, g := range groups {
		group, _ := g.(map[string]any)
		nodes += count(group["nodes"])
	}
	if nodes > 1 || count(configuration["nodes"]) > 1 {
		found = "it has more than one node"
	}
	return found
}

// count is 0 for nothing, and too many for what is no small number.
func count(value any) int {
	switch n, isNumber := value.(json.Number); {
	case value == nil:
		return 0
	case isNumber && n == "1":
		return 1
	}
	return 2
}

func TestEveryControlIsJudged(t *testing.T) {
	everything := `{"configuration":{"type":"task","nodes":2,"privileged":true,` +
		`"volumes":[{"instance_path":"/","path":"/h"}]},"ssh_key_pub":""}`
	got := make(map[string]bool)
	d := policy.Decide(effective(profile("r", v1alpha1.LevelDedicated)), policy.Running{}, runRequest(everything), noon)
	for _, r := range d.Reasons {
		got[r.Control] = true
	}
	for _, c := range isolation.AllControls() {
		if !got[string(c.Name())] {
			t.Errorf("no rule refuses what %s denies: add one to rules, and what it denies to this test", c.Name())
		}
	}
}
