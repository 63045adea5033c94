package status_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

func TestPodsOwned(t *testing.T) {
	w := workload.FromDeployment(testkit.MakeServerPod().Deployment("dstack"))
	of := func(why string, names ...string) []workload.Stranger {
		var all []workload.Stranger
		for _, name := range names {
			all = append(all, workload.Stranger{Pod: *testkit.MakeServerPod().Pod(name), Why: why})
		}
		return all
	}
	const (
		services = "Services that select by these labels send "
		requests = " users' requests and tokens: delete "
		job      = ". For a pod of a dstack job, deny controls.tags or run jobs in another namespace"
	)
	cases := map[string]struct {
		pods workload.Sorted
		want status.Finding
	}{
		"none but its own": {workload.Sorted{}, status.Finding{
			Status: metav1.ConditionTrue, Reason: "Owned", Message: "all pods with the labels of Deployment dstack/dstack are its own",
		}},
		"one foreign": {workload.Sorted{Foreign: of("no controller", "job-0")}, status.Finding{
			Status: metav1.ConditionFalse, Reason: "ForeignPods", Stalled: true,
			Message: "1 pod with the labels of Deployment dstack/dstack is not its own: job-0 (no controller). " + services + "it" + requests + "it" + job,
		}},
		"foreign ones come before unknown ones": {workload.Sorted{Foreign: of("no controller", "a", "b", "c", "d", "e"), Unknown: of("?", "f")}, status.Finding{
			Status: metav1.ConditionFalse, Reason: "ForeignPods", Stalled: true,
			Message: "5 pods with the labels of Deployment dstack/dstack are not its own: a (no controller), b (no controller), c (no controller) and 2 more. " + services + "them" + requests + "them" + job,
		}},
		"unknown": {workload.Sorted{Unknown: of("its ReplicaSet dstack-1 cannot be read or is gone", "dstack-1-x")}, status.Finding{
			Status: metav1.ConditionUnknown, Reason: "PodsUnknown",
			Message: "the owner of pods with the labels of Deployment dstack/dstack is not known, and they get no token until it is: dstack-1-x (its ReplicaSet dstack-1 cannot be read or is gone)",
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, status.PodsOwned(w, tc.pods)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
