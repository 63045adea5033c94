package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
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
// finds in it what the profile denies: privileged or docker, anywhere but among
// the names of variables and tags; an instance volume; more than one node; a
// fleet, backend or image outside the lists, or none; and so on. What is
// allowed comes back as it was or with the list of fleets put in. And decisions
// are deterministic and do not depend on the order of keys.
func FuzzDecide(f *testing.F) {
	for _, c := range captures(f) {
		var body struct{ Spec json.RawMessage }
		if err := json.Unmarshal(c.Request, &body); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(body.Spec))
	}
	for _, spec := range slices.Concat(hostileSpecs, hostileObjects) {
		f.Add([]byte(spec))
	}
	for _, specs := range everything {
		for _, spec := range specs {
			f.Add([]byte(spec))
		}
	}
	f.Add([]byte(`{"configuration":{"type":"task","image":"ghcr.io/example/a","backends":["aws"]},"profile":{"fleets":[],"backends":["x"]}}`))
	f.Add([]byte(`{"configuration":{"type":"task","image":"ghcr.io/example/a","fleets":[ ]},"profile":{"backends":["aws"],"fleets":["x"]}}`))
	watching := profile("watch", v1alpha1.LevelDedicated, audit)
	strict := effective(strictest(), watching)
	restricted := effective(profile("research", v1alpha1.LevelRestricted), watching)
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
		if restricted := policy.Decide(restricted, policy.Running{}, runRequest(string(spec)), noon); restricted.Allowed {
			if found := findFlags(value) + findNodes(value); found != "" || restricted.Filled != nil {
				t.Errorf("allowed under Restricted although %s", found)
			}
		}
		if d.Allowed {
			if found := findDenied(value); found != "" {
				t.Errorf("allowed although %s", found)
			}
			checkFilled(t, spec, d.Filled)
		}
		if len(d.Reasons) > 200 {
			return
		}
		sorted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		other := policy.Decide(strict, policy.Running{}, runRequest(string(sorted)), noon)
		d.Filled, other.Filled = reorder(t, d.Filled), reorder(t, other.Filled)
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

func reorder(t *testing.T, spec []byte) []byte {
	if spec == nil {
		return nil
	}
	sorted, err := json.Marshal(looseRead(t, spec))
	if err != nil {
		t.Fatal(err)
	}
	return sorted
}

// checkFilled holds that an allowed run ends up with fleets of the list, and
// that nothing but its fleets differs from what was sent.
func checkFilled(t *testing.T, spec, filled []byte) {
	result := looseRead(t, spec)
	if filled != nil {
		prefix := 0
		for prefix < len(spec) && prefix < len(filled) && spec[prefix] == filled[prefix] {
			prefix++
		}
		suffix := 0
		for suffix < len(spec)-prefix && suffix < len(filled)-prefix && spec[len(spec)-1-suffix] == filled[len(filled)-1-suffix] {
			suffix++
		}
		// Of an empty list the brackets are among what is the same.
		switch replaced := strings.Trim(string(spec[prefix:len(spec)-suffix]), " \t\r\n"); replaced {
		case "", "]", "null":
		default:
			t.Errorf("%q was replaced in\n%s\n%s", replaced, spec, filled)
		}
		result = looseRead(t, filled)
	}
	fleets := effectiveList(result, "fleets")
	if len(fleets) == 0 {
		t.Error("allowed without fleets")
	}
	for _, fleet := range fleets {
		name := fleet
		if object, isObject := fleet.(map[string]any); isObject {
			name = object["name"]
			if project := object["project"]; project != nil && project != "research-nlp" {
				t.Errorf("allowed on a fleet of project %v", project)
			}
		}
		if name != "a100" && name != "research-nlp/a100" {
			t.Errorf("allowed on fleet %v", name)
		}
	}
}

// effectiveList is the value that dstack takes of configuration and profile.
func effectiveList(spec any, key string) []any {
	object, _ := spec.(map[string]any)
	for _, part := range []string{"configuration", "profile"} {
		parameters, _ := object[part].(map[string]any)
		if list, isList := parameters[key].([]any); isList {
			return list
		}
	}
	return nil
}

// findDenied looks for what is denied, in the plainest way.
func findDenied(spec any) string {
	object, _ := spec.(map[string]any)
	configuration, _ := object["configuration"].(map[string]any)
	found := findFlags(spec) + findNodes(spec)
	groups, _ := configuration["groups"].([]any)
	images := []any{configuration["image"]}
	for _, g := range groups {
		group, _ := g.(map[string]any)
		if images = append(images, group["image"]); group["router"] != nil {
			found = "it has a router"
		}
	}
	backends := effectiveList(spec, "backends")
	if len(backends) == 0 || slices.ContainsFunc(backends, func(b any) bool { return b != "aws" }) {
		found = fmt.Sprintf("its backends are %v", backends)
	}
	for _, image := range images {
		if name, isString := image.(string); isString && !strings.HasPrefix(name, "ghcr.io/example") {
			found = "its image is " + name
		}
	}
	tags, _ := configuration["tags"].(map[string]any)
	switch server := configuration["dstack"]; {
	case server != nil && server != false:
		found = "it has access to the server"
	case configuration["type"] == "service":
		found = "it is a service"
	case len(tags) > 0:
		found = "it has tags"
	case configuration["image"] == nil && len(groups) == 0:
		found = "it names no image"
	}
	for _, i := range effectiveList(spec, "instances") {
		if instance, _ := i.(map[string]any); instance["fleet"] == nil || instance["hostname"] != nil || instance["name"] != nil {
			found = "it names an instance without its fleet"
		}
	}
	return found
}

// findNodes looks for more than one node.
func findNodes(spec any) string {
	object, _ := spec.(map[string]any)
	configuration, _ := object["configuration"].(map[string]any)
	nodes := 0
	groups, _ := configuration["groups"].([]any)
	for _, g := range groups {
		group, _ := g.(map[string]any)
		nodes += count(group["nodes"])
	}
	if nodes > 1 || count(configuration["nodes"]) > 1 {
		return "it has more than one node"
	}
	return ""
}

// findFlags looks for privileged, docker and instance volumes.
func findFlags(spec any) string {
	free := func(path []string) bool {
		last := path[len(path)-1]
		inGroup := len(path) == 4 && (path[1] == "groups" || path[1] == "replicas")
		if last == "tags" && len(path) == 2 && path[0] == "profile" {
			return true
		}
		return (last == "env" || last == "tags") && path[0] == "configuration" && (len(path) == 2 || inGroup)
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
					found = strings.Join(at, ".") + " is set"
				}
				walk(x, at)
			}
		}
	}
	walk(spec, nil)
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

// everything are specifications that break all controls that are about their
// kind. Several of runs, because no run can break all.
var everything = map[dstack.ApplyKind][]string{
	dstack.KindRun: {
		`{"configuration":{"type":"task","nodes":2,"privileged":true,"dstack":true,"tags":{"a":"b"},"new":1,` +
			`"volumes":[{"instance_path":"/","path":"/h"}],"fleets":["other/gpu"],"backends":["lium"]},"ssh_key_pub":""}`,
		`{"configuration":{"type":"service","groups":[{"router":{"type":"x"},"image":"quay.io/x"}]}}`,
		`{"configuration":{"type":"service","gateway":"other/gw"}}`,
	},
}

// strictest denies all that controls can deny.
func strictest() v1alpha1.IsolationProfile {
	return profile("r", v1alpha1.LevelDedicated, controls(v1alpha1.Controls{
		ServiceRouters: "Denied", Services: "Denied", Tags: "Denied",
		Fleets:     &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a100"}},
		Backends:   &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws"}},
		Registries: &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"ghcr.io/example"}},
	}))
}

func TestEveryControlIsJudged(t *testing.T) {
	got := make(map[string]bool)
	for kind, specs := range everything {
		for _, spec := range specs {
			req := runRequest(spec)
			req.Kind = kind
			for _, r := range policy.Decide(effective(strictest()), policy.Running{}, req, noon).Reasons {
				got[r.Control] = true
			}
		}
	}
	for control := range judgedOfKinds() {
		got[control] = true
	}
	for _, c := range isolation.AllControls() {
		if !got[string(c.Name())] {
			t.Errorf("no rule refuses what %s denies: add one to rules, and what it denies to this test", c.Name())
		}
	}
}
