package isolation

import "testing"

func TestProjects(t *testing.T) {
	cases := map[string]struct {
		change []func(*spec)
		want   string
	}{
		"some":     {[]func(*spec){include("research-*", "Team")}, "projects research-*, team"},
		"but some": {[]func(*spec){include("*"), exclude("main")}, "projects * without main"},
		"many":     {[]func(*spec){include("a", "b", "c", "d", "e", "f", "g")}, "projects a, b, c, d, e and 2 more"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e := resolve(newServer("Baseline"), newProfile("research", "Baseline", tc.change...))
			if got := e.Profiles[0].Projects(); got != tc.want {
				t.Errorf("Projects = %q, want %q", got, tc.want)
			}
		})
	}
	if got := resolve(newServer("Baseline")).Unmatched.Projects(); got != "projects that no profile names" {
		t.Errorf("Projects of unmatchedProjects = %q", got)
	}
}
