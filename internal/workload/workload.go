// Package workload reads the user's own workload and its pods: which container
// runs the dstack server, where its config.yml lies, whether its database
// outlives a restart, what its pods run with and how its rollout stands.
//
// It is pure: it looks at objects that others have read.
package workload

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// InjectContainer is the name of the init container that the operator adds.
const InjectContainer = "dstack-isolation-inject"

// AnnotationSettings is set by the operator on the pod template: the revision
// of the settings that a pod was made with.
const AnnotationSettings = v1alpha1.Group + "/settings"

// LabelServerPod is set by the operator on the pod template: the DstackServer's name.
// By it Services and NetworkPolicies of the operator's select the server's pods. What
// users may label pods with has no slash in its key.
const LabelServerPod = v1alpha1.Group + "/server-pod"

// Workload is the user's Deployment or StatefulSet, read only.
type Workload struct {
	Kind     v1alpha1.WorkloadKind
	Meta     *metav1.ObjectMeta
	Template *corev1.PodTemplateSpec
	Selector *metav1.LabelSelector
	Replicas int32
	// ClaimTemplates are the volumes that a StatefulSet makes claims for.
	ClaimTemplates []string
	// Strategy is RollingUpdate, Recreate or OnDelete.
	Strategy string
	Paused   bool
	// Partition is the first ordinal that a StatefulSet updates.
	Partition int32
	// CountsTime is true when the controller counts how long pods take to become
	// ready. That of a StatefulSet never does, and that of a Deployment only until its
	// rollout has ended: not for a pod that must start again later.
	CountsTime bool

	observedGeneration int64
	statusReplicas     int32
	updatedReplicas    int32
	readyReplicas      int32
	refusal            Refusal
	timedOut           bool
	// ordered is true when a StatefulSet's pods are replaced one after the other.
	ordered bool
}

// FromDeployment views a Deployment.
func FromDeployment(d *appsv1.Deployment) *Workload {
	w := &Workload{
		Kind: v1alpha1.WorkloadDeployment, Meta: &d.ObjectMeta, Template: &d.Spec.Template, Selector: d.Spec.Selector,
		Replicas: orOne(d.Spec.Replicas), Strategy: string(d.Spec.Strategy.Type), Paused: d.Spec.Paused,
		observedGeneration: d.Status.ObservedGeneration, statusReplicas: d.Status.Replicas,
		updatedReplicas: d.Status.UpdatedReplicas, readyReplicas: d.Status.ReadyReplicas,
		refusal: refusalOf(d), timedOut: timedOut(d),
	}
	c := progressing(d)
	w.CountsTime = c == nil || c.Reason != "NewReplicaSetAvailable"
	return w
}

// FromStatefulSet views a StatefulSet.
func FromStatefulSet(s *appsv1.StatefulSet) *Workload {
	w := &Workload{
		Kind: v1alpha1.WorkloadStatefulSet, Meta: &s.ObjectMeta, Template: &s.Spec.Template, Selector: s.Spec.Selector,
		Replicas: orOne(s.Spec.Replicas), Strategy: string(s.Spec.UpdateStrategy.Type),
		observedGeneration: s.Status.ObservedGeneration, statusReplicas: s.Status.Replicas,
		updatedReplicas: s.Status.UpdatedReplicas, readyReplicas: s.Status.ReadyReplicas,
		ordered: s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement,
	}
	for i := range s.Spec.VolumeClaimTemplates {
		w.ClaimTemplates = append(w.ClaimTemplates, s.Spec.VolumeClaimTemplates[i].Name)
	}
	if r := s.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		w.Partition = *r.Partition
	}
	return w
}

func orOne(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// String names the workload in messages: "Deployment dstack/dstack-server".
func (w *Workload) String() string {
	return fmt.Sprintf("%s %s/%s", w.Kind, w.Meta.Namespace, w.Meta.Name)
}

// Container finds the container that runs the dstack server: the named one, or
// the only one. The error says what to set.
func (w *Workload) Container(name string) (*corev1.Container, error) {
	containers := w.Template.Spec.Containers
	if name == "" {
		if len(containers) == 1 {
			return &containers[0], nil
		}
		return nil, fmt.Errorf("%s has %d containers (%s): set spec.workload.container to the one that runs dstack",
			w, len(containers), containerNames(containers))
	}
	i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%s has no container %q (it has %s): set spec.workload.container to one that it has",
			w, name, containerNames(containers))
	}
	return &containers[i], nil
}

func containerNames(containers []corev1.Container) string {
	names := make([]string, len(containers))
	for i := range containers {
		names[i] = containers[i].Name
	}
	return strings.Join(names, ", ")
}

// Injected is the init container that the operator added to the pod template;
// nil if there is none.
func (w *Workload) Injected() *corev1.Container {
	return findContainer(w.Template.Spec.InitContainers, InjectContainer)
}

// SettingsRevision is the revision of the settings in the pod template; empty
// if there are none.
func (w *Workload) SettingsRevision() string {
	return w.Template.Annotations[AnnotationSettings]
}

func findContainer(containers []corev1.Container, name string) *corev1.Container {
	i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &containers[i]
}

func findVolume(volumes []corev1.Volume, name string) *corev1.Volume {
	i := slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &volumes[i]
}
