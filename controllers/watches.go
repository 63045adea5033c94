package controllers

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
)

const (
	// indexServer finds the profiles of a server. The key is the server's name:
	// both live in one namespace, by which every list is limited.
	indexServer = "spec.serverRef.name"
	// indexWorkload finds the DstackServers that name a workload, by KIND/NAME, or a
	// server that runs elsewhere, by its URL.
	indexWorkload = "spec.workload"
)

// SetupIndexes registers the field indexes that both reconcilers list by.
func SetupIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &v1alpha1.IsolationProfile{}, indexServer, func(o client.Object) []string {
		return []string{o.(*v1alpha1.IsolationProfile).Spec.ServerRef.Name}
	})
	if err != nil {
		return err
	}
	return indexer.IndexField(ctx, &v1alpha1.DstackServer{}, indexWorkload, func(o client.Object) []string {
		return []string{workloadKey(o.(*v1alpha1.DstackServer))}
	})
}

// workloadKey is KIND/NAME of a server's workload, or the URL of one that runs
// elsewhere.
func workloadKey(s *v1alpha1.DstackServer) string {
	if manifests.Elsewhere(s) {
		return elsewhereKey(s.Spec.API.URL)
	}
	return string(s.Spec.Workload.Kind) + "/" + s.Spec.Workload.Name
}

// CacheOptions keep the manager's memory small: one namespace, and of the kinds
// that others use too, only the operator's own objects. Secrets are not cached.
func CacheOptions(namespace string) cache.Options {
	own := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{manifests.LabelManagedBy: manifests.AppName})}
	return cache.Options{
		DefaultNamespaces:           map[string]cache.Config{namespace: {}},
		ReaderFailOnMissingInformer: true,
		ByObject: map[client.Object]cache.ByObject{
			&appsv1.ReplicaSet{}:            {Transform: onlyOwnership},
			&corev1.ConfigMap{}:             own,
			&corev1.Service{}:               own,
			&policyv1.PodDisruptionBudget{}: own,
			&networkingv1.NetworkPolicy{}:   own,
		},
	}
}

// SetupWithManager registers the reconciler and what wakes it: the object's own
// spec and annotations, its profiles' specs, its workload, the pods of that, and
// the operator's own objects.
func (r *DstackServerReconciler) SetupWithManager(mgr ctrl.Manager) error {
	own := handler.EnqueueRequestsFromMapFunc(byLabel)
	workloads := handler.EnqueueRequestsFromMapFunc(r.byWorkload)
	specChanged := builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))
	return ctrl.NewControllerManagedBy(mgr).
		Named("dstackserver").
		For(&v1alpha1.DstackServer{}, specChanged).
		Watches(&v1alpha1.DstackServer{}, handler.EnqueueRequestsFromMapFunc(r.rivals), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.IsolationProfile{}, handler.EnqueueRequestsFromMapFunc(byServerRef), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&appsv1.Deployment{}, workloads).
		Watches(&appsv1.StatefulSet{}, workloads).
		Watches(&appsv1.ReplicaSet{}, handler.EnqueueRequestsFromMapFunc(r.bySet), builder.WithPredicates(ownersChanged)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.byPod)).
		Watches(&discoveryv1.EndpointSlice{}, own).
		Watches(&corev1.Service{}, own).
		Watches(&corev1.ConfigMap{}, own).
		Watches(&policyv1.PodDisruptionBudget{}, own).
		Watches(&networkingv1.NetworkPolicy{}, own).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
}

func request(namespace, name string) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}}
}

func byServerRef(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{request(o.GetNamespace(), o.(*v1alpha1.IsolationProfile).Spec.ServerRef.Name)}
}

// byLabel finds the server of one of the operator's own objects. Kubernetes
// copies the labels of a Service to its EndpointSlices.
func byLabel(_ context.Context, o client.Object) []reconcile.Request {
	if name := o.GetLabels()[manifests.LabelServer]; name != "" {
		return []reconcile.Request{request(o.GetNamespace(), name)}
	}
	return nil
}

// rivals wakes the other DstackServers of the same workload: when the oldest
// goes, the next one takes over.
func (r *DstackServerReconciler) rivals(ctx context.Context, o client.Object) []reconcile.Request {
	return r.serversOf(ctx, o.GetNamespace(), workloadKey(o.(*v1alpha1.DstackServer)))
}

// byWorkload finds the servers that run in a workload, and the server of a
// policy server's own Deployment.
func (r *DstackServerReconciler) byWorkload(ctx context.Context, o client.Object) []reconcile.Request {
	kind := v1alpha1.WorkloadDeployment
	if _, ok := o.(*appsv1.StatefulSet); ok {
		kind = v1alpha1.WorkloadStatefulSet
	}
	return append(r.serversOf(ctx, o.GetNamespace(), string(kind)+"/"+o.GetName()), byLabel(ctx, o)...)
}

func (r *DstackServerReconciler) serversOf(ctx context.Context, namespace, workload string) []reconcile.Request {
	var servers v1alpha1.DstackServerList
	if err := r.Client.List(ctx, &servers, client.InNamespace(namespace), client.MatchingFields{indexWorkload: workload}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Could not list the DstackServers of a workload")
		return nil
	}
	requests := make([]reconcile.Request, len(servers.Items))
	for i := range servers.Items {
		requests[i] = request(namespace, servers.Items[i].Name)
	}
	return requests
}

// byPod finds the servers whose workload selects a pod. There are few servers,
// and all reads are from the cache.
func (r *DstackServerReconciler) byPod(ctx context.Context, o client.Object) []reconcile.Request {
	var servers v1alpha1.DstackServerList
	if err := r.Client.List(ctx, &servers, client.InNamespace(o.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Could not list the DstackServers of a namespace")
		return nil
	}
	requests := byLabel(ctx, o)
	for i := range servers.Items {
		s := &servers.Items[i]
		if manifests.Elsewhere(s) {
			continue
		}
		w, err := r.readWorkload(ctx, s)
		if err != nil {
			// Gone, or not in the cache yet: its own event will wake the server.
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(w.Selector)
		if err == nil && selector.Matches(labels.Set(o.GetLabels())) {
			requests = append(requests, request(s.Namespace, s.Name))
		}
	}
	return requests
}
