package workload

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Slow is a pod that may still become ready by itself, as one that waits for a
// volume.
type Slow struct {
	// Pod is its name; "" when there is none.
	Pod string
	// Since is when it was made, or when it ceased to be ready.
	Since time.Time
	// Why is the kubelet's word for it; "" when there is none.
	Why string
	// Late is true when it has had its time. Where the controller does not count it
	// (CountsTime), whoever knows the time sets this.
	Late bool
}

// note keeps the first pod of each kind.
func (t *Trouble) note(pod *corev1.Pod) {
	f := failure(pod)
	switch {
	case f.Pod != "" && t.Failure.Pod == "":
		t.Failure = f
	case f.Pod == "" && t.Slow.Pod == "":
		t.Slow = slow(pod)
	}
}

// slow tells of a pod that does not fail. Of the words about a container only the
// reason is told: what a hook printed may stand in the message.
func slow(pod *corev1.Pod) Slow {
	if Ready(pod) || pod.DeletionTimestamp != nil {
		return Slow{}
	}
	s := Slow{Pod: pod.Name, Since: pod.CreationTimestamp.Time}
	for _, c := range pod.Status.Conditions {
		if c.Type != corev1.PodReady {
			continue
		}
		s.Why = stable(c.Message)
		if c.LastTransitionTime.After(s.Since) {
			s.Since = c.LastTransitionTime.Time
		}
	}
	if why := waitsFor("container", pod.Status.ContainerStatuses); why != "" {
		s.Why = why
	}
	if why := waitsFor("init container", pod.Status.InitContainerStatuses); why != "" {
		s.Why = why
	}
	return s
}

// waitsFor is the first container that waits, and the reason.
func waitsFor(kind string, statuses []corev1.ContainerStatus) string {
	for i := range statuses {
		if w := statuses[i].State.Waiting; w != nil && w.Reason != "" {
			return fmt.Sprintf("%s %s: %s", kind, statuses[i].Name, w.Reason)
		}
	}
	return ""
}

// progressing is the Deployment's own word on its rollout; nil when it has none.
func progressing(d *appsv1.Deployment) *appsv1.DeploymentCondition {
	for i := range d.Status.Conditions {
		if c := &d.Status.Conditions[i]; c.Type == appsv1.DeploymentProgressing {
			return c
		}
	}
	return nil
}

// timedOut tells whether the Deployment's controller has waited for its pods for
// as long as progressDeadlineSeconds says.
func timedOut(d *appsv1.Deployment) bool {
	c := progressing(d)
	return c != nil && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded"
}
