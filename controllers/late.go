package controllers

import (
	"fmt"
	"strings"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// timePods tells which pods have had their time where the workload's controller does
// not count it. It is counted from when they were made too: they may start again
// long after the settings were applied.
func (r *DstackServerReconciler) timePods(p *pass, rollout *workload.Rollout) {
	if p.workload.CountsTime || rollout.Done || rollout.Blocked != "" || p.workload.Replicas == 0 {
		return
	}
	now := r.Clock.Now()
	since := p.waitingSince(now)
	late := func(from time.Time) bool {
		if from.Before(since) {
			from = since
		}
		left := r.InjectionDeadline - now.Sub(from)
		p.wakeAfter(left)
		return left <= 0
	}
	for _, slow := range []*workload.Slow{&rollout.Slow, &rollout.Earlier.Slow} {
		slow.Late = slow.Pod != "" && late(slow.Since)
	}
	rollout.TimedOut = len(p.pods) == 0 && late(since)
}

// hangs says of a rollout that does not end that nothing will move by itself; an
// empty finding while that is not known.
func (p *pass) hangs(rollout workload.Rollout) status.Finding {
	slow, held := rollout.Slow, heldUp(p.workload, rollout.Earlier)
	switch {
	case held != "" && (rollout.Earlier.Failure.Pod != "" || rollout.Earlier.Slow.Late):
		return status.Stuck(v1alpha1.ReasonPodFailing, held)
	case slow.Late:
		text := "a pod with the settings does not become ready"
		if slow.Why != "" {
			text += ": " + slow.Why
		}
		return status.Stuck(v1alpha1.ReasonPodFailing, fmt.Sprintf("%s; kubectl -n %s describe pod %s tells why", text, p.server.Namespace, slow.Pod))
	case rollout.TimedOut:
		return status.Stuck(v1alpha1.ReasonPodFailing, fmt.Sprintf("no pod of %s becomes ready; %s", p.workload, describe(p.workload)))
	}
	return status.Finding{}
}

// heldUp says which pod a StatefulSet's controller waits for, which does not replace
// it although the template has changed; "" if there is none.
func heldUp(w *workload.Workload, earlier workload.Trouble) string {
	pod, why := earlier.Failure.Pod, earlier.Failure.Message
	if pod == "" {
		pod, why = earlier.Slow.Pod, earlier.Slow.Why
	}
	if pod == "" {
		return ""
	}
	if why != "" {
		why = ": " + why
	}
	return fmt.Sprintf("pod %s was made before the present settings and is not ready, and a StatefulSet's controller waits for it%s; delete it, so that another is made: kubectl -n %s delete pod %s",
		pod, why, w.Meta.Namespace, pod)
}

// whyNone is what is known of why no first pod was ready in time; "" for nothing.
func (p *pass) whyNone(rollout workload.Rollout) string {
	held := heldUp(p.workload, rollout.Earlier)
	switch {
	case rollout.Failure.Message != "":
		return rollout.Failure.Message
	case rollout.Refusal.Message != "":
		return "the API server refuses it: " + rollout.Refusal.Message
	case rollout.Slow.Why != "":
		return rollout.Slow.Why
	case held != "":
		return held
	case !p.hasPodWithSettings():
		return "there is none at all, and " + describe(p.workload)
	}
	return ""
}

// describe is the command that shows the workload's events.
func describe(w *workload.Workload) string {
	return fmt.Sprintf("kubectl -n %s describe %s %s tells why", w.Meta.Namespace, strings.ToLower(string(w.Kind)), w.Meta.Name)
}
