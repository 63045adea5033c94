package status_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// end is the moment of the documented example.
var end = time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC)

// TestExceptionsToTheSecond: what is said of an exception changes in the second in
// which it ends, and Ready does not.
func TestExceptionsToTheSecond(t *testing.T) {
	const none, one = "ExceptionsCurrent=True/NoneExpired: no exception has ended",
		"ExceptionsCurrent=False/ExceptionExpired: exception nlp-lead ended on 2026-12-31 at 23:59 UTC: remove what has ended from spec.exceptions, or set a later expiresAt"
	for name, tc := range map[string]struct {
		at    time.Time
		state v1alpha1.ExceptionState
		want  string
	}{
		"long before":     {end.Add(-time.Hour), v1alpha1.ExceptionActive, none},
		"a second before": {end.Add(-time.Second), v1alpha1.ExceptionActive, none},
		"when it ends":    {end, v1alpha1.ExceptionExpired, one},
		"long after":      {end.Add(time.Hour), v1alpha1.ExceptionExpired, one},
	} {
		t.Run(name, func(t *testing.T) {
			o := restricted("research").Exception("nlp-lead", end, v1alpha1.ControlPrivileged, v1alpha1.ControlTags).Users("ada", "eve").
				Exception("for-ever", time.Time{}, v1alpha1.ControlTags).
				Exception("of-no-use", end.Add(2*time.Hour), v1alpha1.ControlHostSSH).Obj()
			e := resolve(restrictedServer().Obj(), o)
			got := ours.Profile(o, goodView(e), tc.at)
			checkConditions(t, got.Conditions, profileConditions, 1)
			mustBe(t, got.Conditions, v1alpha1.ConditionExceptionsCurrent, tc.want)
			want := []v1alpha1.ExceptionStatus{
				{
					Name: "nlp-lead", State: tc.state, ExpiresAt: &metav1.Time{Time: end}, Users: 2,
					Controls: []v1alpha1.ControlName{v1alpha1.ControlPrivileged, v1alpha1.ControlTags},
				},
				{Name: "for-ever", State: v1alpha1.ExceptionActive, Users: 1, Controls: []v1alpha1.ControlName{v1alpha1.ControlTags}},
				{
					Name: "of-no-use", State: v1alpha1.ExceptionInactive, ExpiresAt: &metav1.Time{Time: end.Add(2 * time.Hour)}, Users: 1,
					Controls: []v1alpha1.ControlName{v1alpha1.ControlHostSSH},
				},
			}
			if diff := cmp.Diff(want, got.Exceptions); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Ready says what is in force; that an exception has ended changes nothing of it.
func TestExpiredExceptionsAreNoPartOfReady(t *testing.T) {
	o := restricted("research").Exception("nlp-lead", end, v1alpha1.ControlPrivileged).Obj()
	e := resolve(restrictedServer().Obj(), o)
	for _, at := range []time.Time{end.Add(-time.Second), end} {
		got := ours.Profile(o, goodView(e), at)
		checkConditions(t, got.Conditions, profileConditions, 1)
		mustBe(t, got.Conditions, v1alpha1.ConditionReady, "Ready=True/Ready: every policy server decides by this profile and every server pod asks them")
		mustBe(t, got.Conditions, v1alpha1.ConditionStalled, "Stalled=False/Succeeded: nobody has to act")
	}
}

func TestExpiredExceptionsAreNamed(t *testing.T) {
	some := func(n int) *testkit.Profile {
		p := restricted("research")
		for i := range n {
			p.Exception(string(rune('a'+i)), end.Add(-time.Duration(i)*24*time.Hour), v1alpha1.ControlPrivileged)
		}
		return p
	}
	const first, remedy = "exception a ended on 2026-12-31 at 23:59 UTC, exception b ended on 2026-12-30 at 23:59 UTC, exception c ended on 2026-12-29 at 23:59 UTC",
		": remove what has ended from spec.exceptions, or set a later expiresAt"
	for n, want := range map[int]string{3: first + remedy, 5: first + " and 2 more" + remedy} {
		o := some(n).Obj()
		got := ours.Profile(o, goodView(resolve(restrictedServer().Obj(), o)), end)
		mustBe(t, got.Conditions, v1alpha1.ConditionExceptionsCurrent, "ExceptionsCurrent=False/ExceptionExpired: "+want)
	}
}

// With a level that is not known no exception holds, so none is called active.
func TestExceptionsOfALevelThatIsNotKnown(t *testing.T) {
	o := restricted("research").Level("Paranoid").Exception("x", end, v1alpha1.ControlPrivileged).Obj()
	got := ours.Profile(o, goodView(resolve(restrictedServer().Obj(), o)), end.Add(-time.Hour))
	if got.Exceptions[0].State != v1alpha1.ExceptionInactive {
		t.Errorf("it is %s", got.Exceptions[0].State)
	}
}

// A profile without a server is not looked at again when an exception ends.
func TestExceptionsWithoutServer(t *testing.T) {
	o := restricted("research").Exception("x", end, v1alpha1.ControlPrivileged).Obj()
	got := ours.ProfileWithoutServer(o, end.Add(-time.Hour))
	if c := condition(got.Conditions, v1alpha1.ConditionExceptionsCurrent); c.Status != metav1.ConditionUnknown || len(got.Exceptions) > 0 {
		t.Errorf("got %+v", got)
	}
}

// TestProfilesAccepted: the server names the profiles that are not accepted, the
// reason is that of the worst, and Ready does not wait for them.
func TestProfilesAccepted(t *testing.T) {
	const remedy = ": see condition Accepted of each"
	fine, broken := restricted("fine"), restricted("research").Rule("fine", `user != "eve"`, "no").Rule("typo", "objct.x", "no")
	level, useless := restricted("level").Level("Paranoid"), restricted("useless").Exception("x", end, v1alpha1.ControlHostSSH)
	for name, tc := range map[string]struct {
		profiles []*testkit.Profile
		want     string
	}{
		"none":      {nil, "True/Accepted: no profile names this DstackServer"},
		"one":       {[]*testkit.Profile{fine}, "True/Accepted: the only profile is accepted"},
		"two":       {[]*testkit.Profile{fine, restricted("more")}, "True/Accepted: all 2 profiles are accepted"},
		"a rule":    {[]*testkit.Profile{fine, broken}, "False/RulesInvalid: 1 of 2 profiles is not accepted: research (spec.rules[1].expression)" + remedy},
		"the only":  {[]*testkit.Profile{broken}, "False/RulesInvalid: 1 of 1 profile is not accepted: research (spec.rules[1].expression)" + remedy},
		"a level":   {[]*testkit.Profile{fine, level, useless}, "False/InvalidSpec: 2 of 3 profiles are not accepted: level (spec.level), useless (spec.exceptions[0].controls[0])" + remedy},
		"exception": {[]*testkit.Profile{useless}, "False/InvalidException: 1 of 1 profile is not accepted: useless (spec.exceptions[0].controls[0])" + remedy},
		"all": {
			[]*testkit.Profile{useless, level, broken, restricted("z").Level("Odd")},
			"False/RulesInvalid: 4 of 4 profiles are not accepted: level (spec.level), research (spec.rules[1].expression), useless (spec.exceptions[0].controls[0]) and 1 more" + remedy,
		},
		"a rule after an exception": {
			[]*testkit.Profile{restricted("both").Exception("x", end, v1alpha1.ControlHostSSH).Rule("typo", "objct.x", "no")},
			"False/RulesInvalid: 1 of 1 profile is not accepted: both (spec.rules[0].expression)" + remedy,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := testkit.MakeServer("main").Generation(1).Obj()
			var all []*v1alpha1.IsolationProfile
			for _, p := range tc.profiles {
				all = append(all, p.Obj())
			}
			got := ours.Server(s, goodFacts(resolve(s, all...)), now)
			checkConditions(t, got.Conditions, serverConditions, 1)
			mustBe(t, got.Conditions, v1alpha1.ConditionProfilesAccepted, "ProfilesAccepted="+tc.want)
			if c := condition(got.Conditions, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
				t.Errorf("Ready is %s: %s", c.Status, c.Message)
			}
		})
	}
	s := testkit.MakeServer("main").Generation(1).Obj()
	mustBe(t, ours.Server(s, ours.ServerFacts{}, now).Conditions, v1alpha1.ConditionProfilesAccepted, "ProfilesAccepted=Unknown/Pending: not looked at yet")
}

// A profile is only called InvalidException where the rest of it is in force, and its
// server then agrees.
func TestAcceptedByTheWorstProblem(t *testing.T) {
	for name, tc := range map[string]struct {
		profile      *testkit.Profile
		want, server string
	}{
		"an exception":              {restricted("p").Exception("x", end, v1alpha1.ControlHostSSH), v1alpha1.ReasonInvalidException, v1alpha1.ReasonInvalidException},
		"a rule":                    {restricted("p").Rule("typo", "objct.x", "no"), v1alpha1.ReasonInvalidSpec, v1alpha1.ReasonRulesInvalid},
		"a rule after an exception": {restricted("p").Exception("x", end, v1alpha1.ControlHostSSH).Rule("typo", "objct.x", "no"), v1alpha1.ReasonInvalidSpec, v1alpha1.ReasonRulesInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s, o := testkit.MakeServer("main").Generation(1).Obj(), tc.profile.Obj()
			e := resolve(s, o)
			got := condition(ours.Profile(o, goodView(e), now).Conditions, v1alpha1.ConditionAccepted)
			if got.Status != metav1.ConditionFalse || got.Reason != tc.want {
				t.Errorf("got %s/%s, want False/%s", got.Status, got.Reason, tc.want)
			}
			if got := condition(ours.Server(s, goodFacts(e), now).Conditions, v1alpha1.ConditionProfilesAccepted).Reason; got != tc.server {
				t.Errorf("the server says %s, want %s", got, tc.server)
			}
		})
	}
}
