package controllers

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/status"
)

// IsolationProfileReconciler writes the status of profiles, and nothing else.
// What a profile asks for is applied by the reconciler of its server.
type IsolationProfileReconciler struct {
	client   client.Client
	resolver *Resolver
	recorder events.EventRecorder
	clock    clock.PassiveClock
}

// NewIsolationProfileReconciler returns a reconciler of IsolationProfiles.
func NewIsolationProfileReconciler(c client.Client, r *Resolver, recorder events.EventRecorder, now clock.PassiveClock) *IsolationProfileReconciler {
	return &IsolationProfileReconciler{client: c, resolver: r, recorder: recorder, clock: now}
}

// Reconcile computes the profile's status from its server's.
func (r *IsolationProfileReconciler) Reconcile(ctx context.Context, profile *v1alpha1.IsolationProfile) (reconcile.Result, error) {
	if profile.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	desired, wake, err := r.status(ctx, profile)
	if err != nil {
		return reconcile.Result{}, err
	}
	if equality.Semantic.DeepEqual(profile.Status, desired) {
		return wake, nil
	}
	before := profile.DeepCopy()
	profile.Status = desired
	if err := r.client.Status().Patch(ctx, profile, unlessChanged(before)); err != nil {
		return againOnConflict(client.IgnoreNotFound(err))
	}
	emit(r.recorder, profile, before.Status.Conditions, desired.Conditions)
	return wake, nil
}

// status computes the profile's status, and when it is to be looked at again:
// the status names whom exceptions are for, and they end by themselves.
func (r *IsolationProfileReconciler) status(ctx context.Context, profile *v1alpha1.IsolationProfile) (
	out v1alpha1.IsolationProfileStatus, wake reconcile.Result, err error,
) {
	var server v1alpha1.DstackServer
	key := client.ObjectKey{Namespace: profile.Namespace, Name: profile.Spec.ServerRef.Name}
	now := r.clock.Now()
	err = r.client.Get(ctx, key, &server)
	if apierrors.IsNotFound(err) {
		return status.ProfileWithoutServer(profile, now), wake, nil
	}
	if err != nil {
		return out, wake, err
	}
	effective, err := r.resolver.Resolve(ctx, &server)
	if err != nil {
		return out, wake, err
	}
	if p := effective.Profile(profile.Name); p != nil {
		if next := effective.NextExpiryOf(p, now); !next.IsZero() {
			wake.RequeueAfter = next.Sub(now)
		}
	}
	return status.Profile(profile, status.ViewOf(&server, effective), now), wake, nil
}

// SetupWithManager registers the reconciler and what wakes it: the profile's
// own spec, and every change of its server's spec or status.
func (r *IsolationProfileReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("isolationprofile").
		For(&v1alpha1.IsolationProfile{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.DstackServer{}, handler.EnqueueRequestsFromMapFunc(r.profilesOf)).
		// A change of the server wakes all its profiles, and most of a pass is a wait
		// for the API server.
		WithOptions(controller.Options{MaxConcurrentReconciles: 8}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
}

func (r *IsolationProfileReconciler) profilesOf(ctx context.Context, server client.Object) []reconcile.Request {
	var profiles v1alpha1.IsolationProfileList
	err := r.client.List(ctx, &profiles, client.InNamespace(server.GetNamespace()),
		client.MatchingFields{indexServer: server.GetName()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Could not list the profiles of a server")
		return nil
	}
	requests := make([]reconcile.Request, len(profiles.Items))
	for i := range profiles.Items {
		requests[i] = reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&profiles.Items[i])}
	}
	return requests
}
