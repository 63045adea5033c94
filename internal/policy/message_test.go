package policy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMessages holds whole refusals to the letter, in testdata/messages.
func TestMessages(t *testing.T) {
	restricted := profile("research", v1alpha1.LevelRestricted, hint("Ask #gpu-platform."))
	strictServer := server()
	strictServer.Spec.UnmatchedProjects.Level = v1alpha1.LevelRestricted
	openServer := server()
	openServer.Spec.UnmatchedProjects.Controls = &v1alpha1.Controls{
		InstanceVolumes: &v1alpha1.InstanceVolumes{Mode: v1alpha1.InstanceVolumesAllowedPaths, Paths: []v1alpha1.InstancePath{"/data"}},
	}
	everything := `{"configuration":{"type":"task","nodes":4,"privileged":true,"docker":true,` +
		`"volumes":[{"instance_path":"/etc","path":"/x"}]},"ssh_key_pub":"a\nb"}`
	tests := map[string]struct {
		spec    string
		eff     *isolation.Effective
		project string
		kind    dstack.ApplyKind
	}{
		"privileged":        {spec: task(`"privileged":true`)},
		"docker-in-a-group": {spec: ofType("service", `"groups":[{},{"docker":true}]`)},
		"volume":            {spec: task(`"volumes":[{"instance_path":"/etc","path":"/x"}]`)},
		"volume-paths": {
			spec: task(`"volumes":[{"instance_path":"/etc","path":"/x"},{"instance_path":"/data//a","path":"/x"}]`),
			eff:  effective(profile("research", v1alpha1.LevelRestricted, allowedPaths("/models", "/data"))),
		},
		"two-nodes":  {spec: task(`"nodes":2`)},
		"two-groups": {spec: task(`"groups":[{"nodes":1},{"nodes":3}]`)},
		"ssh-key":    {spec: strings.Replace(task(""), "null", quoteJSON(t, `command="x" `+plainKey), 1)},
		"everything": {spec: everything},
		"two-nodes-of-two": {
			spec: task(`"nodes":2`),
			eff: effective(
				profile("network", v1alpha1.LevelOpen, controls(v1alpha1.Controls{HostNetwork: "Denied"})),
				profile("tasks", v1alpha1.LevelOpen, controls(v1alpha1.Controls{DistributedTasks: "Denied"}))),
		},
		"two-nodes-network": {spec: task(`"nodes":2`), eff: effective(profile("network", v1alpha1.LevelOpen, controls(v1alpha1.Controls{HostNetwork: "Denied"})))},
		"two-profiles":      {spec: task(`"privileged":true`), eff: effective(restricted, profile("all", v1alpha1.LevelBaseline, hint("See the wiki.")))},
		"same-hint":         {spec: task(`"privileged":true`), eff: effective(restricted, profile("all", v1alpha1.LevelBaseline, hint("Ask #gpu-platform.")))},
		"unmatched":         {spec: task(`"docker":true`), project: "fresh", eff: isolation.Resolve(isolation.Input{Server: strictServer, Now: noon})},
		"unmatched-control": {
			spec: task(`"volumes":[{"instance_path":"/etc","path":"/x"}],"privileged":true`), project: "fresh",
			eff: isolation.Resolve(isolation.Input{Server: openServer, Now: noon}),
		},
		"not-boolean":  {spec: task(`"privileged":"yes"`)},
		"not-readable": {spec: `{"configuration":{"type":"task","type":"service"}}`},
		"no-control":   {spec: `[]`, kind: dstack.KindFleet},
		"odd-characters": {
			spec:    task(`"volumes":[{"instance_path":"/a\u0000\u202e\"'\n` + strings.Repeat("ä", 80) + `","path":"/x"}]`),
			project: "research-\x1b[31m" + strings.Repeat("x", 100),
		},
		"long-path": {spec: task(`"volumes":[{"instance_path":"/` + strings.Repeat("a", 100_000) + `","path":"/x"}]`)},
		"too-long": {
			spec: ofType("service", `"groups":[`+strings.Repeat(`{"privileged":true},`, 40)+`{}],"volumes":[{"instance_path":"/etc","path":"/x"}]`),
		},
		"many-profiles": {spec: task(`"nodes":2,"privileged":true`), eff: effective(manyProfiles(60)...)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.eff == nil {
				tc.eff = effective(restricted)
			}
			req := runRequest(tc.spec)
			if tc.kind != "" {
				req.Kind = tc.kind
			}
			if tc.project != "" {
				req.Project = tc.project
			}
			d := policy.Decide(tc.eff, policy.Running{}, req, noon)
			checkConsistent(t, d)
			// Revisions are the business of package isolation.
			got := strings.Replace(d.Message, "rev="+tc.eff.Revision+"]", "rev=REVISION]", 1) + "\n"
			golden(t, filepath.Join("testdata", "messages", name+".txt"), got)
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; see with -update what changes\ngot  %s\nwant %s", file, got, want)
	}
}

func manyProfiles(n int) []v1alpha1.IsolationProfile {
	var all []v1alpha1.IsolationProfile
	for i := range n {
		all = append(all, profile(fmt.Sprintf("profile-%02d", i), v1alpha1.LevelRestricted, hint(fmt.Sprintf("Ask team number %02d.", i))))
	}
	return all
}

// TestMessageKeepsWhatMatters: however long it gets, each control, the hints,
// the revision and the number of reasons left out stay in.
func TestMessageKeepsWhatMatters(t *testing.T) {
	spec := `{"configuration":{"type":"service","nodes":2,"groups":[` + strings.Repeat(`{"privileged":true},`, 255) + `{"docker":true}],` +
		`"volumes":[` + strings.Repeat(`{"instance_path":"/etc","path":"/x"},`, 255) + `{"instance_path":"/","path":"/x"}]},"ssh_key_pub":""}`
	eff := effective(profile("research", v1alpha1.LevelRestricted, hint("Ask #gpu-platform.")))
	d := policy.Decide(eff, policy.Running{}, runRequest(spec), noon)
	checkConsistent(t, d)
	for _, control := range controlsOf(d.Reasons) {
		if !strings.Contains(d.Message, "control "+control+")") && !strings.Contains(d.Message, "controls hostNetwork and distributedTasks)") {
			t.Errorf("%s is not named: %s", control, d.Message)
		}
	}
	found := regexp.MustCompile(` And (\d+) more\. Ask #gpu-platform\. \[isolation rev=[0-9a-f]{8}\]$`).FindStringSubmatch(d.Message)
	if found == nil {
		t.Fatalf("the end is missing: %s", d.Message)
	}
	shown := strings.Count(d.Message, ", control")
	const inOneSentence = 2 // hostNetwork and distributedTasks
	if want := fmt.Sprint(len(d.Reasons) - (inOneSentence - 1) - shown); found[1] != want {
		t.Errorf("%s more, want %s", found[1], want)
	}
}

// TestNoSecrets: what may be a secret is in no message.
func TestNoSecrets(t *testing.T) {
	const secret = "hunter2"
	eff := effective(profile("research", v1alpha1.LevelRestricted))
	for _, spec := range []string{
		strings.Replace(task(""), "null", `"`+secret+`"`, 1),
		strings.Replace(task(""), "null", quoteJSON(t, plainKey+" "+secret+"$"), 1),
		task(`"env":"` + secret + `","privileged":true`),
		task(`"env":{"` + secret + `":"` + secret + `","` + secret + `":"` + secret + `"}`),
		task(`"privileged":"` + secret + `","nodes":"` + secret + `","volumes":["` + secret + `"]`),
		task(`"registry_auth":{"password":"` + secret + `","password":1}`),
		task(`"env":{"a":` + secret + `}`),
	} {
		d := policy.Decide(eff, policy.Running{}, runRequest(spec), noon)
		if d.Allowed {
			t.Errorf("allowed: %s", spec)
		}
		if text := fmt.Sprint(d); strings.Contains(text, secret) {
			t.Errorf("the secret is in %s", text)
		}
	}
}

// TestWorkIsBounded: no list makes more reasons than maxEntries entries do.
func TestWorkIsBounded(t *testing.T) {
	spec := ofType("service", `"volumes":[`+strings.Repeat(`{"instance_path":"/etc","path":"/x"},`, 9999)+`{"name":"a","path":"/x"}],`+
		`"setup":[`+strings.Repeat(`{"docker":true},`, 9999)+`1]`)
	d := decide(t, spec, profile("research", v1alpha1.LevelBaseline))
	count := make(map[string]int)
	for _, r := range d.Reasons {
		count[r.Control]++
	}
	for control, want := range map[string]int{policy.ControlSpec: 1, "instanceVolumes": 256, "privileged": 1} {
		if count[control] != want {
			t.Errorf("%d reasons of %s, want %d", count[control], control, want)
		}
	}
}
