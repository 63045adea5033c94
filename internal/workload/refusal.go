package workload

import (
	"regexp"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Refusal is why the API server refuses to make a pod: a quota, a limit range, a
// Pod Security Standard or another admission.
type Refusal struct {
	// Message is the API server's; "" when it refuses none.
	Message string
	// Since is when it began to refuse.
	Since time.Time
	// Retrying is true while it may be over by itself: what a quota counts lags
	// behind the pods that are gone.
	Retrying bool
}

// refusalOf reads it from the Deployment's condition, which copies its
// ReplicaSet's. A StatefulSet has no such condition.
func refusalOf(d *appsv1.Deployment) Refusal {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue && c.Reason == "FailedCreate" {
			return Refusal{Message: stable(podName.ReplaceAllString(c.Message, "")), Since: c.LastTransitionTime.Time}
		}
	}
	return Refusal{}
}

// podName matches the generated name with which the API server's refusal begins.
var podName = regexp.MustCompile(`^pods "[^"]*" is (forbidden: )?`)
