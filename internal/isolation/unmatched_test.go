package isolation

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestUnmatchedControls: they override the level as those of a profile do.
func TestUnmatchedControls(t *testing.T) {
	fleets := v1alpha1.Controls{Fleets: &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"b", "a"}}}
	version := withControls(newServer("Restricted"), allAllowed())
	version.Spec.UnmatchedProjects.LevelVersion = "v9"
	tests := map[string]struct {
		server *v1alpha1.DstackServer
		// want are the values that differ from those of the level.
		want     map[v1alpha1.ControlName]string
		problems []string
	}{
		"none":       {server: withControls(newServer("Restricted"), v1alpha1.Controls{})},
		"one looser": {server: withControls(newServer("Restricted"), v1alpha1.Controls{HostSSH: "Allowed"}), want: map[v1alpha1.ControlName]string{"hostSSH": "Allowed"}},
		"one stricter": {
			server: withControls(newServer("Open"), v1alpha1.Controls{Privileged: "Denied"}),
			want:   map[v1alpha1.ControlName]string{"privileged": "Denied"},
		},
		"a list": {server: withControls(newServer("Dedicated"), fleets), want: map[v1alpha1.ControlName]string{"fleets": "AllowedList (a, b)"}},
		"Dedicated without a list": {
			server:   withControls(newServer("Dedicated"), v1alpha1.Controls{}),
			problems: []string{"spec.unmatchedProjects.controls.fleets: level Dedicated needs a list of fleets and there is none, so every fleet is denied: list the fleets that belong to these projects alone"},
		},
		"Dedicated without controls": {
			server:   newServer("Dedicated"),
			problems: []string{"spec.unmatchedProjects.controls.fleets: level Dedicated needs a list of fleets and there is none, so every fleet is denied: list the fleets that belong to these projects alone"},
		},
		"a value that is not known": {
			server:   withControls(newServer("Open"), v1alpha1.Controls{Tags: "Later"}),
			want:     map[v1alpha1.ControlName]string{"tags": "Denied"},
			problems: []string{`spec.unmatchedProjects.controls.tags: value "Later" is not known to this release, so it is treated as Denied`},
		},
		"an entry that is not valid": {
			server:   withControls(newServer("Open"), v1alpha1.Controls{Backends: &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws", "AWS"}}}),
			want:     map[v1alpha1.ControlName]string{"backends": "AllowedList (aws)"},
			problems: []string{`spec.unmatchedProjects.controls.backends.allowed[1]: backend "AWS" is not the name of a backend, so it is not allowed: write it as dstack does, such as aws`},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := resolve(tc.server)
			policy := e.ForProject("any").Enforced("ada", noon)
			got := map[v1alpha1.ControlName]string{}
			for _, c := range AllControls() {
				preset, _ := c.Preset(tc.server.Spec.UnmatchedProjects.Level)
				if value := policy[c].String(); value != preset {
					got[c.Name()] = value
				}
			}
			if diff := cmp.Diff(tc.want, got, cmpEmpty); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var problems []string
			for _, p := range e.Unmatched.Problems {
				problems = append(problems, p.String())
			}
			if diff := cmp.Diff(tc.problems, problems); diff != "" {
				t.Errorf("problems, -want +got:\n%s", diff)
			}
		})
	}
	policy := resolve(version).ForProject("any").Enforced("ada", noon)
	for _, c := range AllControls() {
		if !policy[c].Value.Equal(c.Strictest()) {
			t.Errorf("under a level version that is not known, %s is %s", c.Name(), policy[c].Value)
		}
	}
}

// TestRefuses tells a policy under which anything is refused from one under which
// nothing is, whatever its level says.
func TestRefuses(t *testing.T) {
	watching := newServer("Restricted")
	watching.Spec.UnmatchedProjects.Enforcement = v1alpha1.EnforcementAudit
	lax := allAllowed()
	for name, tc := range map[string]struct {
		server *v1alpha1.DstackServer
		want   bool
	}{
		"open":                    {newServer("Open"), false},
		"restricted":              {newServer("Restricted"), true},
		"audited":                 {watching, false},
		"open, but for a control": {withControls(newServer("Open"), v1alpha1.Controls{Tags: "Denied"}), true},
		"all allowed by controls": {withControls(newServer("Restricted"), lax), false},
		"a level that is unknown": {newServer("Strict"), true},
	} {
		if got := resolve(tc.server).Unmatched.Refuses(); got != tc.want {
			t.Errorf("%s: refuses %t, want %t", name, got, tc.want)
		}
	}
}
