package controllers

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/workload"
)

// refusedFor is how long the API server must refuse a pod before that counts. Its
// controller tries again every few seconds by then, and a quota that counted the
// server's former pod has caught up.
const refusedFor = 30 * time.Second

// observeRollout looks at the rollout as it is now.
func (r *DstackServerReconciler) observeRollout(p *pass) workload.Rollout {
	rollout := p.workload.ObserveRollout(p.pods)
	if f := &rollout.Refusal; f.Message != "" {
		left := refusedFor - r.Clock.Now().Sub(f.Since)
		f.Retrying = left > 0
		p.wakeAfter(left)
	}
	r.timePods(p, &rollout)
	return rollout
}

// refusedForUs is why a pod is refused since the settings are in its template; ""
// when it is not, or was refused before.
func refusedForUs(w *workload.Workload, f workload.Refusal) string {
	if f.Message == "" || f.Retrying || f.Since.Before(appliedAt(w)) {
		return ""
	}
	return "the API server refuses it: " + f.Message
}

func (p *pass) hasPodWithSettings() bool {
	return slices.ContainsFunc(p.pods, func(pod corev1.Pod) bool {
		return pod.Annotations[workload.AnnotationSettings] == p.workload.SettingsRevision()
	})
}
