package isolation

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

func TestLooserInNewProjects(t *testing.T) {
	include := func(patterns ...v1alpha1.ProjectPattern) func(*spec) {
		return func(s *spec) { s.Projects.Include = patterns }
	}
	watching := newServer("Restricted")
	watching.Spec.UnmatchedProjects.Enforcement = v1alpha1.EnforcementAudit
	strictControls := &v1alpha1.Controls{Tags: "Denied", Backends: &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws"}}}
	strict := override(*strictControls)
	denied := func(level v1alpha1.Level) (names []v1alpha1.ControlName) {
		for _, c := range AllControls() {
			if mode, _ := c.Preset(level); c != HostSSH && mode != c.Loosest().Mode {
				names = append(names, c.Name())
			}
		}
		return names
	}
	tests := map[string]struct {
		server *v1alpha1.DstackServer
		others []v1alpha1.IsolationProfile
		more   func(*spec)
		want   []v1alpha1.ControlName
	}{
		"as strict":     {server: newServer("Restricted")},
		"open":          {server: newServer("Open"), want: denied("Restricted")},
		"only auditing": {server: watching, want: denied("Restricted")},
		"a little":      {server: newServer("Restricted"), more: strict, want: []v1alpha1.ControlName{"tags", "backends"}},
		"less by a control": {
			server: withControls(newServer("Restricted"), v1alpha1.Controls{Services: "Denied", SSHFleets: "Allowed"}),
			want:   []v1alpha1.ControlName{"sshFleets"},
		},
		"as strict by controls": {server: withControls(newServer("Restricted"), *strictControls), more: override(*strictControls)},
		"every name is matched": {
			server: newServer("Open"), others: []v1alpha1.IsolationProfile{newProfile("all", "Restricted", include("x", "*"))},
		},
		"every name is matched, and watched only": {
			server: newServer("Restricted"), others: []v1alpha1.IsolationProfile{newProfile("all", "Restricted", include("*"), audited)},
			want: denied("Restricted"),
		},
		"not every name": {
			server: newServer("Open"), want: denied("Restricted"),
			others: []v1alpha1.IsolationProfile{newProfile("all", "Restricted", include("*"), func(s *spec) { s.Projects.Exclude = []v1alpha1.ProjectPattern{"x"} })},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			own := newProfile("research", "Restricted", include("research-*"))
			if tc.more != nil {
				own = newProfile("research", "Restricted", include("research-*"), tc.more)
			}
			e := resolve(tc.server, append(tc.others, own)...)
			policy := e.AtLeast(e.Profile("research"))
			var got []v1alpha1.ControlName
			for _, c := range e.LooserInNewProjects(&policy) {
				got = append(got, c.Name())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
