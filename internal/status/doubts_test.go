package status_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// doubting is a doubt that was found an hour ago.
func doubting(reason string) []v1alpha1.SettingsDoubt {
	return []v1alpha1.SettingsDoubt{{Reason: v1alpha1.SettingsDoubtReason(reason), Message: "fix it", Since: metav1.NewTime(now.Add(-time.Hour))}}
}

func TestDoubts(t *testing.T) {
	const disabled, clash, hidden = v1alpha1.ReasonConfigDisabled, v1alpha1.ReasonConfigMountClash, v1alpha1.ReasonSettingHidden
	variables := []string{disabled, hidden}
	found := func(reason string) ours.Finding { return ours.Stuck(reason, "fix it") }
	cases := map[string]struct {
		before []v1alpha1.SettingsDoubt
		looked []string
		found  []ours.Finding
		want   map[string]time.Duration // how long it has stood
	}{
		"none":                                  {nil, variables, []ours.Finding{{}, {}}, nil},
		"a new one":                             {nil, variables, []ours.Finding{{}, found(disabled)}, map[string]time.Duration{disabled: 0}},
		"the same one again":                    {doubting(disabled), variables, []ours.Finding{found(disabled)}, map[string]time.Duration{disabled: time.Hour}},
		"one that was cleared":                  {doubting(disabled), variables, []ours.Finding{{}}, nil},
		"one of another kind stays":             {doubting(clash), variables, []ours.Finding{{}}, map[string]time.Duration{clash: time.Hour}},
		"one of another kind beside a new one":  {doubting(clash), variables, []ours.Finding{found(hidden)}, map[string]time.Duration{clash: time.Hour, hidden: 0}},
		"nothing was looked at":                 {doubting(clash), nil, nil, map[string]time.Duration{clash: time.Hour}},
		"nothing was looked at, and it is said": {doubting(clash), nil, []ours.Finding{found(clash)}, map[string]time.Duration{clash: time.Hour}},
		"twice":                                 {nil, variables, []ours.Finding{found(hidden), found(hidden)}, map[string]time.Duration{hidden: 0}},
		"what is no doubt":                      {nil, variables, []ours.Finding{found(v1alpha1.ReasonFieldConflict)}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got map[string]time.Duration
			for _, d := range ours.Doubts(tc.before, tc.looked, tc.found, now) {
				if got == nil {
					got = map[string]time.Duration{}
				}
				got[string(d.Reason)] = now.Sub(d.Since.Time)
				if d.Message != "fix it" {
					t.Errorf("%s says %q", d.Reason, d.Message)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	long := ours.Doubts(nil, variables, []ours.Finding{ours.Stuck(disabled, strings.Repeat("x", 2000))}, now)
	if n := len(long[0].Message); n > 1024 {
		t.Errorf("a message of %d bytes is more than the API allows", n)
	}
}

// A profile is not in force while a doubt stands, whatever reason its server shows, and
// neither while the server's version does not query the plugin about every run.
func TestProfileWhileADoubtStands(t *testing.T) {
	settings := map[string]ours.Finding{
		"applied":          ours.OK(v1alpha1.ReasonApplied, "applied"),
		"rolling out":      ours.Waiting(v1alpha1.ReasonRolloutInProgress, "wait"),
		"awaits the proxy": ours.Waiting(v1alpha1.ReasonWaitingForSSHProxy, "wait"),
		"failed":           ours.Unknown(v1alpha1.ReasonReconcileError, "etcd is away"),
		"not reached":      {},
	}
	connected := map[string]ours.Finding{
		"token rejected": ours.Stuck(v1alpha1.ReasonTokenRejected, "write it"),
		"no token":       ours.Stuck(v1alpha1.ReasonTokenNotFound, "make it"),
		"unreachable":    ours.Waiting(v1alpha1.ReasonUnreachable, "no answer"),
		"no pods":        ours.Unknown(v1alpha1.ReasonNoServerPods, "none"),
		"not reached":    {},
	}
	check := func(name string, change func(*ours.ServerFacts), want string) {
		t.Run(name, func(t *testing.T) {
			s := testkit.MakeServer("main").Generation(1).Obj()
			profile := restricted("research").Obj()
			e := resolve(s, profile)
			f := goodFacts(e)
			change(&f)
			s.Status = ours.Server(s, f, now)
			got := ours.Profile(profile, ours.ViewOf(s, e), now)
			mustBe(t, got.Conditions, v1alpha1.ConditionProgrammed, want)
			for _, row := range got.Effective {
				if row.Standing == v1alpha1.StandingEnforced {
					t.Errorf("%s counts as enforced", row.Control)
				}
			}
		})
	}
	for reason, text := range map[string]string{
		v1alpha1.ReasonConfigDisabled:   "the server is told to read no config.yml, so it may load no plugin",
		v1alpha1.ReasonConfigMountClash: "the server's config.yml may not name the plugin",
		v1alpha1.ReasonSettingHidden:    "the server may not have a setting as the operator wrote it",
	} {
		for name, finding := range settings {
			check(reason+", "+name, func(f *ours.ServerFacts) { f.Settings, f.Doubts = finding, doubting(reason) },
				"Programmed=False/SettingsNotRunning: "+text+": see SettingsApplied of DstackServer main")
		}
	}
	for name, finding := range connected {
		check("old version, "+name, func(f *ours.ServerFacts) { f.Connected, f.Version = finding, ours.Version{Release: "0.20.28"} },
			"Programmed=False/SettingsNotRunning: dstack 0.20.28 creates runs by POST /api/project/NAME/runs/submit without asking any plugin: upgrade to 0.21.0 or later: see Connected of DstackServer main")
		check("no version, "+name, func(f *ours.ServerFacts) { f.Connected, f.Version = finding, ours.Version{} },
			"Programmed=False/SettingsNotRunning: no server pod has reported its dstack version yet: see Connected of DstackServer main")
	}
}

func TestVersionSeen(t *testing.T) {
	type v = ours.Version
	cases := map[string]struct {
		before   v
		reported []string
		all      bool
		want     v
	}{
		"no process answers":                       {v{Release: "0.20.28"}, nil, false, v{Release: "0.20.28"}},
		"all are upgraded":                         {v{Release: "0.20.28"}, []string{"0.22.5", "0.22.5"}, true, v{Release: "0.22.5"}},
		"one is upgraded, another does not answer": {v{Release: "0.20.28"}, []string{"0.22.5"}, false, v{Release: "0.20.28"}},
		"one is older, another does not answer":    {v{Release: "0.22.5"}, []string{"0.20.28"}, false, v{Release: "0.20.28"}},
		"the oldest counts":                        {v{}, []string{"0.22.5", "0.20.28"}, true, v{Release: "0.20.28"}},
		"a development build":                      {v{}, []string{""}, true, v{Development: true}},
		"a development build hides no old one":     {v{}, []string{"", "0.20.28"}, true, v{Release: "0.20.28", Development: true}},
		"an old one beside a development build":    {v{}, []string{"0.20.28", ""}, true, v{Release: "0.20.28", Development: true}},
		"a development build that was replaced":    {v{Development: true}, []string{"0.22.5"}, true, v{Release: "0.22.5"}},
		"what is not understood is the oldest":     {v{}, []string{"0.22.5", "latest"}, true, v{Release: "latest"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.before.Seen(tc.reported, tc.all); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}
