package workload

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Rollout is how far the pods of a workload have come.
type Rollout struct {
	// Done is true when every pod is of the current template and ready.
	Done bool
	// Blocked says why no pod is replaced although one should be; "" otherwise.
	Blocked string
	// Trouble of the pods with the settings.
	Trouble
	// Earlier is the trouble of other pods, for the end of which a StatefulSet's
	// controller waits before it replaces any, whatever the template is by now.
	Earlier Trouble
	// TimedOut is true when the rollout has had its time.
	TimedOut bool
	// Refusal is why the API server makes no pod of the current template.
	Refusal Refusal
}

// Trouble is why pods are not ready.
type Trouble struct {
	// Failure is the first pod's own reason why it does not become ready.
	Failure Failure
	// Slow is the first pod that is not ready, and does not fail either.
	Slow Slow
}

// Failure is why a pod does not start.
type Failure struct {
	// Pod is its name; "" when there is no failure.
	Pod string
	// Ours is true when it fails in the init container that the operator added.
	Ours bool
	// Retrying is true when the kubelet has only begun to try, as with the first
	// failed pull of an image.
	Retrying bool
	// Message is the pod's own reason, and what our container wrote before it
	// ended. It never holds what the server printed.
	Message string
}

// ObserveRollout looks at the workload and its live pods.
func (w *Workload) ObserveRollout(pods []corev1.Pod) Rollout {
	revision := w.SettingsRevision()
	var r Rollout
	behind := 0
	for i := range pods {
		pod := &pods[i]
		if pod.Annotations[AnnotationSettings] == revision {
			r.note(pod)
			continue
		}
		behind++
		if w.ordered {
			r.Earlier.note(pod)
		}
	}
	current := w.observedGeneration >= w.Meta.Generation
	r.Done = current && behind == 0 && w.updatedReplicas == w.Replicas && w.statusReplicas == w.Replicas && w.readyReplicas == w.Replicas
	if behind > 0 {
		r.Blocked = w.Blocked()
	}
	if current && !r.Done {
		r.Refusal, r.TimedOut = w.refusal, w.timedOut
	}
	r.Slow.Late = r.Slow.Pod != "" && r.TimedOut
	return r
}

// Blocked tells what keeps old pods from being replaced; "" when nothing does.
func (w *Workload) Blocked() string {
	switch {
	case w.Paused:
		return fmt.Sprintf("%s is paused: resume its rollout (kubectl -n %s rollout resume deployment/%s)", w, w.Meta.Namespace, w.Meta.Name)
	case w.Strategy == "OnDelete":
		return fmt.Sprintf("%s has update strategy OnDelete: delete its pods to let them start with the new settings", w)
	case w.Partition > 0:
		return fmt.Sprintf("%s updates only pods from ordinal %d on (partition): lower the partition to 0", w, w.Partition)
	default:
		return ""
	}
}

// failure looks for a pod that no node takes, and for a container that does not
// start. Waiting for an image or a Secret counts: the kubelet retries, but
// nothing will change by itself.
func failure(pod *corev1.Pod) Failure {
	if pod.DeletionTimestamp != nil {
		return Failure{}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return Failure{Pod: pod.Name, Message: "scheduling: " + stable(c.Message)}
		}
	}
	for i := range pod.Status.InitContainerStatuses {
		s := &pod.Status.InitContainerStatuses[i]
		if message := stuck(s, s.Name == InjectContainer); message != "" {
			return Failure{
				Pod: pod.Name, Ours: s.Name == InjectContainer, Retrying: passing(s.State.Waiting),
				Message: fmt.Sprintf("init container %s: %s", s.Name, message),
			}
		}
	}
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		if message := stuck(s, false); message != "" {
			return Failure{Pod: pod.Name, Message: fmt.Sprintf("container %s: %s", s.Name, message)}
		}
	}
	return Failure{}
}

// passing tells a failure that the next attempt may well end: a registry that
// hiccups, and a kubelet that has not read a ConfigMap or Secret in time, which
// it calls "failed to sync configmap cache" (the kubelet's watch-based manager).
func passing(w *corev1.ContainerStateWaiting) bool {
	switch {
	case w == nil:
		return false
	case w.Reason == "CreateContainerConfigError":
		return strings.HasPrefix(w.Message, "failed to sync ")
	}
	return w.Reason == "ErrImagePull"
}

func stuck(s *corev1.ContainerStatus, ours bool) string {
	ended := s.State.Terminated
	if ended == nil {
		ended = s.LastTerminationState.Terminated
	}
	if w := s.State.Waiting; w != nil {
		switch w.Reason {
		case "CrashLoopBackOff":
			return ending(ended, ours)
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return w.Reason + ": " + stable(w.Message)
		}
		return ""
	}
	if s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 {
		return ending(s.State.Terminated, ours)
	}
	return ""
}

// changing matches what is different at each attempt: ids of containers and of
// pods.
var changing = regexp.MustCompile(`[0-9a-f]{32,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// stable is a message of the kubelet without what changes at each attempt, so
// that a condition that repeats it does not.
func stable(message string) string {
	const most = 500
	message = changing.ReplaceAllString(message, "…")
	if len(message) > most {
		message = strings.ToValidUTF8(message[:most], "") + "…"
	}
	return message
}

// ending describes how a container ended. Only our own container's message is
// repeated: another's may hold anything.
func ending(t *corev1.ContainerStateTerminated, ours bool) string {
	if t == nil {
		return "it keeps failing"
	}
	text := fmt.Sprintf("ended with exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		text += " (" + t.Reason + ")"
	}
	if ours && t.Message != "" {
		text += ": " + t.Message
	}
	return text
}
