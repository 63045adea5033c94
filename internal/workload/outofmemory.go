package workload

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reasonOutOfMemory is the kubelet's word for a container that the kernel has killed
// because it needed more memory than its limit.
const reasonOutOfMemory = "OOMKilled"

// OutOfMemory counts the pods of which a container was killed for lack of memory, as
// far as the kubelet remembers: it keeps the last end of each container. The time is
// that of the last kill; zero for none.
func OutOfMemory(pods []corev1.Pod) (killed int, last metav1.Time) {
	for i := range pods {
		before := last
		found := false
		for _, c := range slices.Concat(pods[i].Status.InitContainerStatuses, pods[i].Status.ContainerStatuses) {
			for _, end := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
				if end == nil || end.Reason != reasonOutOfMemory {
					continue
				}
				found = true
				if before.Before(&end.FinishedAt) {
					before = end.FinishedAt
				}
			}
		}
		if found {
			killed, last = killed+1, before
		}
	}
	return killed, last
}
