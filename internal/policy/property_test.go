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
	// profile has the members of the profile; noFleets tells that the run names
	// no fleet.
	profile  []string
	noFleets bool
	// docker tells whether docker is set anywhere.
	docker bool
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
		m.add(drawFlag(t, key, &m), "")
	}
	if rapid.Bool().Draw(t, "volume") {
		m.add(`"volumes":[{"name":"a","path":"/a"},{"instance_path":"/etc","path":"/x","optional":true}]`, v1alpha1.ControlInstanceVolumes)
	}
	drawPlacement(t, &m)
	switch kind {
	case "task":
		drawNodes(t, &m)
	case "service":
		drawGroups(t, &m)
		drawService(t, &m)
	}
	drawOthers(t, &m)
	members := rapid.Permutation(m.members).Draw(t, "keys")
	inProfile := rapid.Permutation(append(m.profile, `"name":"p"`)).Draw(t, "keys of the profile")
	spec := []string{
		`"configuration":{` + strings.Join(members, ",") + `}`, `"run_name":null`,
		`"profile":{` + strings.Join(inProfile, ",") + `}`,
	}
	key := rapid.SampledFrom([]string{`null`, `"` + plainKey + `"`, `"` + plainKey + ` x\n` + plainKey + `"`}).Draw(t, "key")
	m.denies[v1alpha1.ControlHostSSH] = strings.Contains(key, `\n`)
	spec = append(spec, `"ssh_key_pub":`+key)
	m.spec = `{` + strings.Join(rapid.Permutation(spec).Draw(t, "spec"), ",") + `}`
	return m
}

func drawFlag(t *rapid.T, key string, m *model) string {
	value := rapid.SampledFrom([]string{"null", "false", "false", "true"}).Draw(t, key)
	if value == "true" {
		m.denies[v1alpha1.ControlPrivileged] = true
		m.docker = m.docker || key == "docker"
	}
	return fmt.Sprintf("%q:%s", key, value)
}

// drawList puts a key into configuration and profile, or leaves it out, and
// returns what dstack takes of both.
func drawList(t *rapid.T, m *model, key string, values ...string) string {
	values = append(values, "", "null", "[]")
	configured := rapid.SampledFrom(values).Draw(t, key)
	profiled := rapid.SampledFrom(values).Draw(t, key+" of the profile")
	if configured != "" {
		m.add(fmt.Sprintf("%q:%s", key, configured), "")
	}
	if profiled != "" {
		m.profile = append(m.profile, fmt.Sprintf("%q:%s", key, profiled))
	}
	if configured == "" || configured == "null" {
		return profiled
	}
	return configured
}

func drawPlacement(t *rapid.T, m *model) {
	fleets := drawList(t, m, "fleets", `["a100"]`, `[{"project":null,"name":"a100"}]`, `["a100","b"]`, `["other/a100"]`, `["research-nlp/a100"]`)
	m.noFleets = fleets == "" || fleets == "null" || fleets == "[]"
	imported, elsewhere := strings.Contains(fleets, "other"), strings.Contains(fleets, "other") || strings.Contains(fleets, `"b"`)
	instances := drawList(t, m, "instances", `[{"fleet":"a100","instance":0}]`, `[{"hostname":"a100"}]`, `[{"fleet":{"project":"other","name":"a100"},"instance":0}]`)
	m.denies[v1alpha1.ControlImportedFleets] = imported || strings.Contains(instances, "other")
	m.denies[v1alpha1.ControlFleets] = elsewhere || strings.Contains(instances, "other") || strings.Contains(instances, "hostname")
	backends := drawList(t, m, "backends", `["aws"]`, `["gcp","aws"]`, `["aws","lium"]`)
	m.denies[v1alpha1.ControlBackends] = !strings.Contains(backends, "aws") || strings.Contains(backends, "lium")
}

func drawService(t *rapid.T, m *model) {
	m.denies[v1alpha1.ControlServices] = true
	gateway := rapid.SampledFrom([]string{"", "null", "false", "true", `"g"`, `{"project":null,"name":"g"}`}).Draw(t, "gateway")
	m.denies[v1alpha1.ControlServicesWithoutGateway] = gateway == "" || gateway == "null" || gateway == "false"
	if gateway != "" {
		m.add(`"gateway":`+gateway, "")
	}
}

func drawOthers(t *rapid.T, m *model) {
	for _, member := range []struct {
		name    string
		control v1alpha1.ControlName
		denied  []string
		allowed []string
	}{
		{"dstack", v1alpha1.ControlServerAccess, []string{"true"}, []string{"null", "false"}},
		{"tags", v1alpha1.ControlTags, []string{`{"a":""}`}, []string{"null", "{}"}},
		{"new_field", v1alpha1.ControlUnknownFields, []string{"1", `[{"a":true}]`}, []string{"null", "0", `[{"a":""}]`}},
		{"resources", v1alpha1.ControlUnknownFields, []string{`{"gpu":{"new":1}}`}, []string{"null", `{"cpu":{"count":{"min":2}}}`}},
	} {
		value := rapid.SampledFrom(append(member.denied, member.allowed...)).Draw(t, member.name)
		m.add(fmt.Sprintf("%q:%s", member.name, value), "")
		for _, denied := range member.denied {
			m.denies[member.control] = m.denies[member.control] || value == denied
		}
	}
	image := rapid.SampledFrom([]string{"null", `"ghcr.io/example/a:1"`, `"quay.io/example/a"`}).Draw(t, "image")
	m.add(`"image":`+image, "")
	m.denies[v1alpha1.ControlRegistries] = !strings.Contains(image, "ghcr") || m.docker
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
		router := rapid.SampledFrom([]string{"null", "null", `{"type":"x"}`}).Draw(t, "router")
		m.denies[v1alpha1.ControlServiceRouters] = m.denies[v1alpha1.ControlServiceRouters] || router != "null"
		flags := []string{
			drawFlag(t, "privileged", m), drawFlag(t, "docker", m), fmt.Sprintf(`%q:{"min":0,"max":2}`, size), `"router":` + router,
		}
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

		ServiceRouters:         v1alpha1.AllowedDenied(mode("serviceRouters", "Allowed", "Denied")),
		ImportedFleets:         v1alpha1.AllowedDenied(mode("importedFleets", "Allowed", "Denied")),
		ServerAccess:           v1alpha1.AllowedDenied(mode("serverAccess", "Allowed", "Denied")),
		ServicesWithoutGateway: v1alpha1.AllowedDenied(mode("servicesWithoutGateway", "Allowed", "Denied")),
		Services:               v1alpha1.AllowedDenied(mode("services", "Allowed", "Denied")),
		Tags:                   v1alpha1.AllowedDenied(mode("tags", "Allowed", "Denied")),
		UnknownFields:          v1alpha1.UnknownFields(mode("unknownFields", "Allowed", "DeniedIfSet")),
	}))
	if mode("fleets", "", "list") != "" {
		p.Spec.Controls.Fleets = &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a100"}}
	}
	if mode("backends", "", "list") != "" {
		p.Spec.Controls.Backends = &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws", "gcp"}}
	}
	if mode("registries", "", "list") != "" {
		p.Spec.Controls.Registries = &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"ghcr.io/example"}}
	}
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
		listed := false
		for _, p := range eff.Profiles {
			listed = listed || p.Enforce && p.Values[isolation.Fleets].Mode == isolation.ModeAllowedList
			for _, c := range isolation.AllControls() {
				value := p.Values[c].Mode
				denies := value != isolation.ModeAllowed && value != isolation.ModeDistributedOnly
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
		if filled, want := d.Filled != nil, d.Allowed && listed && run.noFleets; filled != want {
			t.Fatalf("%s\nfilled is %t, want %t", run.spec, filled, want)
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
