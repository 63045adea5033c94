package status_test

import (
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// elsewhere is what is seen of a server that runs elsewhere.
func elsewhere(v *ours.View) { v.Elsewhere, v.Running, v.Proven = true, nil, false }

const (
	putInPlace  = "put it in place"
	notVisible  = "every policy server decides by it, and whether every process of the dstack server asks them cannot be seen from here, since it runs elsewhere: see SettingsApplied of DstackServer main"
	unreachable = "the dstack server does not answer its API"
)

// What cannot be seen is never True, and nothing is under way either; whatever
// else is wrong speaks first.
func TestServerElsewhere(t *testing.T) {
	s := testkit.MakeServer("main").Elsewhere().Generation(3).Obj()
	e := resolve(s)
	for name, tc := range map[string]struct {
		change  func(*ours.ServerFacts)
		want    []string
		kstatus status.Status
	}{
		"all that can be seen is well": {func(*ours.ServerFacts) {}, []string{
			"UnmatchedProjectsCovered=Unknown/NotVisible: " + notVisible,
			"Ready=Unknown/NotVisible: " + putInPlace,
			"Reconciling=False/Succeeded: nothing is under way",
			"Stalled=False/Succeeded: nobody has to act",
		}, status.InProgressStatus},
		"it does not answer": {func(f *ours.ServerFacts) { f.Connected = ours.Waiting(v1alpha1.ReasonUnreachable, unreachable) }, []string{
			"Ready=False/Unreachable: " + unreachable,
			"Reconciling=True/Progressing: " + unreachable,
			"Stalled=False/Succeeded: nobody has to act",
		}, status.InProgressStatus},
		"it has no token of the SSH proxy": {func(f *ours.ServerFacts) { f.SSHProxy = ours.Stuck(v1alpha1.ReasonNotEnforced, putInPlace) }, []string{
			"Ready=False/NotEnforced: " + putInPlace,
			"Reconciling=False/Succeeded: nothing is under way",
			"Stalled=True/NotEnforced: " + putInPlace,
		}, status.FailedStatus},
		"the policy servers are behind": {func(f *ours.ServerFacts) {
			f.PolicyPlugin, f.Served = ours.Waiting(v1alpha1.ReasonRevisionBehind, "behind"), ""
		}, []string{
			"Ready=False/RevisionBehind: behind",
			"UnmatchedProjectsCovered=False/PolicyServersNotReady: waiting for every policy server to decide by policy revision " + e.Revision,
		}, status.InProgressStatus},
	} {
		t.Run(name, func(t *testing.T) {
			f := goodFacts(e)
			f.Running, f.Revisions = nil, v1alpha1.SettingsRevisions{}
			f.Settings = ours.Unknown(v1alpha1.ReasonNotVisible, putInPlace)
			tc.change(&f)
			o := s.DeepCopy()
			o.Status = ours.Server(o, f, now)
			for _, want := range tc.want {
				mustBe(t, o.Status.Conditions, before(want), want)
			}
			if got := compute(t, o); got != tc.kstatus {
				t.Errorf("kstatus: got %s, want %s", got, tc.kstatus)
			}
			if condition(o.Status.Conditions, "Ready").Status == metav1.ConditionTrue {
				t.Error("Ready is True of what cannot be seen")
			}
		})
	}
}

// A profile's view of such a server says so too, whatever the status holds.
func TestViewOfAServerElsewhere(t *testing.T) {
	s := testkit.MakeServer("main").Elsewhere().Generation(1).Obj()
	e := resolve(s, restricted("research").Obj())
	if v := ours.ViewOf(s, e); !v.Elsewhere {
		t.Error("it is taken for one whose pods are seen")
	}
	if v := ours.ViewOf(testkit.MakeServer("main").Obj(), e); v.Elsewhere {
		t.Error("one in the cluster is taken for one elsewhere")
	}
}

// before is the type of a condition's text.
func before(text string) string {
	for i, r := range text {
		if r == '=' {
			return text[:i]
		}
	}
	return text
}

func compute(t *testing.T, o runtime.Object) status.Status {
	t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := status.Compute(&unstructured.Unstructured{Object: fields})
	if err != nil {
		t.Fatal(err)
	}
	return got.Status
}
