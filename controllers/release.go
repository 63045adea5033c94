package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// lookForPods is how soon a release looks again whether pods have gone. Their
// own events wake it sooner as a rule.
const lookForPods = 2 * time.Second

// disable gives back all that was set, as spec.injection Disabled asks.
func (r *DstackServerReconciler) disable(ctx context.Context, p *pass) error {
	rel := r.releaser()
	p.facts.Revisions.Rejected, p.facts.Revisions.Applied, p.facts.Injected = "", "", nil
	r.announce(ctx, p)
	free, err := rel.release(ctx, p.server, p.workload)
	if err != nil {
		p.notReleased(err)
		return err
	}
	if !free || heldByManifest(p.workload) != "" { // Its next pod would need what is kept.
		p.wakeAfter(lookForPods)
		p.facts.Settings = releasing(p.workload)
		p.keptUntilReleased()
		return nil
	}
	if !saidDisabled(p.server) {
		if err := rel.deleteChildren(ctx, p.server, keptWhenDisabled(p.server)); err != nil {
			p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
			return err
		}
	}
	p.facts.Revisions.Proven = ""
	disabled := status.Stuck(v1alpha1.ReasonDisabled, "spec.injection is Disabled: all settings were given back, and the server runs without policy")
	p.facts.Settings, p.facts.PolicyPlugin = disabled, disabled
	p.sshProxyIs(disabled)
	return nil
}

// keptUntilReleased is what is said of the processes that server pods still
// rely on.
func (p *pass) keptUntilReleased() {
	p.facts.PolicyPlugin = status.Waiting(v1alpha1.ReasonReleasing, "kept until no server pod asks it")
	p.sshProxyIs(status.Waiting(v1alpha1.ReasonReleasing, "kept until no server pod relies on it"))
}

// notReleased says why the settings could not be taken out. What the pods rely on
// is kept until they are.
func (p *pass) notReleased(err error) {
	p.facts.Settings = cannotRelease(p.workload, err)
	p.keptUntilReleased()
}

// cannotRelease sorts out why settings could not be taken out. The workload is nil
// when it is gone.
func cannotRelease(w *workload.Workload, err error) status.Finding {
	if hopeless(err) != nil && w != nil && apply.Owns(w) {
		return status.Stuck(v1alpha1.ReasonInvalidWorkload, fmt.Sprintf("the API server refuses to take the settings out of %s, so they stay: %s", w, apply.Words(err)))
	}
	return status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
}

// saidDisabled tells whether all was given back and deleted before, for this
// very spec: an idle pass sends nothing.
func saidDisabled(s *v1alpha1.DstackServer) bool {
	c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionPolicyPluginReady)
	return c != nil && c.Reason == v1alpha1.ReasonDisabled && c.ObservedGeneration == s.Generation
}

// finalize gives back all that was set and lets the object go. Done is true
// once it has.
func (r *DstackServerReconciler) finalize(ctx context.Context, p *pass) (done bool, err error) {
	if !controllerutil.ContainsFinalizer(p.server, v1alpha1.Finalizer) {
		return true, nil
	}
	rel := r.releaser()
	if manifests.Elsewhere(p.server) {
		return r.finalizeElsewhere(ctx, p, rel)
	}
	owner, err := r.claimedBy(ctx, p.server)
	if err != nil {
		return false, err
	}
	free, err := r.releaseAll(ctx, p, rel, owner == "")
	if err != nil || !free {
		return false, err
	}
	return true, rel.removeFinalizer(ctx, p.server)
}

// releaseAll gives the workload back, if it is this server's, and, once no pod
// asks it any more, deletes the policy server. In a namespace that is being
// deleted there is nothing to wait for.
func (r *DstackServerReconciler) releaseAll(ctx context.Context, p *pass, rel releaser, ours bool) (bool, error) {
	p.facts.Accepted = status.Stuck(v1alpha1.ReasonReleasing, "the object is being deleted: its settings are taken back")
	p.facts.Injected = nil
	if ours {
		if err := r.lookBeforeRelease(ctx, p); err != nil {
			return false, err
		}
	}
	terminating, err := namespaceTerminating(ctx, r.Live, p.server.Namespace)
	if err != nil {
		return false, err
	}
	if ours {
		p.facts.Revisions.Applied = ""
		r.announce(ctx, p)
	}
	free, err := rel.release(ctx, p.server, p.workload)
	if err != nil && !terminating {
		p.notReleased(err)
		return false, err
	}
	if !free && !terminating {
		p.facts.Settings = releasing(p.workload)
		p.keptUntilReleased()
		p.wakeAfter(lookForPods)
		return false, nil
	}
	return true, rel.deleteChildren(ctx, p.server, nil)
}

// lookBeforeRelease reads the workload, which may be gone, and what its pods
// run with, by which the policy server decides until the last of them is gone.
// The workload is not read from the cache: that might not know yet of settings
// which the last pass applied, and nobody would take them back later.
func (r *DstackServerReconciler) lookBeforeRelease(ctx context.Context, p *pass) error {
	w, err := readWorkload(ctx, r.Live, p.server)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	p.workload = w
	// A container that is missing is reported while the object lives.
	p.container, _ = w.Container(p.server.Spec.Workload.Container)
	return r.readPods(ctx, p)
}

// releasing says what a release waits for. The workload is nil when it is gone.
func releasing(w *workload.Workload) status.Finding {
	if held := heldByManifest(w); held != "" {
		return status.Stuck(v1alpha1.ReasonReleasing, held)
	}
	return status.Waiting(v1alpha1.ReasonReleasing, "the settings were taken back; waiting for the last server pod that asks the policy server to go"+blockedNote(w))
}

// heldByManifest says that settings stay because they are not the operator's to
// take back; "" when there are none.
func heldByManifest(w *workload.Workload) string {
	switch {
	case w == nil || apply.Owns(w):
		return ""
	case w.Injected() != nil:
		return fmt.Sprintf("the settings in %s are its own manifest's, so they stay: take them out there; the policy server is kept until no server pod asks it", w)
	case w.Template.Annotations[workload.AnnotationSSHToken] != "":
		return fmt.Sprintf("what tells %s of the SSH proxy is its own manifest's, so it stays: take %s, %s, %s and annotation %s out there; the proxy is kept until no server pod relies on it", w,
			dstack.EnvSSHProxyAPIToken, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced, workload.AnnotationSSHToken)
	}
	return ""
}

func blockedNote(w *workload.Workload) string {
	if w == nil {
		return ""
	}
	if blocked := w.Blocked(); blocked != "" {
		return "; " + blocked
	}
	return ""
}

// releaser gives workloads back. The manager and the cleanup command share it.
type releaser struct {
	client client.Client
	// live reads Secrets, which are never cached.
	live    client.Reader
	applier *apply.Applier
}

func (r *DstackServerReconciler) releaser() releaser {
	return releaser{client: r.Client, live: r.Live, applier: r.applier}
}

// release takes the settings out of the workload and tells whether no pod asks
// the policy server any more. The workload is nil when it is gone. Right after
// the settings were taken out nothing is called free: a pod that was made just
// before may not be in the cache yet.
func (r releaser) release(ctx context.Context, server *v1alpha1.DstackServer, w *workload.Workload) (free bool, err error) {
	if w != nil {
		released, err := r.applier.Release(ctx, w)
		if err != nil || released {
			return false, err
		}
	}
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(server.Namespace)); err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	live := workload.Live(pods.Items)
	proxies := labels.SelectorFromSet(manifests.SSHSelectorLabels(server.Name))
	others := slices.DeleteFunc(live, func(pod corev1.Pod) bool { return proxies.Matches(labels.Set(pod.Labels)) })
	onProxy := workload.ReliesOn{Server: server.Name, Secret: manifests.SSHTokenSecretName(server.Name)}
	return !workload.AnyUses(others, manifests.Endpoint(server)) && !onProxy.Any(others), nil
}

// deleteChildren deletes the policy server, the SSH proxy and what belongs to
// them, but for what is kept of the SSH proxy.
func (r releaser) deleteChildren(ctx context.Context, server *v1alpha1.DstackServer, kept func(client.Object) bool) error {
	name := manifests.PolicyServerName(server.Name)
	children := []client.Object{
		&appsv1.Deployment{}, &corev1.Service{}, &policyv1.PodDisruptionBudget{}, &networkingv1.NetworkPolicy{},
	}
	for _, o := range children {
		o.SetNamespace(server.Namespace)
		o.SetName(name)
	}
	made, err := recordedCopies(ctx, r.live, server)
	if err != nil {
		return err
	}
	children = append(children, objectNamed(server, manifests.StateName(server.Name), &corev1.ConfigMap{}))
	children = append(children, secretAndCopies(server, manifests.TokenSecretName(server.Name), made)...)
	var plugins corev1.ConfigMapList
	if err := r.client.List(ctx, &plugins, client.InNamespace(server.Namespace), client.MatchingLabels{manifests.LabelServer: server.Name}); err != nil {
		return fmt.Errorf("list ConfigMaps: %w", err)
	}
	for i := range plugins.Items {
		children = append(children, &plugins.Items[i])
	}
	if err := r.delete(ctx, children); err != nil {
		return err
	}
	if err := r.deleteSSHProxy(ctx, server, kept); err != nil || kept != nil {
		return err
	}
	// Last, for it says which copies of Secrets there are.
	return r.delete(ctx, []client.Object{objectNamed(server, manifests.SealSecretName(server.Name), &corev1.Secret{})})
}

// secretAndCopies are a Secret of the operator's own and those copies that are of it.
func secretAndCopies(server *v1alpha1.DstackServer, of string, made []string) []client.Object {
	secrets := []client.Object{objectNamed(server, of, &corev1.Secret{})}
	for _, name := range made {
		if workload.IsSecretCopy(name, of) {
			secrets = append(secrets, objectNamed(server, name, &corev1.Secret{}))
		}
	}
	return secrets
}

func (r releaser) delete(ctx context.Context, objects []client.Object) error {
	for _, o := range objects {
		err := r.client.Delete(ctx, o, client.PropagationPolicy("Background"))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete %s %s: %w", r.kind(o), o.GetName(), err)
		}
	}
	return nil
}

// kind names the kind of an object in messages.
func (r releaser) kind(o client.Object) string {
	gvk, err := r.client.GroupVersionKindFor(o)
	if err != nil {
		return "object"
	}
	return gvk.Kind
}

func (r releaser) removeFinalizer(ctx context.Context, server *v1alpha1.DstackServer) error {
	before := server.DeepCopy()
	if !controllerutil.RemoveFinalizer(server, v1alpha1.Finalizer) {
		return nil
	}
	return client.IgnoreNotFound(r.client.Patch(ctx, server, client.MergeFrom(before)))
}

// namespaceTerminating tells whether the namespace is being deleted. A Role can
// grant this read of its own namespace.
func namespaceTerminating(ctx context.Context, reader client.Reader, name string) (bool, error) {
	var ns corev1.Namespace
	err := reader.Get(ctx, client.ObjectKey{Name: name}, &ns)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read namespace %s: %w", name, err)
	}
	return ns.DeletionTimestamp != nil, nil
}
