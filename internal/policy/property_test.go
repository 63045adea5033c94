package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// model is a run as it is made up, with the controls that are to refuse it if
// each denies.
type model struct {
	spec    string
	denies  map[v1alpha1.ControlName]bool
	members []string
}

func (m *model) add(member string, control v1alpha1.ControlName) {
	m.members = append(m.members, member)
	if control != "" {
		m.denies[control] = true
	}
}

// drawRun makes up a run in one of dstack's shapes, its keys in any order.
func drawRun(t *rapid.T) model {
	m := model{denies: make(map[v1alpha1.ControlName]bool)}
	kind := rapid.SampledFrom([]string{"task", "service", "dev-environment"}).Draw(t, "type")
	m.add(fmt.Sprintf(`"type":%q`, kind), "")
	m.add(`"env":{"docker":"true","Privileged":"1"}`, "")
	for _, key := range []string{"privileged", "docker"} {
		m.add(drawFlag(t, key, m.denies), "")
	}
	if rapid.Bool().Draw(t, "volume") {
		m.add(`"volumes":[{"name":"a","path":"/a"},{"instance_path":"/etc","path":"/x","optional":true}]`, v1alpha1.ControlInstanceVolumes)
	}
	switch kind {
	case "task":
		drawNodes(t, &m)
	case "service":
		drawGroups(t, &m)
	}
	members := rapid.Permutation(m.members).Draw(t, "keys")
	spec := []string{`"configuration":{` + strings.Join(members, ",") + `}`, `"run_name":null`}
	key := rapid.SampledFrom([]string{`null`, `"` + plainKey + `"`, `"` + plainKey + ` x\n` + plainKey + `"`}).Draw(t, "key")
	m.denies[v1alpha1.ControlHostSSH] = strings.Contains(key, `\n`)
	spec = append(spec, `"ssh_key_pub":`+key)
	m.spec = `{` + strings.Join(rapid.Permutation(spec).Draw(t, "spec"), ",") + `}`
	return m
}

func drawFlag(t *rapid.T, key string, denies map[v1alpha1.ControlName]bool) string {
	value := rapid.SampledFrom([]string{"null", "false", "false", "true"}).Draw(t, key)
	if value == "true" {
		denies[v1alpha1.ControlPrivileged] = true
	}
	return fmt.Sprintf("%q:%s", key, value)
}

func drawNodes(t *rapid.T, m *model) {
	total := 1
	if rapid.Bool().Draw(t, "groups") {
		var groups []string
		counts := rapid.SliceOfN(rapid.IntRange(1, 3), 1, 3).Draw(t, "nodes of groups")
		total = 0
		for _, n := range counts {
			groups = append(groups, fmt.Sprintf(`{"nodes":%d}`, n))
			total += n
		}
		m.add(`"groups":[`+strings.Join(groups, ",")+`]`, "")
	} else if rapid.Bool().Draw(t, "has nodes") {
		total = rapid.IntRange(1, 3).Draw(t, "nodes")
		m.add(fmt.Sprintf(`"nodes":%d`, total), "")
	}
	m.denies[v1alpha1.ControlDistributedTasks] = total > 1
	m.denies[v1alpha1.ControlHostNetwork] = total > 1
}

// drawGroups uses the shape up to dstack 0.21.3 or the later one.
func drawGroups(t *rapid.T, m *model) {
	key, size := "groups", "replicas"
	if rapid.Bool().Draw(t, "older shape") {
		key, size = "replicas", "count"
	}
	var groups []string
	for range rapid.IntRange(0, 3).Draw(t, "number of groups") {
		flags := []string{drawFlag(t, "privileged", m.denies), drawFlag(t, "docker", m.denies), fmt.Sprintf(`%q:{"min":0,"max":2}`, size)}
		groups = append(groups, `{`+strings.Join(rapid.Permutation(flags).Draw(t, "group"), ",")+`}`)
	}
	m.add(fmt.Sprintf("%q:[%s]", key, strings.Join(groups, ",")), "")
}

func drawProfile(t *rapid.T, name string) v1alpha1.IsolationProfile {
	mode := func(control string, modes ...string) string {
		return rapid.SampledFrom(modes).Draw(t, name+" "+control)
	}
	volumes := &v1alpha1.InstanceVolumes{Mode: v1alpha1.InstanceVolumesMode(mode("instanceVolumes", "Allowed", "AllowedPaths", "Denied"))}
	if volumes.Mode == isolation.ModeAllowedPaths {
		volumes.Paths = []v1alpha1.InstancePath{"/data"}
	}
	p := profile(name, v1alpha1.LevelOpen, controls(v1alpha1.Controls{
		HostSSH:          v1alpha1.AllowedDenied(mode("hostSSH", "Allowed", "Denied")),
		Privileged:       v1alpha1.AllowedDenied(mode("privileged", "Allowed", "Denied")),
		HostNetwork:      v1alpha1.HostNetwork(mode("hostNetwork", "Allowed", "DistributedOnly", "Denied")),
		DistributedTasks: v1alpha1.AllowedDenied(mode("distributedTasks", "Allowed", "Denied")),
		InstanceVolumes:  volumes,
	}))
	if rapid.Bool().Draw(t, name+" audits") {
		audit(&p.Spec)
	}
	return p
}

// TestDecisionsFollowTheModel: a run is refused by exactly those controls that
// an enforcing profile denies and that the run is made to break, and audited by
// the others that a profile in audit mode denies.
func TestDecisionsFollowTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := drawRun(t)
		profiles := []v1alpha1.IsolationProfile{drawProfile(t, "a"), drawProfile(t, "b")}
		mode := rapid.SampledFrom([]v1alpha1.NetworkMode{0, 1, 2, 3}).Draw(t, "network mode")
		eff := effective(profiles...)
		d := policy.Decide(eff, policy.Running{NetworkMode: mode}, runRequest(run.spec), noon)

		refused, audited := map[string]bool{}, map[string]bool{}
		for _, p := range eff.Profiles {
			for _, c := range isolation.AllControls() {
				value := p.Values[c].Mode
				denies := value == isolation.ModeDenied || value == isolation.ModeAllowedPaths
				if c == isolation.HostNetwork && mode == 3 {
					denies = false
				}
				if denies && run.denies[c.Name()] {
					if p.Enforce {
						refused[string(c.Name())] = true
					} else {
						audited[string(c.Name())] = true
					}
				}
			}
		}
		for name := range refused {
			delete(audited, name)
		}
		if diff := cmp.Diff(sortedKeys(refused), slices.Compact(sorted(controlsOf(d.Reasons)))); diff != "" {
			t.Fatalf("%s\nrefused (-want +got):\n%s", run.spec, diff)
		}
		if diff := cmp.Diff(sortedKeys(audited), slices.Compact(sorted(controlsOf(d.Audited)))); diff != "" {
			t.Fatalf("%s\naudited (-want +got):\n%s", run.spec, diff)
		}
	})
}

func sorted(names []string) []string {
	all := append([]string{}, names...)
	slices.Sort(all)
	return all
}

func sortedKeys(set map[string]bool) []string {
	all := []string{}
	for name := range set {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
