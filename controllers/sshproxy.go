package controllers

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/sshproxy"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// lookNowAndThen is how often what is not watched is looked at: Secrets, and an
// SSH proxy that runs elsewhere.
const lookNowAndThen = time.Minute

// errSecretInvalid means that a Secret of the SSH proxy holds nothing usable.
var errSecretInvalid = errors.New("not usable")

// sshPass is what a pass has found out about the SSH proxy.
type sshPass struct {
	token   string
	tokenID string
	hostKey sshproxy.HostKeys
	// keysID changes with the host keys.
	keysID string
	// address at which users reach it; "" while it is not known.
	address string
	// answers is true when it greets as dstack's SSH proxy does.
	answers bool
	// behind is true while the proxy keeps the earlier token, which server pods
	// still have.
	behind bool
}

// applySSHProxy applies the SSH proxy and judges whether the server may be told
// of it. The error is about requests that failed; they stop nothing else.
func (r *DstackServerReconciler) applySSHProxy(ctx context.Context, p *pass) error {
	want := p.server.Spec.SSHProxy
	if want == nil {
		p.sshProxyIs(status.Finding{})
		return r.dropSSHProxy(ctx, p)
	}
	p.wakeAfter(lookNowAndThen)
	finding, err := r.programSSHProxy(ctx, p, want)
	if err != nil {
		p.facts.SSH = p.server.Status.SSHProxy // What users were told stays right.
	}
	switch {
	case errors.Is(err, errSecretInvalid):
		p.facts.SSHProxy = status.Stuck(v1alpha1.ReasonSecretInvalid, strings.TrimSuffix(err.Error(), ": "+errSecretInvalid.Error()))
		p.wakeAfter(askLater) // Secrets are not watched.
		return nil
	case err != nil:
		p.facts.SSHProxy = status.Waiting(v1alpha1.ReasonApplyFailed, err.Error())
		return err
	}
	p.facts.SSHProxy = finding
	if want.Managed == nil {
		return r.dropSSHProxy(ctx, p)
	}
	return nil
}

// sshProxyIs notes a finding about the SSH proxy, if there is to be one.
func (p *pass) sshProxyIs(f status.Finding) {
	if p.server.Spec.SSHProxy == nil {
		f = status.OK(v1alpha1.ReasonNotConfigured, "spec.sshProxy is not set, so the server is told of no SSH proxy")
	}
	p.facts.SSHProxy = f
}

func (r *DstackServerReconciler) programSSHProxy(ctx context.Context, p *pass, want *v1alpha1.SSHProxy) (status.Finding, error) {
	p.facts.SSH = &v1alpha1.SSHProxyStatus{}
	if err := r.readSSHToken(ctx, p); err != nil {
		return status.Finding{}, err
	}
	if want.External != nil {
		if f := p.setAddress(string(want.External.Address), "spec.sshProxy.external.address"); f.Reason != "" {
			return f, nil
		}
		return r.askSSHProxies(ctx, p, []string{p.ssh.address}), nil
	}
	if err := r.readHostKeys(ctx, p); err != nil {
		return status.Finding{}, err
	}
	if pods := p.serverPods(); pods != nil && len(pods.MatchExpressions) > 0 {
		return status.Stuck(v1alpha1.ReasonInvalidWorkload, fmt.Sprintf(
			"%s selects its pods by matchExpressions, which no Service can: the SSH proxy would not reach them; use matchLabels alone, or spec.sshProxy.external", p.workload)), nil
	}
	if err := r.applyManagedProxy(ctx, p); err != nil {
		return status.Finding{}, err
	}
	return r.observeManagedProxy(ctx, p)
}

// applyManagedProxy applies the proxy's objects. While server pods have the
// earlier token, running proxies keep it too: the server goes first, and then
// they follow.
func (r *DstackServerReconciler) applyManagedProxy(ctx context.Context, p *pass) error {
	o := manifests.SSHProxyOptions{
		Token: manifests.SSHTokenRef(p.server), TokenID: p.ssh.tokenID,
		HostKeys: manifests.SSHHostKeysRef(p.server), HostKeysID: p.ssh.keysID,
	}
	var live appsv1.Deployment
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: manifests.SSHProxyName(p.server.Name)}, &live)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read Deployment %s: %w", manifests.SSHProxyName(p.server.Name), err)
	}
	earlier := live.Spec.Template.Annotations[manifests.AnnotationTokenID]
	if earlier != "" && earlier != o.TokenID && live.Status.ReadyReplicas > 0 && workload.AnyReliesOnSSHProxy(p.pods, p.server.Name, o.TokenID) {
		if ref, ok := workload.SSHTokenOf(&live.Spec.Template.Spec.Containers[0]); ok {
			o.Token, o.TokenID, p.ssh.behind = ref, earlier, true
		}
	}
	for _, object := range manifests.SSHProxy(p.server, p.serverPods(), o) {
		if err := r.applyObject(ctx, p.server.Namespace, object); err != nil {
			return err
		}
	}
	return nil
}

// readSSHToken reads the token that proxy and server share, and makes one where
// the user names none. A digest of it could be guessed from where the token is
// the user's own, so it is made with a secret of ours.
func (r *DstackServerReconciler) readSSHToken(ctx context.Context, p *pass) error {
	ref := manifests.SSHTokenRef(p.server)
	token, err := r.sshSecret(ctx, p.server, ref, func() ([]byte, error) { return []byte(rand.Text()), nil })
	if err != nil {
		return err
	}
	if err := sshproxy.CheckToken(string(token)); err != nil {
		return fmt.Errorf("the token in key %s of Secret %s %w: put another there: %w", ref.Key, ref.Name, err, errSecretInvalid)
	}
	p.ssh.token, p.ssh.tokenID = string(token), p.server.Name+"/"+keyedDigest(p.token, "ssh-token", token)
	return nil
}

// readHostKeys reads the proxy's private host keys, and makes one where the user
// names none.
func (r *DstackServerReconciler) readHostKeys(ctx context.Context, p *pass) error {
	ref := manifests.SSHHostKeysRef(p.server)
	private, err := r.sshSecret(ctx, p.server, ref, sshproxy.NewHostKey)
	if err != nil {
		return err
	}
	keys, err := sshproxy.ParseHostKeys(private)
	if err != nil {
		return fmt.Errorf("in the host keys in key %s of Secret %s, %w: %w", ref.Key, ref.Name, err, errSecretInvalid)
	}
	p.ssh.hostKey, p.ssh.keysID = keys, keyedDigest(p.token, "host-keys", private)
	p.facts.SSH.Fingerprints = keys.Fingerprints()
	return nil
}

func keyedDigest(secret, what string, of []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(h, "%s\x00", what)
	h.Write(of)
	return hex.EncodeToString(h.Sum(nil))[:8]
}

// sshSecret reads one key of a Secret. One of the operator's own is made where
// there is none, and never changed; the user's is only read.
func (r *DstackServerReconciler) sshSecret(ctx context.Context, server *v1alpha1.DstackServer, ref v1alpha1.SecretKeyReference, generate func() ([]byte, error)) ([]byte, error) {
	var secret corev1.Secret
	ours := ref.Name == manifests.SSHTokenSecretName(server.Name) || ref.Name == manifests.SSHHostKeysSecretName(server.Name)
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: ref.Name}, &secret)
	if apierrors.IsNotFound(err) && ours {
		var value []byte
		if value, err = generate(); err != nil {
			return nil, err
		}
		secret = corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: server.Namespace, Name: ref.Name, Labels: manifests.SSHLabels(server)},
			Immutable:  ptr.To(true),
			Data:       map[string][]byte{ref.Key: value},
		}
		err = r.Client.Create(ctx, &secret, client.FieldOwner("dstack-isolation-manager"))
	}
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read Secret %s: %w", ref.Name, err)
	case len(secret.Data[ref.Key]) > 0:
		return secret.Data[ref.Key], nil
	case ours:
		return nil, fmt.Errorf("key %s of Secret %s is missing or empty: delete the Secret, and the operator makes another: %w", ref.Key, ref.Name, errSecretInvalid)
	default:
		return nil, fmt.Errorf("key %s of Secret %s is missing or empty: create it, or mend spec.sshProxy: %w", ref.Key, ref.Name, errSecretInvalid)
	}
}

// dropSSHProxy deletes what is left of a managed proxy once no server pod relies
// on it.
func (r *DstackServerReconciler) dropSSHProxy(ctx context.Context, p *pass) error {
	var d appsv1.Deployment
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: manifests.SSHProxyName(p.server.Name)}, &d)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	// Whether a server elsewhere relies on it nobody can see.
	toldOther := p.workload != nil && p.workload.Template.Annotations[workload.AnnotationSSHToken] != p.ssh.tokenID
	if toldOther || workload.AnyReliesOnSSHProxy(p.pods, p.server.Name, p.ssh.tokenID) {
		p.wakeAfter(lookForPods)
		return nil
	}
	rel := releaser{client: r.Client, applier: r.applier}
	children := sshChildren(p.server)
	// The Deployment last: while it is there, the rest is looked for.
	return rel.delete(ctx, append(children[1:], children[0]))
}
