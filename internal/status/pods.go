package status

import (
	"fmt"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/workload"
)

// mostStrangers is how many pods a message names.
const mostStrangers = 3

// PodsOwned tells whether all pods that a workload's selector matches are its own.
func PodsOwned(w *workload.Workload, s workload.Sorted) Finding {
	switch {
	case len(s.Foreign) > 0:
		be, pods, them := "is", "1 pod", "it"
		if n := len(s.Foreign); n > 1 {
			be, pods, them = "are", fmt.Sprintf("%d pods", n), "them"
		}
		return Stuck(v1alpha1.ReasonForeignPods, fmt.Sprintf(
			"%s with the labels of %s %s not its own: %s. Services that select by these labels send users' requests there, with their tokens: delete %s. If dstack started %s, deny controls.tags, or run jobs in another namespace",
			pods, w, be, strangers(s.Foreign), them, them))
	case len(s.Unknown) > 0:
		return Unknown(v1alpha1.ReasonPodsUnknown, fmt.Sprintf(
			"the owner of pods with the labels of %s is not known, and they get no token until it is: %s", w, strangers(s.Unknown)))
	}
	return OK(v1alpha1.ReasonOwned, fmt.Sprintf("all pods with the labels of %s are its own", w))
}

// strangers names the first pods, each with why it is not the workload's.
func strangers(all []workload.Stranger) string {
	var names []string
	for _, s := range all[:min(len(all), mostStrangers)] {
		names = append(names, fmt.Sprintf("%s (%s)", s.Pod.Name, s.Why))
	}
	text := strings.Join(names, ", ")
	if more := len(all) - mostStrangers; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// podsOwned is the finding about a server's pods, also where these cannot be seen.
func podsOwned(s *v1alpha1.DstackServer, f ServerFacts) Finding {
	if runsElsewhere(s) && f.Accepted.isTrue() {
		return Unknown(v1alpha1.ReasonNotVisible, "the dstack server runs elsewhere, so its pods cannot be seen from here")
	}
	return f.Pods.orPending()
}
