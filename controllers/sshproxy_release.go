package controllers

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// dropSSHProxy deletes what is left of a managed proxy that the spec asks for no
// more, once no server pod relies on it.
func (r *DstackServerReconciler) dropSSHProxy(ctx context.Context, p *pass) error {
	if p.memory.noProxyLeft {
		return nil
	}
	left, err := r.leftOfSSHProxy(ctx, p.server)
	if err != nil {
		return err
	}
	if !left {
		p.memory.noProxyLeft = true
		return nil
	}
	if reason := p.stillRelies(); reason.Reason != "" {
		if p.server.Spec.SSHProxy == nil {
			p.facts.SSHProxy = reason
		}
		p.wakeAfter(lookForPods)
		return nil
	}
	return r.releaser().deleteSSHProxy(ctx, p.server, nil)
}

// stillRelies says why the managed proxy is kept; an empty finding means that no
// server pod relies on it any more.
func (p *pass) stillRelies() status.Finding {
	on := workload.ReliesOn{Server: p.server.Name, Secret: manifests.SSHTokenSecretName(p.server.Name)}
	kept := status.Waiting(v1alpha1.ReasonReleasing, "the SSH proxy that the operator ran is kept until no server pod relies on it any more")
	if e := p.server.Spec.SSHProxy; e != nil {
		// Who was told of another proxy relies on that one, once it answers.
		if !p.ssh.answers {
			return kept
		}
		on.But = &workload.SSHProxy{Token: e.External.TokenSecretRef, Address: p.ssh.address}
	}
	switch {
	case p.workload == nil:
		// Which proxy a server elsewhere relies on nobody can see, unless it has said
		// that it has the token of the new one.
		if p.server.Spec.SSHProxy != nil && p.memory.verdicts[process{}] != (verdict{p.ssh.tokenID, dstack.SSHProxyTokenAccepted}) {
			return kept
		}
		return status.Finding{}
	case on.Template(p.workload.Template):
		if !apply.OwnsVariable(p.workload, p.container.Name, dstack.EnvSSHProxyAPIToken) {
			return status.Stuck(v1alpha1.ReasonReleasing, fmt.Sprintf(
				"%s: what tells %s of it is not the operator's to take out: take %s, %s, %s and annotation %s out of it", kept.Message, p.workload,
				dstack.EnvSSHProxyAPIToken, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced, workload.AnnotationSSHToken))
		}
		return kept
	case on.Any(p.matching) || !p.workload.ObserveRollout(p.pods).Done:
		return kept
	}
	return status.Finding{}
}

// leftOfSSHProxy tells whether any object of a managed proxy is there.
func (r *DstackServerReconciler) leftOfSSHProxy(ctx context.Context, server *v1alpha1.DstackServer) (bool, error) {
	// Secrets last: they are not cached.
	for _, o := range slices.Concat(sshProcesses(server), sshEntrances(server), sshSecrets(server, nil)) {
		reader := client.Reader(r.Client)
		if _, secret := o.(*corev1.Secret); secret {
			reader = r.Live
		}
		switch err := reader.Get(ctx, client.ObjectKeyFromObject(o), o); {
		case err == nil:
			return true, nil
		case !apierrors.IsNotFound(err):
			return false, fmt.Errorf("look for what is left of the SSH proxy: %w", err)
		}
	}
	return false, nil
}

// sshSecrets are the Secrets that the operator makes for a managed proxy, and those
// copies that are of them.
func sshSecrets(server *v1alpha1.DstackServer, made []string) []client.Object {
	return append(secretAndCopies(server, manifests.SSHTokenSecretName(server.Name), made),
		secretAndCopies(server, manifests.SSHHostKeysSecretName(server.Name), made)...)
}

// sshEntrances are by what its sessions come in and out.
func sshEntrances(server *v1alpha1.DstackServer) []client.Object {
	name := manifests.SSHProxyName(server.Name)
	return []client.Object{
		objectNamed(server, name, &corev1.Service{}),
		objectNamed(server, manifests.ServerServiceName(server.Name), &corev1.Service{}),
		objectNamed(server, name, &networkingv1.NetworkPolicy{}),
	}
}

// sshProcesses are what keeps its pods.
func sshProcesses(server *v1alpha1.DstackServer) []client.Object {
	name := manifests.SSHProxyName(server.Name)
	return []client.Object{objectNamed(server, name, &policyv1.PodDisruptionBudget{}), objectNamed(server, name, &appsv1.Deployment{})}
}

// objectNamed is an object of a server's namespace by name alone.
func objectNamed(server *v1alpha1.DstackServer, name string, o client.Object) client.Object {
	o.SetNamespace(server.Namespace)
	o.SetName(name)
	return o
}

// deleteSSHProxy deletes a managed SSH proxy and what belongs to it, but for what is
// kept. Its pods go on for as long as their sessions may last, which is too long for
// a deletion of the DstackServer, or an uninstall, to wait for: so the pods become
// the owners of their Secrets, Services and NetworkPolicy, and Kubernetes collects
// these with the last of them.
func (r releaser) deleteSSHProxy(ctx context.Context, server *v1alpha1.DstackServer, kept func(client.Object) bool) error {
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(server.Namespace), client.MatchingLabels(manifests.SSHSelectorLabels(server.Name))); err != nil {
		return fmt.Errorf("list pods of the SSH proxy: %w", err)
	}
	var owners []metav1.OwnerReference
	for _, pod := range workload.Live(pods.Items) {
		owners = append(owners, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID})
	}
	made, err := recordedCopies(ctx, r.live, server)
	if err != nil {
		return err
	}
	for _, o := range slices.Concat(sshEntrances(server), sshSecrets(server, made)) {
		switch {
		case kept != nil && kept(o):
			continue
		case len(owners) == 0:
			err = r.delete(ctx, []client.Object{o})
		default:
			err = r.own(ctx, o, owners)
		}
		if err != nil {
			return err
		}
	}
	return r.delete(ctx, sshProcesses(server))
}

// keptWhenDisabled are the objects by which users know a managed proxy: another
// host key or address, when the server is isolated again, would keep them all out.
func keptWhenDisabled(server *v1alpha1.DstackServer) func(client.Object) bool {
	if server.Spec.SSHProxy == nil || server.Spec.SSHProxy.Managed == nil {
		return nil
	}
	return func(o client.Object) bool {
		_, secret := o.(*corev1.Secret)
		_, service := o.(*corev1.Service)
		return secret && !isCopy(server, v1alpha1.SecretKeyReference{Name: o.GetName()}) || service && o.GetName() == manifests.SSHProxyName(server.Name)
	}
}

// own makes the owners of an object be just these.
func (r releaser) own(ctx context.Context, o client.Object, owners []metav1.OwnerReference) error {
	before := o.DeepCopyObject().(client.Object)
	o.SetOwnerReferences(owners)
	if err := r.client.Patch(ctx, o, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("leave %s %s to the pods that need it: %w", r.kind(o), o.GetName(), err)
	}
	return nil
}

// reclaimSSHProxy takes back what was left to the pods of an earlier proxy: it must
// not go with them.
func (r *DstackServerReconciler) reclaimSSHProxy(ctx context.Context, server *v1alpha1.DstackServer) error {
	for _, o := range sshEntrances(server) {
		err := r.Live.Get(ctx, client.ObjectKeyFromObject(o), o)
		if err == nil && len(o.GetOwnerReferences()) > 0 {
			err = r.reclaim(ctx, o)
		}
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("take back what was left to the pods of an earlier SSH proxy: %w", err)
		}
	}
	return nil
}

func (r *DstackServerReconciler) reclaim(ctx context.Context, o client.Object) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"ownerReferences":null}}`, o.GetUID())
	return r.Client.Patch(ctx, o, client.RawPatch(types.MergePatchType, patch))
}
