package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/sshproxy"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// errSecretInvalid means that a Secret of the SSH proxy holds nothing usable.
var errSecretInvalid = errors.New("not usable")

// errTokenReplaced means that an immutable Secret of the user's has another token under
// the same name.
var errTokenReplaced = errors.New("token replaced")

// tokenReplaced says what to do about it. Nothing has restarted for the new token yet.
func tokenReplaced(ref v1alpha1.SecretKeyReference) status.Finding {
	return status.Stuck(v1alpha1.ReasonTokenMismatch, fmt.Sprintf(
		"Secret %s was immutable and has been replaced: a node that runs an SSH proxy may serve the former token under this name. "+
			"Running pods keep the former token: put the new one into a Secret with another name, and set spec.sshProxy.managed.tokenSecretRef to it", ref.Name))
}

// readSSHToken reads the token that proxy and server share, and makes one where
// the user names none. A plain digest of it could be guessed from where the token is
// the user's own, so it is made with a secret of ours.
func (r *DstackServerReconciler) readSSHToken(ctx context.Context, p *pass) error {
	ref := manifests.SSHTokenRef(p.server)
	secret, err := r.sshSecret(ctx, p.server, ref, newToken)
	if err != nil {
		return err
	}
	token := secret.Data[ref.Key]
	if ptr.Deref(secret.Immutable, false) && !ofOperators(p.server, ref) {
		p.ssh.tokenUID = secret.UID
	}
	if err := sshproxy.CheckToken(string(token)); err != nil {
		return fmt.Errorf("the token in key %s of Secret %s %w: put another there: %w", ref.Key, ref.Name, err, errSecretInvalid)
	}
	id := p.secrets.id(ref.Name, "ssh-token", token)
	p.ssh.token, p.ssh.tokenID = string(token), p.server.Name+"/"+id
	p.ssh.tokenRef, err = r.refForPods(ctx, p, ref, id, token)
	return err
}

// refForPods is where pods find a secret value: in a copy of the operator's own Secret,
// or in the user's.
func (r *DstackServerReconciler) refForPods(ctx context.Context, p *pass, ref v1alpha1.SecretKeyReference, id string, value []byte) (v1alpha1.SecretKeyReference, error) {
	if !ofOperators(p.server, ref) {
		return ref, nil
	}
	name, err := r.copyOf(ctx, p, secretCopy{of: ref.Name, key: ref.Key, id: id, value: value, labels: manifests.SSHLabels(p.server)})
	return v1alpha1.SecretKeyReference{Name: name, Key: ref.Key}, err
}

// readHostKeys reads the proxy's private host keys, and makes one where the user
// names none.
func (r *DstackServerReconciler) readHostKeys(ctx context.Context, p *pass) error {
	ref := manifests.SSHHostKeysRef(p.server)
	secret, err := r.sshSecret(ctx, p.server, ref, sshproxy.NewHostKey)
	if err != nil {
		return err
	}
	private := secret.Data[ref.Key]
	keys, err := sshproxy.ParseHostKeys(private)
	if err != nil {
		return fmt.Errorf("in the host keys in key %s of Secret %s, %w: %w", ref.Key, ref.Name, err, errSecretInvalid)
	}
	p.ssh.hostKey, p.ssh.keysID = keys, p.secrets.id(ref.Name, "host-keys", private)
	p.ssh.keysRef, err = r.refForPods(ctx, p, ref, p.ssh.keysID, private)
	return err
}

// sshSecret reads a Secret of which one key is wanted. One of the operator's own is made where
// there is none; the user's is only read.
func (r *DstackServerReconciler) sshSecret(ctx context.Context, server *v1alpha1.DstackServer, ref v1alpha1.SecretKeyReference, generate func() ([]byte, error)) (*corev1.Secret, error) {
	var secret corev1.Secret
	if err := mayBeNamed(server, ref); err != nil {
		return nil, err
	}
	ours := ofOperators(server, ref)
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: ref.Name}, &secret)
	if err == nil && ours && len(secret.OwnerReferences) > 0 {
		err = r.reclaim(ctx, &secret) // It was left to the pods of an earlier proxy.
	}
	if apierrors.IsNotFound(err) && ours {
		err = r.makeSecret(ctx, &secret, objectMeta(server, ref.Name, manifests.SSHLabels(server)), ref.Key, generate)
	}
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read Secret %s: %w", ref.Name, err)
	case len(secret.Data[ref.Key]) > 0:
		return &secret, nil
	case ours:
		return nil, fmt.Errorf("key %s of Secret %s is missing or empty: delete the Secret, and the operator makes another: %w", ref.Key, ref.Name, errSecretInvalid)
	default:
		return nil, fmt.Errorf("key %s of Secret %s is missing or empty: create it, or mend spec.sshProxy: %w", ref.Key, ref.Name, errSecretInvalid)
	}
}

// mayBeNamed says what is wrong with a Secret that the spec names although it goes at
// a time of the operator's choosing.
func mayBeNamed(server *v1alpha1.DstackServer, ref v1alpha1.SecretKeyReference) error {
	switch {
	case isCopy(server, ref):
		return fmt.Errorf("%s names Secret %s, a copy that the operator deletes when no pod reads it: leave the reference out, or put the value into another Secret and name that: %w", sshSecretField(server, ref), ref.Name, errSecretInvalid)
	case ofOperators(server, ref) && server.Spec.SSHProxy.Managed == nil:
		return fmt.Errorf("spec.sshProxy.external.tokenSecretRef names Secret %s, which is the operator's own and goes with the proxy that it ran: copy the token into another Secret, and name that: %w", ref.Name, errSecretInvalid)
	}
	return nil
}

// sshSecretField is the field of the spec that names a Secret of the SSH proxy.
func sshSecretField(server *v1alpha1.DstackServer, ref v1alpha1.SecretKeyReference) string {
	switch {
	case server.Spec.SSHProxy.Managed == nil:
		return "spec.sshProxy.external.tokenSecretRef"
	case ref == manifests.SSHTokenRef(server):
		return "spec.sshProxy.managed.tokenSecretRef"
	default:
		return "spec.sshProxy.managed.hostKeysSecretRef"
	}
}

// ofOperators tells whether a Secret has the name of one that the operator makes.
func ofOperators(server *v1alpha1.DstackServer, ref v1alpha1.SecretKeyReference) bool {
	return ref.Name == manifests.SSHTokenSecretName(server.Name) || ref.Name == manifests.SSHHostKeysSecretName(server.Name)
}

// isCopy tells whether a Secret has the name of a copy of one that the operator makes.
func isCopy(server *v1alpha1.DstackServer, ref v1alpha1.SecretKeyReference) bool {
	return workload.IsSecretCopy(ref.Name, manifests.SSHTokenSecretName(server.Name)) ||
		workload.IsSecretCopy(ref.Name, manifests.SSHHostKeysSecretName(server.Name))
}

// retireOwnToken deletes the token of the operator's own once the user's is in use
// and no server pod refers to the other: it may have been replaced because somebody
// knows it, and must not come back when the user's is named no more.
func (r *DstackServerReconciler) retireOwnToken(ctx context.Context, p *pass) error {
	own := manifests.SSHTokenSecretName(p.server.Name)
	if manifests.SSHTokenRef(p.server).Name == own {
		p.memory.noTokenLeft = false
		return nil
	}
	if p.memory.noTokenLeft {
		return nil
	}
	refers := workload.ReliesOn{Secret: own}
	if p.workload != nil && (refers.Template(p.workload.Template) || refers.Any(p.matching)) {
		return nil
	}
	secret := &corev1.Secret{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: own}, secret)
	if err == nil {
		err = r.Client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete Secret %s, whose token is used no more: %w", own, err)
	}
	p.memory.noTokenLeft = true
	return nil
}
