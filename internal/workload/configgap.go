package workload

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

const (
	// servedFor is for how long a node may serve the earlier content of a ConfigMap or
	// Secret in a volume: the kubelet's period of sync and the time for which it caches.
	servedFor = 2 * time.Minute
	// reportedWithin is for how long a restart may stay unreported by its node.
	reportedWithin = 10 * time.Minute
)

// ConfigRead is what was found when a config.yml that is mounted as a whole was read.
type ConfigRead struct {
	At time.Time
	// Named is true if it names the plugin.
	Named bool
	// LastNamed is when an earlier read found that; zero when that is not known.
	LastNamed time.Time
}

// FollowConfig returns the time in which the file may not have named the plugin, nil
// for none, and names a pod whose container restarted then: the init container does not
// check the file again for it. Read is nil when the file was not read. Only pods that
// check the file count: others have a copy of their own.
func FollowConfig(gap *v1alpha1.ConfigFileGap, read *ConfigRead, pods []corev1.Pod, container string, now time.Time) (*v1alpha1.ConfigFileGap, string) {
	pods = slices.DeleteFunc(slices.Clone(pods), func(pod corev1.Pod) bool { return !ChecksConfig(&pod) })
	if len(pods) == 0 {
		return nil, ""
	}
	gap = moved(gap.DeepCopy(), read, pods)
	if gap == nil {
		return nil, ""
	}
	for i := range pods {
		if restartedIn(gap, &pods[i], container, now) {
			return gap, pods[i].Name
		}
	}
	if gap.BackAt != nil && now.After(gap.BackAt.Add(servedFor+reportedWithin)) {
		return nil, ""
	}
	return gap, ""
}

// moved is the gap once the file was read.
func moved(gap *v1alpha1.ConfigFileGap, read *ConfigRead, pods []corev1.Pod) *v1alpha1.ConfigFileGap {
	switch {
	case read == nil, read.Named && gap == nil:
	case read.Named && gap.BackAt == nil:
		gap.BackAt = &metav1.Time{Time: read.At}
	case read.Named:
	case gap == nil:
		gap = &v1alpha1.ConfigFileGap{LostAt: metav1.NewTime(read.LastNamed)}
		if read.LastNamed.IsZero() {
			gap.LostAt = oldest(pods)
		}
	default:
		gap.BackAt = nil
	}
	return gap
}

func oldest(pods []corev1.Pod) metav1.Time {
	first := pods[0].CreationTimestamp
	for i := range pods {
		if pods[i].CreationTimestamp.Before(&first) {
			first = pods[i].CreationTimestamp
		}
	}
	return first
}

// restartedIn tells whether a container of a pod has certainly not started before the
// gap or after it.
func restartedIn(gap *v1alpha1.ConfigFileGap, pod *corev1.Pod, container string, now time.Time) bool {
	within := func(at time.Time) bool {
		return !at.Before(gap.LostAt.Time) && (gap.BackAt == nil || !at.After(gap.BackAt.Add(servedFor)))
	}
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		if s.Name != container || s.RestartCount == 0 {
			return false
		}
		if s.State.Running == nil {
			return within(now) // It is about to start.
		}
		return within(s.State.Running.StartedAt.Time)
	})
}

// ChecksConfig tells whether the init container of a pod only checks its config.yml,
// which the server then reads where it is mounted.
func ChecksConfig(pod *corev1.Pod) bool {
	inject := findContainer(pod.Spec.InitContainers, InjectContainer)
	return inject != nil && slices.ContainsFunc(inject.Args, func(arg string) bool { return strings.HasPrefix(arg, CheckFlag) })
}

// StartedBefore tells whether a container of that name runs in any of the pods that has
// not certainly started after an object that it takes variables from was changed. One
// that does not run yet will. A restart in its pod may still get the earlier content.
func StartedBefore(pods []corev1.Pod, container string, changed time.Time) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		i := slices.IndexFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == container })
		if i < 0 {
			return Ready(&pod)
		}
		s, after := &pod.Status.ContainerStatuses[i], changed
		if s.RestartCount > 0 {
			after = after.Add(servedFor)
		}
		return s.State.Running != nil && !s.State.Running.StartedAt.After(after)
	})
}
