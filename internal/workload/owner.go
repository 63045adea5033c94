package workload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// Sorted are the pods that a workload's selector matches, by whose they are.
type Sorted struct {
	// Own pods were made by the workload's controller.
	Own []corev1.Pod
	// Foreign pods have the labels, and another origin.
	Foreign []Stranger
	// Unknown pods have a controller that cannot be looked at.
	Unknown []Stranger
}

// Stranger is a pod that is not known to be the workload's own.
type Stranger struct {
	Pod corev1.Pod
	// Why it is not, as in "no controller".
	Why string
}

// Sort tells the workload's own pods from others with its labels. Whoever may label
// a pod can have it adopted, so an owner reference alone proves nothing: own is what
// a controller of this very workload has made.
//
// The sets are the ReplicaSets that could be read. Pods that were found to be own
// before stay so when their ReplicaSet is gone first.
func (w *Workload) Sort(pods []corev1.Pod, sets []appsv1.ReplicaSet, before map[types.UID]bool) Sorted {
	var s Sorted
	for i := range pods {
		whose, why := w.whose(&pods[i], sets)
		switch {
		case whose == own || whose == unknown && before[pods[i].UID]:
			s.Own = append(s.Own, pods[i])
		case whose == foreign:
			s.Foreign = append(s.Foreign, Stranger{pods[i], why})
		default:
			s.Unknown = append(s.Unknown, Stranger{pods[i], why})
		}
	}
	return s
}

// whose is what is known of a pod's origin.
type whose int

const (
	unknown whose = iota
	own
	foreign
)

func (w *Workload) whose(pod *corev1.Pod, sets []appsv1.ReplicaSet) (whose, string) {
	ref := metav1.GetControllerOf(pod)
	switch {
	case ref == nil:
		return foreign, "no controller"
	case w.Kind == v1alpha1.WorkloadStatefulSet:
		return w.whoseOfStatefulSet(pod, ref)
	case !isApps(ref, "ReplicaSet"):
		return foreign, "controlled by " + named(ref)
	}
	i := slices.IndexFunc(sets, func(s appsv1.ReplicaSet) bool { return s.UID == ref.UID })
	if i < 0 {
		return unknown, fmt.Sprintf("its %s cannot be read or is gone", named(ref))
	}
	set := &sets[i]
	switch above := metav1.GetControllerOf(set); {
	case above == nil && w.adopts(set):
		return unknown, fmt.Sprintf("its %s has no controller yet", named(ref))
	case above == nil:
		return foreign, fmt.Sprintf("controlled by %s, which has no controller", named(ref))
	case isApps(above, string(v1alpha1.WorkloadDeployment)) && above.UID == w.Meta.UID:
		return madeBy(pod, ref, &set.Spec.Template.Spec)
	case isApps(above, string(v1alpha1.WorkloadDeployment)) && above.Name == w.Meta.Name:
		return unknown, fmt.Sprintf("its %s is of an earlier Deployment of this name", named(ref))
	default:
		return foreign, fmt.Sprintf("controlled by %s of %s", named(ref), named(above))
	}
}

// whoseOfStatefulSet judges a pod of a StatefulSet. Its name and label prove nothing
// alone: the controller gives the label to pods that it adopts.
func (w *Workload) whoseOfStatefulSet(pod *corev1.Pod, ref *metav1.OwnerReference) (whose, string) {
	switch {
	case !isApps(ref, string(v1alpha1.WorkloadStatefulSet)):
		return foreign, "controlled by " + named(ref)
	case ref.UID != w.Meta.UID && ref.Name == w.Meta.Name:
		return unknown, "it is of an earlier StatefulSet of this name"
	case ref.UID != w.Meta.UID:
		return foreign, "controlled by " + named(ref)
	}
	ordinal, found := strings.CutPrefix(pod.Name, w.Meta.Name+"-")
	if _, err := strconv.ParseUint(ordinal, 10, 31); !found || err != nil || pod.Labels[appsv1.StatefulSetPodNameLabel] != pod.Name {
		return adopted(ref)
	}
	return madeBy(pod, ref, nil)
}

// madeBy tells pods that a controller has made from those that it has adopted: it
// gives its own name as generateName, which whoever creates a pod by name leaves
// empty and nothing adds later. Nor does anything take a template's containers out
// of a pod, while admission webhooks may add some, and change images and accounts.
func madeBy(pod *corev1.Pod, ref *metav1.OwnerReference, template *corev1.PodSpec) (whose, string) {
	// Without the dash when the name is as long as names may be.
	if pod.GenerateName != ref.Name+"-" && pod.GenerateName != ref.Name {
		return adopted(ref)
	}
	if template != nil {
		for i := range template.Containers {
			if findContainer(pod.Spec.Containers, template.Containers[i].Name) == nil {
				return adopted(ref)
			}
		}
	}
	return own, ""
}

func adopted(ref *metav1.OwnerReference) (whose, string) {
	return foreign, fmt.Sprintf("adopted by %s, which did not make it", named(ref))
}

// adopts tells whether a Deployment takes a ReplicaSet without a controller.
func (w *Workload) adopts(set *appsv1.ReplicaSet) bool {
	selector, err := metav1.LabelSelectorAsSelector(w.Selector)
	return err == nil && selector.Matches(labels.Set(set.Labels))
}

func isApps(ref *metav1.OwnerReference, kind string) bool {
	version, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && version.Group == appsv1.GroupName && ref.Kind == kind
}

func named(ref *metav1.OwnerReference) string { return ref.Kind + " " + ref.Name }

// Running is what the server's own pods run with. Pods of which it is not known
// whether they are count as the weakest. A foreign one is not counted; but where it
// asks the policy server it is a server's after all, left by an earlier workload, and
// decisions must not rely on a stricter network mode than it has.
func (s Sorted) Running(container string, at Endpoint) v1alpha1.RunningSettings {
	r := Running(s.Own, container, at)
	weakest := Running([]corev1.Pod{{}}, container, at)
	for range s.Unknown {
		r.Pods, r.NetworkMode = r.Pods+1, weakest.NetworkMode
		r.DeniedByServer, r.DefaultPermissions = nil, nil
	}
	for _, stranger := range s.Foreign {
		if left := Running([]corev1.Pod{stranger.Pod}, container, at); left.PolicyPods > 0 && r.Pods > 0 {
			r.NetworkMode = isolation.Weaker(r.NetworkMode, left.NetworkMode)
		}
	}
	return r
}
