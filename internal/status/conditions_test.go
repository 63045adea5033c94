package status_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var (
	serverConditions  = []string{"Accepted", "PolicyPluginReady", "SSHProxyReady", "SettingsApplied", "PodsOwned", "Connected", "UnmatchedProjectsCovered", "ProfilesAccepted", "Ready", "Reconciling", "Stalled"}
	profileConditions = []string{"Accepted", "Programmed", "ExceptionsCurrent", "Ready", "Reconciling", "Stalled"}
)

// findings are what any step of a pass may find; the last is what it leaves
// when it was not reached.
func findings() []ours.Finding {
	return []ours.Finding{
		ours.OK("Good", "good"), ours.Waiting("Waits", "waits"), ours.Stuck("Stuck", "stuck"), ours.Unknown("Unknown", "unknown"),
		{Reason: "HalfFilled", Message: "a finding without a status"},
		{},
	}
}

// world is what is known beside the findings of the steps.
type world struct {
	effective *isolation.Effective
	served    string
	running   *v1alpha1.RunningSettings
	proven    string
	version   ours.Version
	doubts    []v1alpha1.SettingsDoubt
}

// worlds are all combinations of facts, known and missing; the first is the
// only one in which nothing is.
func worlds(e *isolation.Effective) []world {
	good := ours.Version{Release: "0.22.5"}
	var all []world
	for _, effective := range []*isolation.Effective{e, nil} {
		for _, served := range []string{e.Revision, "", "01d00000"} {
			for _, r := range []*v1alpha1.RunningSettings{running(2), {Pods: 2, PolicyPods: 1, NetworkMode: 2}, {}, nil} {
				for _, proven := range []string{"5e771465", ""} {
					all = append(all, world{effective, served, r, proven, good, nil})
				}
			}
		}
	}
	well := all[0]
	for _, version := range []ours.Version{{}, {Release: "0.20.28"}, {Release: "0.20.28", Development: true}} {
		all = append(all, world{e, well.served, well.running, well.proven, version, nil})
	}
	return append(all, world{e, well.served, well.running, well.proven, good, doubting(v1alpha1.ReasonConfigDisabled)})
}

// Every condition of a DstackServer is there whatever was found, about the
// present generation; Ready is True only when everything is known and True.
func TestServerSaysEverythingEveryTime(t *testing.T) {
	s := testkit.MakeServer("main").Generation(7).Obj()
	all := worlds(resolve(s))
	check := func(steps [5]ours.Finding, pods ours.Finding, w int) {
		f := ours.ServerFacts{
			Accepted: steps[0], PolicyPlugin: steps[1], Settings: steps[2], Connected: steps[3], SSHProxy: steps[4], Pods: pods,
			Effective: all[w].effective, Served: all[w].served, Running: all[w].running,
			Revisions: v1alpha1.SettingsRevisions{Proven: all[w].proven},
			Version:   all[w].version, Doubts: all[w].doubts,
		}
		got := ours.Server(s, f, now)
		checkConditions(t, got.Conditions, serverConditions, 7)
		good := w == 0 && pods.Reason == "Good"
		for _, step := range steps {
			good = good && step.Reason == "Good"
		}
		if ready := condition(got.Conditions, "Ready").Status == metav1.ConditionTrue; ready != good {
			t.Fatalf("Ready is %t for %+v", ready, f)
		}
	}
	steps := findings()
	n := len(steps)
	for i := range n * n * n * n * n {
		combination := [5]ours.Finding{steps[i%n], steps[i/n%n], steps[i/n/n%n], steps[i/n/n/n%n], steps[i/n/n/n/n]}
		check(combination, steps[0], 0)
		check(combination, steps[i%7%n], i%len(all))
	}
	for w := range all {
		for _, pods := range steps {
			check([5]ours.Finding{steps[0], steps[0], steps[0], steps[0], steps[0]}, pods, w)
		}
	}
	if got := ours.Server(s, ours.ServerFacts{}, now); got.ObservedGeneration != 7 {
		t.Errorf("got generation %d, want 7", got.ObservedGeneration)
	}
}

func condition(all []metav1.Condition, kind string) metav1.Condition {
	for _, c := range all {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

// checkConditions checks what holds for every list: order, generation, values
// that the API takes, and how Ready, Reconciling and Stalled hang together.
func checkConditions(t *testing.T, all []metav1.Condition, kinds []string, generation int64) {
	t.Helper()
	var got []string
	for _, c := range all {
		got = append(got, c.Type)
		if c.ObservedGeneration != generation || c.Reason == "" || c.LastTransitionTime.IsZero() {
			t.Fatalf("condition %+v lacks generation, reason or time", c)
		}
		switch c.Status {
		case metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown:
		default:
			t.Fatalf("condition %+v has a status that the API does not take", c)
		}
	}
	if diff := cmp.Diff(kinds, got); diff != "" {
		t.Fatalf("conditions -want +got:\n%s", diff)
	}
	ready := condition(all, "Ready").Status == metav1.ConditionTrue
	reconciling := condition(all, "Reconciling").Status == metav1.ConditionTrue
	stalled := condition(all, "Stalled").Status == metav1.ConditionTrue
	if n := count(ready, reconciling, stalled); n != 1 {
		t.Fatalf("%d of Ready, Reconciling and Stalled are True, want exactly one: %+v", n, all)
	}
}

func count(all ...bool) int {
	n := 0
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

func TestTimesOfTransition(t *testing.T) {
	s := testkit.MakeServer("main").Generation(1).Obj()
	facts := goodFacts(resolve(s))
	s.Status = ours.Server(s, facts, now)

	later := now.Add(time.Hour)
	if diff := cmp.Diff(s.Status, ours.Server(s, facts, later)); diff != "" {
		t.Errorf("the same facts an hour later change the status:\n%s", diff)
	}
	facts.Settings = ours.Waiting(v1alpha1.ReasonRolloutInProgress, "on its way")
	s.Status = ours.Server(s, facts, later)
	for kind, want := range map[string]time.Time{"SettingsApplied": later, "Ready": later, "Reconciling": later, "Accepted": now, "Stalled": now} {
		if got := condition(s.Status.Conditions, kind).LastTransitionTime.Time; !got.Equal(want) {
			t.Errorf("%s changed at %s, want %s", kind, got, want)
		}
	}
	facts.Settings = ours.Waiting(v1alpha1.ReasonRolloutInProgress, "nearly there")
	s.Generation = 2
	got := condition(ours.Server(s, facts, later.Add(time.Hour)).Conditions, "SettingsApplied")
	if !got.LastTransitionTime.Time.Equal(later) || got.Message != "nearly there" || got.ObservedGeneration != 2 {
		t.Errorf("got %+v, want the new message and generation at the old time", got)
	}
}

// The default in the CustomResourceDefinition has 1970 as its time.
func TestDefaultConditionsAreReplaced(t *testing.T) {
	s := testkit.MakeServer("main").Generation(1).Condition("Ready", metav1.ConditionUnknown, "Pending", "waiting for the operator").Obj()
	got := ours.Server(s, ours.ServerFacts{}, now)
	checkConditions(t, got.Conditions, serverConditions, 1)
	mustBe(t, got.Conditions, "Ready", "Ready=Unknown/Pending: not looked at yet")
}

func TestMessagesAreBounded(t *testing.T) {
	for _, text := range []string{strings.Repeat("a", 10_000), strings.Repeat("ü", 10_000), " " + strings.Repeat("\U0001F512", 10_000) + " "} {
		s := testkit.MakeServer("main").Generation(1).Obj()
		f := goodFacts(resolve(s))
		f.Settings = ours.Stuck(v1alpha1.ReasonInvalidWorkload, text)
		for _, c := range ours.Server(s, f, now).Conditions {
			if len(c.Message) > 1024 || !utf8.ValidString(c.Message) {
				t.Errorf("%s: message of %d bytes, valid %t", c.Type, len(c.Message), utf8.ValidString(c.Message))
			}
		}
	}
}

// kstatus is how Flux and Helm 4 read an object.
func TestKstatus(t *testing.T) {
	s := testkit.MakeServer("main").Generation(3).Obj()
	p := restricted("research").Generation(3).Obj()
	e := resolve(s, p)
	with := func(change func(*ours.ServerFacts)) runtime.Object {
		o, f := s.DeepCopy(), goodFacts(e)
		change(&f)
		o.Status = ours.Server(o, f, now)
		return o
	}
	of := func(change func(*ours.View)) runtime.Object {
		o, v := p.DeepCopy(), goodView(e)
		change(&v)
		o.Status = ours.Profile(o, v, now)
		return o
	}
	stale := with(func(*ours.ServerFacts) {}).(*v1alpha1.DstackServer)
	stale.Generation = 4
	orphan := p.DeepCopy()
	orphan.Status = ours.ProfileWithoutServer(orphan, now)
	fresh := testkit.MakeServer("main").Generation(1).Condition("Ready", metav1.ConditionUnknown, "Pending", "waiting for the operator").Obj()
	cases := map[string]struct {
		object runtime.Object
		want   status.Status
	}{
		"server, all well":         {with(func(*ours.ServerFacts) {}), status.CurrentStatus},
		"server, not looked at":    {fresh, status.InProgressStatus},
		"server, edited since":     {stale, status.InProgressStatus},
		"server, under way":        {with(func(f *ours.ServerFacts) { f.Settings = ours.Waiting("RolloutInProgress", "on its way") }), status.InProgressStatus},
		"server, not to be seen":   {with(func(f *ours.ServerFacts) { f.Connected = ours.Unknown("Unreachable", "no pod") }), status.InProgressStatus},
		"server, step not reached": {with(func(f *ours.ServerFacts) { f.Settings = ours.Finding{} }), status.InProgressStatus},
		"server, stuck":            {with(func(f *ours.ServerFacts) { f.Settings = ours.Stuck("FieldConflict", "remove it") }), status.FailedStatus},
		"profile, all well":        {of(func(*ours.View) {}), status.CurrentStatus},
		"profile, under way":       {of(func(v *ours.View) { v.Served = "" }), status.InProgressStatus},
		"profile, no server pods":  {of(func(v *ours.View) { v.Running = nil }), status.InProgressStatus},
		"profile, server stuck":    {of(func(v *ours.View) { v.Running.PolicyPods, v.SettingsStalled = 0, true }), status.FailedStatus},
		"profile, no server":       {orphan, status.FailedStatus},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(tc.object)
			if err != nil {
				t.Fatal(err)
			}
			got, err := status.Compute(&unstructured.Unstructured{Object: fields})
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != tc.want {
				t.Errorf("got %s (%s), want %s", got.Status, got.Message, tc.want)
			}
		})
	}
}

func TestWarningsAreBounded(t *testing.T) {
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("%d%s", i, strings.Repeat("ü", 5_000)))
	}
	s := testkit.MakeServer("main").Obj()
	f := goodFacts(resolve(s))
	f.Warnings = many
	got := ours.Server(s, f, now).Warnings
	if len(got) != 16 || !strings.HasPrefix(got[0], "0ü") {
		t.Fatalf("got %d warnings, want the first 16", len(got))
	}
	for _, w := range got {
		if utf8.RuneCountInString(w) > 512 || !utf8.ValidString(w) || !strings.HasSuffix(w, "…") {
			t.Errorf("warning of %d characters, valid %t", utf8.RuneCountInString(w), utf8.ValidString(w))
		}
	}
	if len(many[0]) < 5_000 {
		t.Error("the facts were changed")
	}
}
