package status

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/workload"
)

// PodsOwned tells whether all pods that a workload's selector matches are its own.
func PodsOwned(w *workload.Workload, s workload.Sorted) Finding {
	switch {
	case len(s.Foreign) > 0:
		be, them := "is", "it"
		if len(s.Foreign) > 1 {
			be, them = "are", "them"
		}
		return Stuck(v1alpha1.ReasonForeignPods, fmt.Sprintf(
			"%s with the labels of %s %s not its own: %s. Services that select by these labels send %s users' requests and tokens: delete %s. For a pod of a dstack job, deny controls.tags or run jobs in another namespace",
			counted(len(s.Foreign), "pod"), w, be, strangers(s.Foreign), them, them))
	case len(s.Unknown) > 0:
		return Unknown(v1alpha1.ReasonPodsUnknown, fmt.Sprintf(
			"the owner of pods with the labels of %s is not known, and they get no token until it is: %s", w, strangers(s.Unknown)))
	}
	return OK(v1alpha1.ReasonOwned, fmt.Sprintf("all pods with the labels of %s are its own", w))
}

// strangers names the first pods, each with why it is not the workload's.
func strangers(all []workload.Stranger) string {
	var names []string
	for _, s := range all {
		names = append(names, fmt.Sprintf("%s (%s)", s.Pod.Name, s.Why))
	}
	return firstOf(names)
}

// podsOwned is the finding about a server's pods, also where these cannot be seen.
func podsOwned(s *v1alpha1.DstackServer, f ServerFacts) Finding {
	if runsElsewhere(s) && f.Accepted.isTrue() {
		return Unknown(v1alpha1.ReasonNotVisible, "the dstack server runs elsewhere, so its pods cannot be seen from here")
	}
	return f.Pods.orPending()
}
