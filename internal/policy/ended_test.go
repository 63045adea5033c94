package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
)

// ends is the moment of the documented example.
var ends = time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC)

func except(name string, at time.Time, controls []v1alpha1.ControlName, users ...string) func(*v1alpha1.IsolationProfileSpec) {
	return func(s *v1alpha1.IsolationProfileSpec) {
		s.Exceptions = append(s.Exceptions, v1alpha1.Exception{
			Name: name, Users: users, Controls: controls, Reason: "r", ExpiresAt: &metav1.Time{Time: at},
		})
	}
}

// TestEndedExceptions: a refusal says that an exception of its user has ended, and
// only to whom it named, and only where it would have lifted what refuses.
func TestEndedExceptions(t *testing.T) {
	const sentence = " The exception nlp-lead of profile dstack/research ended on 2026-12-31 at 23:59 UTC."
	lead := except("nlp-lead", ends, []v1alpha1.ControlName{"privileged", "instanceVolumes"}, "ada", "eve")
	privileged := task(`"privileged":true`)
	both := task(`"privileged":true,"volumes":[{"instance_path":"/etc","path":"/x"},{"instance_path":"/usr","path":"/y"}]`)
	for name, tc := range map[string]struct {
		spec, user string
		at         time.Time
		change     []func(*v1alpha1.IsolationProfileSpec)
		want       string
		allowed    bool
	}{
		"a second before":            {spec: privileged, user: "ada", at: ends.Add(-time.Second), allowed: true},
		"when it ends":               {spec: privileged, user: "ada", at: ends, want: sentence},
		"long after":                 {spec: privileged, user: "eve", at: ends.Add(1000 * time.Hour), want: sentence},
		"to another user":            {spec: privileged, user: "bob", at: ends},
		"to a user in another case":  {spec: privileged, user: "Ada", at: ends},
		"before, to another user":    {spec: privileged, user: "bob", at: ends.Add(-time.Second)},
		"for two controls once":      {spec: both, user: "ada", at: ends, want: sentence},
		"not for another control":    {spec: task(`"nodes":2`), user: "ada", at: ends},
		"not when nothing is denied": {spec: task(``), user: "ada", at: ends, allowed: true},
		"not for what no exception lifts": {
			spec: `{"configuration":{"type":"task"},"ssh_key_pub":"a\nb"}`, user: "ada", at: ends,
			change: []func(*v1alpha1.IsolationProfileSpec){except("all", ends, []v1alpha1.ControlName{"hostSSH"}, "ada")},
		},
		"the last of several": {
			spec: privileged, user: "ada", at: ends,
			change: []func(*v1alpha1.IsolationProfileSpec){except("first", ends.Add(-time.Hour), []v1alpha1.ControlName{"privileged"}, "ada")},
			want:   sentence,
		},
		"not beside one that holds": {
			spec: privileged, user: "ada", at: ends, allowed: true,
			change: []func(*v1alpha1.IsolationProfileSpec){except("next", ends.Add(time.Hour), []v1alpha1.ControlName{"privileged"}, "ada")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := profile("research", v1alpha1.LevelRestricted, append(tc.change, lead)...)
			req := runRequest(tc.spec)
			req.User = tc.user
			d := policy.Decide(effective(p), policy.Running{NetworkMode: 3}, req, tc.at)
			checkConsistent(t, d)
			if d.Allowed != tc.allowed {
				t.Fatalf("allowed %v: %s", d.Allowed, d.Message)
			}
			if got := strings.Count(d.Message, "exception"); got != strings.Count(tc.want, "exception") {
				t.Errorf("got %s", d.Message)
			}
			if tc.want != "" && !strings.HasSuffix(d.Message, "."+tc.want+" [isolation rev="+d.Revision+"]") {
				t.Errorf("got %s", d.Message)
			}
			if strings.Contains(d.Message, "reason") {
				t.Errorf("the reason of the exception is told: %s", d.Message)
			}
		})
	}
}

// Whether it is said stands before the hint, and a profile that only audits has
// none.
func TestEndedExceptionsOfSeveralProfiles(t *testing.T) {
	privilegedOnly := []v1alpha1.ControlName{"privileged"}
	audits := profile("audits", v1alpha1.LevelRestricted, except("x", ends, privilegedOnly, "ada"))
	audits.Spec.Enforcement = v1alpha1.EnforcementAudit
	eff := effective(
		profile("first", v1alpha1.LevelRestricted, except("x", ends, privilegedOnly, "ada"), hint("Ask #gpu.")),
		profile("second", v1alpha1.LevelRestricted, except("y", ends.Add(-24*time.Hour), privilegedOnly, "ada")),
		audits)
	d := policy.Decide(eff, policy.Running{NetworkMode: 3}, runRequest(task(`"privileged":true`)), ends)
	want := " The exception x of profile dstack/first ended on 2026-12-31 at 23:59 UTC." +
		" The exception y of profile dstack/second ended on 2026-12-30 at 23:59 UTC. Ask #gpu. [isolation rev=" + d.Revision + "]"
	if !strings.HasSuffix(d.Message, want) || strings.Contains(d.Message, "audits ended") {
		t.Errorf("got %s", d.Message)
	}
}

// Many exceptions that ended leave room for the reasons.
func TestEndedExceptionsAreBounded(t *testing.T) {
	var profiles []v1alpha1.IsolationProfile
	for i := range 60 {
		profiles = append(profiles, profile(fmt.Sprintf("p%02d-%s", i, strings.Repeat("x", 100)), v1alpha1.LevelRestricted,
			except(strings.Repeat("e", 63), ends, []v1alpha1.ControlName{"privileged"}, "ada"), hint(strings.Repeat("h", 200))))
	}
	d := policy.Decide(effective(profiles...), policy.Running{NetworkMode: 3}, runRequest(task(`"privileged":true`)), ends)
	if n := strings.Count(d.Message, "The exception "); n < 1 || n > 3 || !strings.HasPrefix(d.Message, "privileged containers are not allowed") {
		t.Errorf("names %d: %s", n, d.Message)
	}
	if n := utf8.RuneCountInString(d.Message); n > 2000 {
		t.Errorf("got %d characters", n)
	}
}

// What is allowed costs as much with an exception that ended as without one.
func TestAllocationsWithEndedExceptions(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget on purpose")
	}
	allocations := func(change ...func(*v1alpha1.IsolationProfileSpec)) float64 {
		eff, req := effective(profile("research", v1alpha1.LevelRestricted, change...)), runRequest(task(``))
		return testing.AllocsPerRun(100, func() { policy.Decide(eff, policy.Running{NetworkMode: 3}, req, ends) })
	}
	without, with := allocations(), allocations(except("x", ends, []v1alpha1.ControlName{"privileged"}, "ada"))
	if with > without {
		t.Errorf("%v allocations instead of %v", with, without)
	}
}
