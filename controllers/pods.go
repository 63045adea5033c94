package controllers

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// readers are a cache and the API server behind it, which may be the same.
type readers struct{ cached, live client.Reader }

// readPods finds the live pods of the workload and what they run with.
func (r *DstackServerReconciler) readPods(ctx context.Context, p *pass) error {
	return readers{r.Client, r.Live}.pods(ctx, p)
}

// pods sorts the live pods that the workload's selector matches.
func (r readers) pods(ctx context.Context, p *pass) error {
	selector, err := metav1.LabelSelectorAsSelector(p.workload.Selector)
	if err != nil {
		return fmt.Errorf("read the selector of %s: %w", p.workload, err)
	}
	var pods corev1.PodList
	if err := r.cached.List(ctx, &pods, client.InNamespace(p.server.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return fmt.Errorf("list pods of %s: %w", p.workload, err)
	}
	p.matching = workload.Live(pods.Items)
	slices.SortFunc(p.matching, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	sets, err := r.replicaSets(ctx, p)
	if err != nil {
		return err
	}
	sorted := p.workload.Sort(p.matching, sets, p.memory.owned)
	p.pods, p.facts.Pods = sorted.Own, status.PodsOwned(p.workload, sorted)
	p.rememberOwned()
	if len(sorted.Unknown) > 0 {
		p.wakeAfter(askLater)
	}
	name := p.server.Spec.Workload.Container
	if p.container != nil {
		name = p.container.Name
	}
	running := sorted.Running(name, manifests.Endpoint(p.server))
	p.countComing(&running)
	p.facts.Running = &running
	return nil
}

// replicaSets are those of the matching pods, as far as they can be read. One that
// was made just now is not in the cache yet.
func (r readers) replicaSets(ctx context.Context, p *pass) ([]appsv1.ReplicaSet, error) {
	if p.workload.Kind != v1alpha1.WorkloadDeployment || len(p.matching) == 0 {
		return nil, nil
	}
	var list appsv1.ReplicaSetList
	if err := r.cached.List(ctx, &list, client.InNamespace(p.server.Namespace)); err != nil {
		return nil, fmt.Errorf("list ReplicaSets: %w", err)
	}
	sets, tried := list.Items, map[types.UID]bool{}
	for i := range p.matching {
		ref := metav1.GetControllerOf(&p.matching[i])
		if ref == nil || ref.Kind != "ReplicaSet" || tried[ref.UID] || slices.ContainsFunc(sets, func(s appsv1.ReplicaSet) bool { return s.UID == ref.UID }) {
			continue
		}
		tried[ref.UID] = true
		var set appsv1.ReplicaSet
		switch err := r.live.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: ref.Name}, &set); {
		case err == nil:
			sets = append(sets, set)
		case !apierrors.IsNotFound(err):
			// Its pods count as unknown, which keeps nothing else from going on.
			logf.FromContext(ctx).Error(err, "Could not read a ReplicaSet", "name", ref.Name)
		}
	}
	return sets, nil
}

// rememberOwned keeps which pods are the workload's: a ReplicaSet may go before its
// last pod has.
func (p *pass) rememberOwned() {
	owned := make(map[types.UID]bool, len(p.pods))
	for i := range p.pods {
		owned[p.pods[i].UID] = true
	}
	p.memory.owned = owned
}

// ownersChanged leaves out what ReplicaSets count of their pods.
var ownersChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return !equality.Semantic.DeepEqual(e.ObjectOld.GetOwnerReferences(), e.ObjectNew.GetOwnerReferences())
}}

// bySet finds the servers of a ReplicaSet: its pods may have come before it.
func (r *DstackServerReconciler) bySet(ctx context.Context, o client.Object) []reconcile.Request {
	if owner := metav1.GetControllerOf(o); owner != nil && owner.Kind == string(v1alpha1.WorkloadDeployment) {
		return r.serversOf(ctx, o.GetNamespace(), owner.Kind+"/"+owner.Name)
	}
	return nil
}

// onlyOwnership keeps of a cached ReplicaSet what tells whose a pod is.
func onlyOwnership(o any) (any, error) {
	set, ok := o.(*appsv1.ReplicaSet)
	if !ok {
		return o, nil
	}
	set.ManagedFields, set.Annotations = nil, nil
	containers := make([]corev1.Container, len(set.Spec.Template.Spec.Containers))
	for i := range containers {
		containers[i].Name = set.Spec.Template.Spec.Containers[i].Name
	}
	set.Spec = appsv1.ReplicaSetSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: containers}}}
	set.Status = appsv1.ReplicaSetStatus{}
	return set, nil
}
