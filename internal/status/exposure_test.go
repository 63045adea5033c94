package status_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

func exposure(server *testkit.Server, profiles ...*testkit.Profile) []ours.Exposed {
	in := isolation.Input{Server: server.Obj(), Now: time.Unix(0, 0)}
	for _, p := range profiles {
		in.Profiles = append(in.Profiles, *p.Obj())
	}
	return ours.Exposure(isolation.Resolve(in))
}

func TestExposure(t *testing.T) {
	audits := func() *testkit.Server { return testkit.MakeServer("main").Enforcement(v1alpha1.EnforcementAudit) }
	strict := testkit.MakeProfile("research").Include("research-*").Level(v1alpha1.LevelBaseline)
	const refused = "privileged, instanceVolumes, hostNetwork, fleetEnvironment, unknownFields"
	cases := map[string]struct {
		got  []ours.Exposed
		want []ours.Exposed
	}{
		"what nothing enforces is left out": {
			exposure(audits(), strict),
			[]ours.Exposed{{Profile: "research", Message: "profile dstack/research: not refused any more in projects research-*: " + refused}},
		},
		"the SSH proxy enforces hostSSH": {
			exposure(audits().SSHProxy(managed()), strict),
			[]ours.Exposed{{Profile: "research", Message: "profile dstack/research: not refused any more in projects research-*: hostSSH, " + refused}},
		},
		"rules": {
			exposure(audits(), testkit.MakeProfile("r").Level(v1alpha1.LevelOpen).Rule("no-a", "true", "no")),
			[]ours.Exposed{{Profile: "r", Message: "profile dstack/r: not refused any more in projects r-*: what its rules refuse"}},
		},
		"projects that no profile names come first": {
			exposure(testkit.MakeServer("main").Level(v1alpha1.LevelBaseline), strict)[:1],
			[]ours.Exposed{{Message: "unmatchedProjects of dstack/main: not refused any more in projects that no profile names: " + refused}},
		},
		"what refuses nothing is left out": {
			exposure(audits(), testkit.MakeProfile("open").Level(v1alpha1.LevelOpen), testkit.MakeProfile("audited").Level(v1alpha1.LevelRestricted).Audit()),
			nil,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.got); diff != "" {
				t.Errorf("Exposure (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExposureWarningsAreBounded(t *testing.T) {
	var all []ours.Exposed
	for i := range 12 {
		all = append(all, ours.Exposed{Profile: fmt.Sprint(i), Message: fmt.Sprint("profile ", i)})
	}
	got := ours.ExposureWarnings(all)
	want := []string{
		"profile 0", "profile 1", "profile 2", "profile 3", "profile 4", "profile 5", "profile 6", "profile 7", "profile 8", "profile 9",
		"2 more profiles refuse nothing any more",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ExposureWarnings (-want +got):\n%s", diff)
	}
	if got := ours.ExposureWarnings(all[:10]); len(got) != 10 {
		t.Errorf("ten are named: %v", got)
	}
}
