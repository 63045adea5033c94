package objects_test

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/config/crd"
	"github.com/dstack-isolation/operator/internal/objects"
)

const server = `apiVersion: isolation.dstack.ai/v1alpha1
kind: DstackServer
metadata: {name: main, namespace: dstack}
spec:
  workload: {kind: Deployment, name: dstack-server}
  unmatchedProjects: {level: Restricted, enforcement: Audit}
`

const profile = `apiVersion: isolation.dstack.ai/v1alpha1
kind: IsolationProfile
metadata: {name: research, namespace: dstack}
spec:
  serverRef: {name: main}
  projects: {include: ["research-*"]}
  level: Restricted
`

func newReader(t testing.TB) *objects.Reader {
	t.Helper()
	r, err := objects.NewReader(crd.FS)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func files(pairs ...string) fs.FS {
	folder := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		folder[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return folder
}

func TestReadFolder(t *testing.T) {
	list := `{"apiVersion": "v1", "kind": "List", "items": [
		{"apiVersion": "isolation.dstack.ai/v1alpha1", "kind": "IsolationProfile",
		 "metadata": {"name": "listed", "namespace": "dstack", "uid": "u", "resourceVersion": "7", "generation": 3},
		 "spec": {"serverRef": {"name": "main"}, "projects": {"include": ["x"]}, "level": "Open"},
		 "status": {"observedGeneration": 3}}]}`
	set, err := newReader(t).ReadFolder(files(
		"b.yaml", "---\n# only a comment\n---\n"+server+"---\n"+profile,
		"a.yml", strings.Replace(profile, "name: research, namespace: dstack", "name: alpha, namespace: dstack", 1),
		"c.json", list,
		"notes.txt", "not: [yaml",
		".hidden.yaml", "not: [yaml",
		"sub/d.yaml", "not: [yaml",
	))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range set.Profiles {
		names = append(names, p.Namespace+"/"+p.Name)
	}
	if diff := cmp.Diff([]string{"dstack/alpha", "dstack/listed", "dstack/research"}, names); diff != "" {
		t.Error(diff)
	}
	if len(set.Servers) != 1 || set.Servers[0].Name != "main" {
		t.Fatalf("got servers %v", set.Servers)
	}
	if got := set.Profiles[1].Status.ObservedGeneration; got != 0 {
		t.Errorf("a status came through: observedGeneration %d", got)
	}
	// The defaults of the CustomResourceDefinitions are set.
	want := v1alpha1.DstackServerSpec{
		Workload:          v1alpha1.WorkloadReference{Kind: v1alpha1.WorkloadDeployment, Name: "dstack-server"},
		API:               v1alpha1.ServerAPI{Port: 3000},
		ServerDir:         "/root/.dstack/server",
		Injection:         v1alpha1.InjectionEnabled,
		Rollout:           v1alpha1.RolloutAutomatic,
		PolicyPlugin:      v1alpha1.PolicyPlugin{Delivery: v1alpha1.DeliveryPython, Replicas: 2},
		UnmatchedProjects: v1alpha1.UnmatchedProjects{Level: v1alpha1.LevelRestricted, LevelVersion: v1alpha1.LevelVersionV1, Enforcement: v1alpha1.EnforcementAudit},
	}
	if diff := cmp.Diff(want, set.Servers[0].Spec); diff != "" {
		t.Error(diff)
	}
	if got := set.Profiles[2].Spec; got.LevelVersion != v1alpha1.LevelVersionV1 || got.Enforcement != v1alpha1.EnforcementEnforce {
		t.Errorf("got levelVersion %q, enforcement %q", got.LevelVersion, got.Enforcement)
	}
}

func TestNamespaceDefaultsAsInKubectl(t *testing.T) {
	bare := strings.NewReplacer(", namespace: dstack", "", "namespace: dstack", "namespace: ''")
	set, err := newReader(t).ReadFolder(files("all.yaml", bare.Replace(server)+"---\n"+bare.Replace(profile)))
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Servers[0].Namespace + "," + set.Profiles[0].Namespace; got != "default,default" {
		t.Errorf("got namespaces %s", got)
	}
}

func TestReadFolderRefuses(t *testing.T) {
	tests := map[string]struct {
		old, new string // replaced in the profile
		want     string
	}{
		"unknown field":          {"level: Restricted", "level: Restricted\n  levle: Open", "p.yaml, document 1, IsolationProfile research: spec.levle: unknown field: mend its name or remove it"},
		"unknown field below":    {"include: [", "inclode: [], include: [", "p.yaml, document 1, IsolationProfile research: spec.projects.inclode: unknown field: mend its name or remove it"},
		"unknown metadata":       {"name: research", "name: research, lables: {}", "p.yaml, document 1, IsolationProfile research: metadata.lables: unknown field: mend its name or remove it"},
		"unknown field at root":  {"spec:", "specs: {}\nspec:", "p.yaml, document 1, IsolationProfile research: specs: unknown field: mend its name or remove it"},
		"case variant":           {"level: Restricted", "Level: Restricted", "p.yaml, document 1, IsolationProfile research: spec.Level: unknown field: mend its name or remove it"},
		"duplicate key":          {"level: Restricted", "level: Restricted\n  level: Open", `p.yaml, document 1: yaml: unmarshal errors: line 8: key "level" already set in map`},
		"wrong type":             {"level: Restricted", "level: [Restricted]", `p.yaml, document 1, IsolationProfile research: spec.level: Invalid value: "array": spec.level in body must be of type string: "array"`},
		"number for a string":    {`["research-*"]`, `[7]`, `p.yaml, document 1, IsolationProfile research: spec.projects.include[0]: Invalid value: "integer": spec.projects.include[0] in body must be of type string: "integer"`},
		"enum":                   {"Restricted", "Strict", `p.yaml, document 1, IsolationProfile research: spec.level: Unsupported value: "Strict": supported values: "Open", "Baseline", "Restricted", "Dedicated"`},
		"missing field":          {"  level: Restricted\n", "", `p.yaml, document 1, IsolationProfile research: spec.level: Required value`},
		"missing spec":           {profile[strings.Index(profile, "spec:"):], "", `p.yaml, document 1, IsolationProfile research: spec: Required value`},
		"pattern":                {"research-*", "a b", "p.yaml, document 1, IsolationProfile research: spec.projects.include[0]: Invalid value: \"a b\": spec.projects.include[0] in body should match '^[-_.a-zA-Z0-9*?]+$'"},
		"empty list":             {`["research-*"]`, "[]", `p.yaml, document 1, IsolationProfile research: spec.projects.include: Invalid value: 0: spec.projects.include in body should have at least 1 items`},
		"set with duplicates":    {`["research-*"]`, `["a", "a"]`, `p.yaml, document 1, IsolationProfile research: spec.projects.include[1]: Duplicate value: "a"`},
		"CEL rule":               {"level: Restricted", "level: Restricted\n  hint: \"a\\tb\"", "p.yaml, document 1, IsolationProfile research: spec.hint: Invalid value: \"a\\tb\": hint must be one line without control characters"},
		"level without its list": {"level: Restricted", "level: Dedicated", `p.yaml, document 1, IsolationProfile research: spec.level: Required value: level Dedicated needs controls.fleets: list the fleets that belong to these projects alone`},
		"CEL rule with a path":   {"level: Restricted", "level: Restricted\n  controls: {instanceVolumes: {mode: Denied, paths: [/a]}}", `p.yaml, document 1, IsolationProfile research: spec.controls.instanceVolumes.paths: Invalid value: paths must be set when mode is AllowedPaths, and only then`},
		"bad time":               {"level: Restricted", "level: Restricted\n  exceptions: [{name: x, users: [a], controls: [privileged], reason: r, expiresAt: tomorrow}]", `p.yaml, document 1, IsolationProfile research: spec.exceptions[0].expiresAt: Invalid value: "tomorrow": spec.exceptions[0].expiresAt in body must be of type date-time: "tomorrow"`},
		"bad name":               {"name: research", "name: Research_1", `p.yaml, document 1, IsolationProfile Research_1: metadata.name: Invalid value: "Research_1": a lowercase RFC 1123 subdomain`},
		"no name":                {"name: research", "generateName: research-", "p.yaml, document 1, IsolationProfile: metadata.name: Required value: an object in a file needs a name of its own"},
		"metadata of wrong type": {"name: research", "name: research, labels: [a]", "p.yaml, document 1, IsolationProfile research: metadata: Invalid value: "},
		"other kind":             {"kind: IsolationProfile", "kind: ConfigMap", `p.yaml, document 1, ConfigMap research: kind "ConfigMap" of apiVersion "isolation.dstack.ai/v1alpha1" is not served here: use DstackServer or IsolationProfile of isolation.dstack.ai/v1alpha1, and keep other objects in other folders`},
		"other version":          {"v1alpha1", "v1", `kind "IsolationProfile" of apiVersion "isolation.dstack.ai/v1" is not served here`},
		"no kind":                {"kind: IsolationProfile\n", "", `p.yaml, document 1, research: kind "" of apiVersion`},
		"not an object":          {profile, "just text", "p.yaml, document 1: must be an object with apiVersion, kind, metadata and spec"},
		"a list at the root":     {profile, "[1, 2]", "p.yaml, document 1: must be an object with apiVersion, kind, metadata and spec"},
		"list without items":     {profile, "kind: List", "p.yaml, document 1: items: must be a list of objects"},
		"item of a list":         {profile, "{kind: List, items: [{kind: Pod, metadata: {name: x}}, 5]}", `p.yaml, document 1, item 1, Pod x: kind "Pod" of apiVersion ""`},
		"not YAML":               {profile, "a: [1", "p.yaml, document 1: yaml: line 1: did not find expected ',' or ']'"},
		"tab":                    {"  level", "\tlevel", "p.yaml, document 1: yaml: line 7: found character that cannot start any token"},
		"no such server":         {"serverRef: {name: main}", "serverRef: {name: mian}", "p.yaml, document 1, IsolationProfile research: spec.serverRef.name: no DstackServer dstack/mian is in this folder"},
		"server elsewhere":       {"namespace: dstack", "namespace: other", "p.yaml, document 1, IsolationProfile research: spec.serverRef.name: no DstackServer other/main is in this folder"},
		"twice":                  {profile, profile + "---\n" + profile, "p.yaml, document 2, IsolationProfile research: metadata.name: IsolationProfile dstack/research stands twice: also in p.yaml, document 1"},
		"second document":        {profile, "---\n" + profile + "---\nlevel: x\n", `p.yaml, document 2: kind "" of apiVersion ""`},
	}
	r := newReader(t)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			changed := strings.ReplaceAll(profile, tc.old, tc.new)
			if changed == profile {
				t.Fatal("the test changes nothing")
			}
			set, err := r.ReadFolder(files("p.yaml", changed, "s.yaml", server))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v\nwant    %s", err, tc.want)
			}
			if set != nil {
				t.Error("a set came with the error")
			}
		})
	}
}

func TestJSONFilesAreStrict(t *testing.T) {
	for name, tc := range map[string]struct{ data, want string }{
		"duplicate key": {`{"kind": "a", "kind": "b"}`, `p.json, document 1: duplicate field "kind"`},
		"two values":    {`{} {}`, "p.json, document 1: is not JSON: "},
		"not JSON":      {"kind: a", "p.json, document 1: is not JSON: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newReader(t).ReadFolder(files("p.json", tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %s", err, tc.want)
			}
		})
	}
}

func TestReadFolderNamesAllErrors(t *testing.T) {
	wrong := strings.NewReplacer("Restricted", "Strict", "research-*", "a b").Replace(profile)
	_, err := newReader(t).ReadFolder(files("a.yaml", wrong, "b.yaml", "[", "c.yaml", wrong))
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[0], "a.yaml") || !strings.HasPrefix(lines[2], "b.yaml") || !strings.HasPrefix(lines[4], "c.yaml") {
		t.Errorf("got %d lines:\n%v", len(lines), err)
	}
}

func TestFileSize(t *testing.T) {
	for extra, wantErr := range map[int]bool{-1: false, 0: false, 1: true} {
		padding := objects.MaxFileBytes - len(server) - len("#\n") + extra
		data := server + "#" + strings.Repeat("x", padding) + "\n"
		_, err := newReader(t).ReadFolder(files("s.yaml", data))
		if gotErr := err != nil; gotErr != wantErr {
			t.Errorf("%d bytes more than the limit: got error %v", extra, err)
		}
		if err != nil && err.Error() != "s.yaml: is larger than 16777216 bytes: split it" {
			t.Errorf("got error %v", err)
		}
	}
}

func TestNewReaderNeedsBothKinds(t *testing.T) {
	_, err := objects.NewReader(fstest.MapFS{})
	if err == nil || err.Error() != "no CustomResourceDefinition of DstackServer is given" {
		t.Errorf("got error %v", err)
	}
	_, err = objects.NewReader(files("x.yaml", "kind: [", "y.yaml", ""))
	if err == nil {
		t.Error("a broken CustomResourceDefinition was read")
	}
}
