package controllers

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/status"
)

// Config is what a DstackServerReconciler is built of.
type Config struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads from the API server: Secrets, which are never cached, and the
	// namespace.
	Live     client.Reader
	Resolver *Resolver
	Prober   *observe.Prober
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Manifests are the facts about this build that its objects depend on.
	Manifests manifests.Options
	// Plugin are the files of the Python plugin.
	Plugin manifests.PluginFiles
	// InjectionDeadline is how long the first pod with the settings may take to
	// become ready before they are taken back, and a later one, where its controller
	// counts no time, before status says that it does not.
	InjectionDeadline time.Duration
	// Settle is for how long planned settings must stay the same before a server
	// restarts for them; 0 applies each change at once.
	Settle time.Duration
	// ProxyPatience is for how long the first injection waits for the SSH proxy; 0
	// does not wait.
	ProxyPatience time.Duration
}

// DefaultInjectionDeadline leaves time to pull an image and to migrate a
// database.
const DefaultInjectionDeadline = 5 * time.Minute

// DstackServerReconciler applies what the profiles of a server ask for.
type DstackServerReconciler struct {
	Config
	applier *apply.Applier
	// memories has a *memory for the uid of each server.
	memories sync.Map
}

// NewDstackServerReconciler returns a reconciler of DstackServers.
func NewDstackServerReconciler(c Config) *DstackServerReconciler {
	if c.InjectionDeadline == 0 {
		c.InjectionDeadline = DefaultInjectionDeadline
	}
	return &DstackServerReconciler{Config: c, applier: apply.New(c.Client)}
}

// Reconcile makes one pass: look, apply, look again, and say what was seen. A
// step that fails stops the writes after it, never the status.
func (r *DstackServerReconciler) Reconcile(ctx context.Context, server *v1alpha1.DstackServer) (reconcile.Result, error) {
	p := newPass(server)
	p.memory, p.now = r.remember(server.UID), r.Clock.Now()
	var err error
	if server.DeletionTimestamp != nil {
		done, finalizeErr := r.finalize(ctx, p)
		if done {
			r.Resolver.Forget(client.ObjectKeyFromObject(server))
			r.memories.Delete(server.UID)
			return reconcile.Result{}, finalizeErr
		}
		err = finalizeErr
	} else {
		err = r.program(ctx, p)
	}
	statusErr := r.writeStatus(ctx, p)
	if err != nil && !apierrors.IsConflict(err) {
		return reconcile.Result{}, errors.Join(err, statusErr)
	}
	if err = errors.Join(err, statusErr); err != nil {
		return againOnConflict(err)
	}
	return reconcile.Result{RequeueAfter: p.requeue}, nil
}

// lookAgain is how soon a pass is repeated that has seen an older version of an
// object than there is.
const lookAgain = 200 * time.Millisecond

// againOnConflict takes a lost race for an object's version for what it is: the
// cache was behind, and nothing is wrong.
func againOnConflict(err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: lookAgain}, nil
	}
	return reconcile.Result{}, err
}

// program runs the steps in order.
func (r *DstackServerReconciler) program(ctx context.Context, p *pass) error {
	if err := r.ensureFinalizer(ctx, p.server); err != nil {
		return err
	}
	if err := r.look(ctx, p); err != nil || !p.accepted() {
		return err
	}
	if manifests.Elsewhere(p.server) {
		return r.programElsewhere(ctx, p)
	}
	if p.server.Spec.Injection == v1alpha1.InjectionDisabled {
		err := r.disable(ctx, p)
		r.observeServers(ctx, p)
		return err
	}
	ownErr := r.applyOwn(ctx, p)
	observeErr := r.observePolicyServers(ctx, p, ownErr)
	var sshErr, settingsErr error
	if ownErr == nil {
		sshErr = r.applySSHProxy(ctx, p)
	}
	r.checkSSHTokens(ctx, p)
	switch {
	case ownErr != nil:
	case p.server.Spec.Injection == v1alpha1.InjectionManual:
		settingsErr = r.showSettings(ctx, p)
	default:
		settingsErr = r.keepSettings(ctx, p)
	}
	r.observeServers(ctx, p)
	r.listGap(ctx, p)
	if errors.Is(ownErr, errTokenInvalid) {
		return nil // Somebody must act: the status says so.
	}
	return r.retireUnlessFailed(ctx, p, ownErr, observeErr, sshErr, settingsErr)
}

// retireUnlessFailed is the last step: only a pass without a failed step has seen which
// copies of Secrets nobody reads.
func (r *DstackServerReconciler) retireUnlessFailed(ctx context.Context, p *pass, steps ...error) error {
	if err := errors.Join(steps...); err != nil {
		return err
	}
	return r.retireCopies(ctx, p)
}

// ensureFinalizer comes before any effect on other objects. It does not change
// the generation, so the pass goes on.
func (r *DstackServerReconciler) ensureFinalizer(ctx context.Context, server *v1alpha1.DstackServer) error {
	before := server.DeepCopy()
	if !controllerutil.AddFinalizer(server, v1alpha1.Finalizer) {
		return nil
	}
	return r.Client.Patch(ctx, server, unlessChanged(before))
}

// unlessChanged is a patch that fails with a conflict when the object has
// changed since it was read, so that a stale cache never writes a stale status.
func unlessChanged(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}

// writeStatus writes only what changed, then tells of transitions.
func (r *DstackServerReconciler) writeStatus(ctx context.Context, p *pass) error {
	desired := status.Server(p.server, p.facts, r.Clock.Now())
	if equality.Semantic.DeepEqual(p.server.Status, desired) {
		return nil
	}
	before := p.server.DeepCopy()
	p.server.Status = desired
	if err := r.Client.Status().Patch(ctx, p.server, unlessChanged(before)); err != nil {
		return client.IgnoreNotFound(err)
	}
	emit(r.Recorder, p.server, before.Status.Conditions, desired.Conditions)
	p.emitNotes(r.Recorder)
	return nil
}
