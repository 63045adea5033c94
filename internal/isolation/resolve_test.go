package isolation

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestPresets holds what level version v1 means; it never changes.
func TestPresets(t *testing.T) {
	tests := map[Control][4]string{ // Open, Baseline, Restricted, Dedicated
		HostSSH:          {"Allowed", "Denied", "Denied", "Denied"},
		Privileged:       {"Allowed", "Denied", "Denied", "Denied"},
		InstanceVolumes:  {"Allowed", "Denied", "Denied", "Denied"},
		HostNetwork:      {"Allowed", "DistributedOnly", "Denied", "Denied"},
		DistributedTasks: {"Allowed", "Allowed", "Denied", "Denied"},

		ServiceRouters:         {"Allowed", "Allowed", "Allowed", "Allowed"},
		FleetEnvironment:       {"Allowed", "Denied", "Denied", "Denied"},
		SSHFleets:              {"Allowed", "Allowed", "Denied", "Denied"},
		SharedInstances:        {"Allowed", "Allowed", "Denied", "Denied"},
		ImportedFleets:         {"Allowed", "Allowed", "Denied", "Denied"},
		ImportedGateways:       {"Allowed", "Allowed", "Denied", "Denied"},
		ExistingVolumes:        {"Allowed", "Allowed", "Denied", "Denied"},
		ServerAccess:           {"Allowed", "Allowed", "Denied", "Denied"},
		ServicesWithoutGateway: {"Allowed", "Allowed", "Denied", "Denied"},
		Services:               {"Allowed", "Allowed", "Allowed", "Allowed"},
		Tags:                   {"Allowed", "Allowed", "Allowed", "Allowed"},

		Fleets:        {"Allowed", "Allowed", "Allowed", "Denied"}, // Dedicated needs a list
		Backends:      {"Allowed", "Allowed", "Allowed", "Allowed"},
		Registries:    {"Allowed", "Allowed", "Allowed", "Allowed"},
		UnknownFields: {"Allowed", "DeniedIfSet", "DeniedIfSet", "DeniedIfSet"},
	}
	if len(tests) != int(ControlCount) {
		t.Errorf("%d controls, %d of them tested", ControlCount, len(tests))
	}
	for c, want := range tests {
		for i, level := range []v1alpha1.Level{"Open", "Baseline", "Restricted", "Dedicated"} {
			e := resolve(newServer(level), newProfile("p", level, include("p")))
			for _, p := range []*Profile{e.Profiles[0], e.Unmatched} {
				if got := p.Values[c].Mode; got != want[i] || level != v1alpha1.LevelDedicated && len(p.Problems) > 0 {
					t.Errorf("%s under %s of %s is %s, want %s; problems %v", c.Name(), level, p.Ref, got, want[i], p.Problems)
				}
			}
		}
	}
	if _, known := Privileged.Preset("Strict"); known {
		t.Error("level Strict is known")
	}
}

// TestTable holds what other code takes for granted about the table.
func TestTable(t *testing.T) {
	for _, c := range AllControls() {
		if found, ok := ControlByName(c.Name()); !ok || found != c {
			t.Errorf("%s is not found by its name", c.Name())
		}
		modes := c.Modes()
		last := ModeDenied
		if c == UnknownFields {
			last = ModeDeniedIfSet
		}
		if modes[0] != ModeAllowed || modes[len(modes)-1] != last || c.Enforcer() == "" {
			t.Errorf("%s goes from %s to %s by %q", c.Name(), modes[0], modes[len(modes)-1], c.Enforcer())
		}
		hasList := slices.ContainsFunc(modes, func(m string) bool { return Value{Mode: m}.isList() })
		if hasList != (table[c].entry != nil) || hasList != (entriesOf(c) != nil) {
			t.Errorf("%s has a list and no rule or test for its entries, or the other way round", c.Name())
		}
		for i := range Levels() {
			preset := table[c].presets[i]
			if !slices.Contains(modes, preset) {
				t.Errorf("%s has the preset %s, which is no mode of it", c.Name(), preset)
			}
			if i > 0 && c.rank(Value{Mode: preset}) < c.rank(Value{Mode: table[c].presets[i-1]}) {
				t.Errorf("%s is looser under %s than under %s", c.Name(), Levels()[i], Levels()[i-1])
			}
		}
	}
	if _, ok := ControlByName("Privileged"); ok {
		t.Error("controls are found in any case")
	}
}

// allAllowed sets every control that has the value to Allowed.
func allAllowed() v1alpha1.Controls {
	return v1alpha1.Controls{
		HostSSH: "Allowed", Privileged: "Allowed", InstanceVolumes: &v1alpha1.InstanceVolumes{Mode: "Allowed"}, HostNetwork: "Allowed",
		DistributedTasks: "Allowed", ServiceRouters: "Allowed", FleetEnvironment: "Allowed", SSHFleets: "Allowed",
		SharedInstances: "Allowed", ImportedFleets: "Allowed", ImportedGateways: "Allowed", ExistingVolumes: "Allowed", ServerAccess: "Allowed",
		ServicesWithoutGateway: "Allowed", Services: "Allowed", Tags: "Allowed", UnknownFields: "Allowed",
	}
}

// TestUnknownValues: what this release does not know counts as the strictest,
// and is told.
func TestUnknownValues(t *testing.T) {
	all := make([]string, ControlCount)
	for i, c := range AllControls() {
		all[i] = string(c.Name())
	}
	notDenied := func(e *Effective) []string {
		var loose []string
		for _, c := range AllControls() {
			if !e.Profiles[0].Values[c].Equal(c.Strictest()) {
				loose = append(loose, string(c.Name()))
			}
		}
		return loose
	}
	tests := map[string]struct {
		change func(*spec)
		want   []string
		loose  []string // controls that are not denied
	}{
		"level": {
			func(s *spec) { s.Level = "Strict" },
			[]string{`spec.level: level "Strict" is not known to this release, so every control is denied: use Open, Baseline, Restricted or Dedicated`},
			nil,
		},
		"level version": {
			func(s *spec) { s.LevelVersion = "v9" },
			[]string{`spec.levelVersion: level version "v9" is not known to this release, so every control is denied: use v1`},
			nil,
		},
		"level version in audit mode": {
			func(s *spec) { s.LevelVersion, s.Enforcement = "v9", v1alpha1.EnforcementAudit },
			[]string{`spec.levelVersion: level version "v9" is not known to this release, so every control is denied: use v1`},
			nil,
		},
		"enforcement": {
			func(s *spec) { s.Enforcement = "Warn" },
			[]string{`spec.enforcement: enforcement "Warn" is not known to this release, so it is treated as Enforce: use Enforce or Audit`},
			all,
		},
		"level with overrides": {
			func(s *spec) {
				s.Level = "Strict"
				override(allAllowed())(s)
				except("x", "ada", time.Time{}, "privileged")(s)
			},
			[]string{`spec.level: level "Strict" is not known to this release, so every control is denied: use Open, Baseline, Restricted or Dedicated`},
			nil,
		},
		"level version with overrides": {
			func(s *spec) {
				s.LevelVersion = "v9"
				override(allAllowed())(s)
				except("x", "ada", time.Time{}, "privileged")(s)
			},
			[]string{`spec.levelVersion: level version "v9" is not known to this release, so every control is denied: use v1`},
			nil,
		},
		"values": {
			override(v1alpha1.Controls{
				HostSSH: "Maybe", Privileged: "denied", HostNetwork: "Sometimes", DistributedTasks: "No",
				InstanceVolumes: &v1alpha1.InstanceVolumes{Mode: "ReadOnly"}, ServiceRouters: "a", FleetEnvironment: "b",
				SSHFleets: "c", SharedInstances: "d", ImportedFleets: "e", ImportedGateways: "k", ExistingVolumes: "f", ServerAccess: "g",
				ServicesWithoutGateway: "h", Services: "i", Tags: "j", UnknownFields: "Denied",
				Fleets: &v1alpha1.AllowedFleets{}, Backends: &v1alpha1.AllowedBackends{}, Registries: &v1alpha1.AllowedRegistries{},
			}),
			[]string{
				`spec.controls.hostSSH: value "Maybe" is not known to this release, so it is treated as Denied`,
				`spec.controls.privileged: value "denied" is not known to this release, so it is treated as Denied`,
				`spec.controls.instanceVolumes: value "ReadOnly" is not known to this release, so it is treated as Denied`,
				`spec.controls.hostNetwork: value "Sometimes" is not known to this release, so it is treated as Denied`,
				`spec.controls.distributedTasks: value "No" is not known to this release, so it is treated as Denied`,
				`spec.controls.serviceRouters: value "a" is not known to this release, so it is treated as Denied`,
				`spec.controls.fleetEnvironment: value "b" is not known to this release, so it is treated as Denied`,
				`spec.controls.sshFleets: value "c" is not known to this release, so it is treated as Denied`,
				`spec.controls.sharedInstances: value "d" is not known to this release, so it is treated as Denied`,
				`spec.controls.importedFleets: value "e" is not known to this release, so it is treated as Denied`,
				`spec.controls.importedGateways: value "k" is not known to this release, so it is treated as Denied`,
				`spec.controls.existingVolumes: value "f" is not known to this release, so it is treated as Denied`,
				`spec.controls.serverAccess: value "g" is not known to this release, so it is treated as Denied`,
				`spec.controls.servicesWithoutGateway: value "h" is not known to this release, so it is treated as Denied`,
				`spec.controls.services: value "i" is not known to this release, so it is treated as Denied`,
				`spec.controls.tags: value "j" is not known to this release, so it is treated as Denied`,
				`spec.controls.unknownFields: value "Denied" is not known to this release, so it is treated as DeniedIfSet`,
			},
			nil,
		},
		"lists": {
			override(v1alpha1.Controls{
				Fleets:     &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a100", "a/b/c", "*", "a100\n"}},
				Backends:   &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"AWS", v1alpha1.BackendName(strings.Repeat("a", 120))}},
				Registries: &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"https://ghcr.io", "ghcr.io/Example", "ghcr.io"}},
			}),
			[]string{
				`spec.controls.fleets.allowed[1]: fleet "a/b/c" is not the name of a fleet, so it is not allowed: write it as NAME or PROJECT/NAME`,
				`spec.controls.fleets.allowed[2]: fleet "*" is not the name of a fleet, so it is not allowed: write it as NAME or PROJECT/NAME`,
				`spec.controls.fleets.allowed[3]: fleet "a100\n" is not the name of a fleet, so it is not allowed: write it as NAME or PROJECT/NAME`,
				`spec.controls.backends.allowed[0]: backend "AWS" is not the name of a backend, so it is not allowed: write it as dstack does, such as aws`,
				`spec.controls.backends.allowed[1]: backend "` + strings.Repeat("a", 100) + `…" is not the name of a backend, so it is not allowed: write it as dstack does, such as aws`,
				`spec.controls.registries.allowed[0]: registry "https://ghcr.io" is not the name of a registry, so it is not allowed: write it as HOST, HOST:PORT or HOST/PATH, in lower case`,
				`spec.controls.registries.allowed[1]: registry "ghcr.io/Example" is not the name of a registry, so it is not allowed: write it as HOST, HOST:PORT or HOST/PATH, in lower case`,
			},
			slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == "backends" }),
		},
		"storage classes": {
			override(v1alpha1.Controls{
				ExistingVolumes: "AllowedStorageClasses", StorageClasses: []v1alpha1.StorageClassName{"fast", "", "Fast", "fast\n"},
			}),
			[]string{
				`spec.controls.storageClasses[1]: storage class "" is not the name of a StorageClass, so it is not allowed: write it as Kubernetes does`,
				`spec.controls.storageClasses[2]: storage class "Fast" is not the name of a StorageClass, so it is not allowed: write it as Kubernetes does`,
				`spec.controls.storageClasses[3]: storage class "fast\n" is not the name of a StorageClass, so it is not allowed: write it as Kubernetes does`,
			},
			all,
		},
		"storage classes without a list": {
			override(v1alpha1.Controls{ExistingVolumes: "AllowedStorageClasses"}),
			nil,
			slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == "existingVolumes" }),
		},
		"Dedicated without a list": {
			func(s *spec) { s.Level = "Dedicated" },
			[]string{`spec.controls.fleets: level Dedicated needs a list of fleets and there is none, so every fleet is denied: list the fleets that belong to these projects alone`},
			[]string{"serviceRouters", "services", "tags", "backends", "registries"},
		},
		"paths": {
			allowPaths("/", "relative", "/a/../b", "//a", "/a/", "/a\n", "/good"),
			[]string{
				`spec.controls.instanceVolumes.paths[0]: path "/" is not absolute and clean, so it is not allowed: write it as /a/b`,
				`spec.controls.instanceVolumes.paths[1]: path "relative" is not absolute and clean, so it is not allowed: write it as /a/b`,
				`spec.controls.instanceVolumes.paths[2]: path "/a/../b" is not absolute and clean, so it is not allowed: write it as /a/b`,
				`spec.controls.instanceVolumes.paths[3]: path "//a" is not absolute and clean, so it is not allowed: write it as /a/b`,
				`spec.controls.instanceVolumes.paths[4]: path "/a/" is not absolute and clean, so it is not allowed: write it as /a/b`,
				`spec.controls.instanceVolumes.paths[5]: path "/a\n" is not absolute and clean, so it is not allowed: write it as /a/b`,
			},
			all,
		},
		"exception": {
			except("x", "ada", time.Time{}, "hostSSH", "sudo", "privileged"),
			[]string{
				`spec.exceptions[0].controls[0]: hostSSH cannot be lifted for single users, because dstack enforces it for the whole server: remove it, or set controls.hostSSH to Allowed`,
				`spec.exceptions[0].controls[1]: control "sudo" is not known to this release: remove it`,
			},
			all,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := resolve(newServer("Open"), newProfile("p", v1alpha1.LevelOpen, tc.change))
			var got []string
			for _, p := range e.Profiles[0].Problems {
				got = append(got, p.String())
				if p.Exception != strings.HasPrefix(p.Field, "spec.exceptions") {
					t.Errorf("%s: exception is %t", p, p.Exception)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.loose, notDenied(e)); diff != "" {
				t.Errorf("not denied (-want +got):\n%s", diff)
			}
			if !e.Profiles[0].Enforce {
				t.Error("does not enforce")
			}
		})
	}
}

func TestUnknownValuesOfServer(t *testing.T) {
	server := newServer("None")
	server.Spec.UnmatchedProjects.LevelVersion = "v0"
	server.Spec.UnmatchedProjects.Enforcement = "Off"
	e := resolve(server)
	want := []Problem{
		{Field: "spec.unmatchedProjects.levelVersion", Message: `level version "v0" is not known to this release, so every control is denied: use v1`},
		{Field: "spec.unmatchedProjects.enforcement", Message: `enforcement "Off" is not known to this release, so it is treated as Enforce: use Enforce or Audit`},
		{Field: "spec.unmatchedProjects.level", Message: `level "None" is not known to this release, so every control is denied: use Open, Baseline, Restricted or Dedicated`},
	}
	if diff := cmp.Diff(want, e.Unmatched.Problems); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	policy := e.ForProject("any").Enforced("ada", noon)
	for _, c := range AllControls() {
		if !policy[c].Value.Equal(c.Strictest()) {
			t.Errorf("%s is %s", c.Name(), policy[c].Value)
		}
	}
}

func TestForProject(t *testing.T) {
	e := resolve(newServer("Restricted"),
		newProfile("b", "Open", include("research-*", "Vision"), exclude("research-SANDBOX")),
		newProfile("a", "Open", include("*-nlp")),
		newProfile("watch", "Open", include("watched"), audited),
	)
	tests := map[string][]string{
		"research-nlp":      {"a", "b"},
		"RESEARCH-NLP":      {"a", "b"},
		"vision":            {"b"},
		"VISION":            {"b"},
		"vision2":           {""},
		"research-sandbox":  {""},
		"Research-Sandbox":  {""},
		"research-sandbox2": {"b"},
		"research":          {""},
		"watched":           {"watch"},
		"":                  {""},
	}
	for name, want := range tests {
		project := e.ForProject(name)
		var got []string
		for _, p := range project.Governing {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q is governed by %q, want %q", name, got, want)
		}
		if project.Name != name || project.Revision != e.Revision {
			t.Errorf("%q became %+v", name, project)
		}
	}
	if policy := e.ForProject("watched").Enforced("ada", noon); policy[Privileged].Mode != ModeAllowed {
		t.Error("unmatchedProjects holds for a project that a profile matches")
	}
	if !e.ForProject("watched").AuditOnly() || !e.ForProject("watched").HasAudit() || e.ForProject("vision").HasAudit() {
		t.Error("audit mode is not told apart")
	}
}

// TestOfOtherServers: profiles of another server or namespace have no say.
func TestOfOtherServers(t *testing.T) {
	other := newProfile("other", "Dedicated", func(s *spec) { s.ServerRef.Name = "second" })
	elsewhere := newProfile("elsewhere", "Dedicated")
	elsewhere.Namespace = "default"
	with, without := resolve(newServer("Open"), other, elsewhere), resolve(newServer("Open"))
	if len(with.Profiles) != 0 || with.Revision != without.Revision || !reflect.DeepEqual(with.Plan, Plan{NetworkMode: 2, loosest: with.Unmatched}) {
		t.Errorf("%d profiles, plan %+v", len(with.Profiles), with.Plan)
	}
}

func TestHints(t *testing.T) {
	hint := func(text string) func(*spec) { return func(s *spec) { s.Hint = text } }
	e := resolve(newServer("Open"),
		newProfile("c", "Open", hint(" Ask ada. ")), newProfile("b", "Open", hint("Ask bob.")),
		newProfile("a", "Open", hint("Ask ada.")), newProfile("d", "Open"))
	if diff := cmp.Diff([]string{"Ask ada.", "Ask bob."}, e.ForProject("x").Hints()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProfileByName(t *testing.T) {
	e := resolve(newServer("Open"), newProfile("b", "Open"), newProfile("a", "Open"))
	if p := e.Profile("a"); p == nil || p.Ref != "profile dstack/a" {
		t.Errorf("a is %+v", p)
	}
	if p := e.Profile("c"); p != nil {
		t.Errorf("c is %+v", p)
	}
}

// TestAtLeast: other profiles count where they certainly govern all projects of
// the profile.
func TestAtLeast(t *testing.T) {
	e := resolve(newServer("Dedicated"),
		newProfile("wide", "Open", include("team-*"), override(v1alpha1.Controls{Privileged: "Denied"})),
		newProfile("narrow", "Open", include("team-a", "team-b*"), override(v1alpha1.Controls{DistributedTasks: "Denied"})),
		newProfile("watch", "Dedicated", audited),
		newProfile("holed", "Dedicated", include("*"), exclude("team-b1")),
	)
	for name, want := range map[string][]string{
		"narrow": {"privileged", "distributedTasks"},
		"wide":   {"privileged"},
		"watch":  nil, // it audits, and holed leaves team-b1 out
	} {
		var denied []string
		for c, held := range e.AtLeast(e.Profile(name)) {
			if held.Mode != ModeAllowed {
				denied = append(denied, string(Control(c).Name()))
			}
		}
		if diff := cmp.Diff(want, denied); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestHeldBy(t *testing.T) {
	e := resolve(newServer("Open"),
		newProfile("c", "Open", allowPaths("/data", "/models")), newProfile("b", "Open", allowPaths("/data/x", "/scratch")),
		newProfile("a", "Open"), newProfile("d", "Open", allowPaths("/data/x")))
	held := e.ForProject("x").Enforced("ada", noon)[InstanceVolumes]
	if !held.Value.Equal(Value{ModeAllowedPaths, []string{"/data/x"}}) {
		t.Errorf("value is %s", held.Value)
	}
	var by []string
	for _, p := range held.By {
		by = append(by, p.Name)
	}
	if diff := cmp.Diff([]string{"b", "c", "d"}, by); diff != "" {
		t.Errorf("by (-want +got):\n%s", diff)
	}
}

func TestValueString(t *testing.T) {
	long := Value{ModeAllowedPaths, []string{"/" + strings.Repeat("ä", 200)}}
	for want, v := range map[string]Value{
		"Denied":                {Mode: ModeDenied},
		"AllowedPaths (/a, /b)": {ModeAllowedPaths, []string{"/a", "/b"}},
	} {
		if got := v.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if s := long.String(); len(s) > 256 || !strings.HasSuffix(s, "ä…)") {
		t.Errorf("long value is shown as %q, %d bytes", s, len(s))
	}
}
