package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
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

// sshPass is what a pass has found out about the SSH proxy.
type sshPass struct {
	token   string
	tokenID string
	// tokenUID is the uid of the user's Secret with it, if that is immutable.
	tokenUID types.UID
	hostKey  sshproxy.HostKeys
	// keysID changes with the host keys.
	keysID string
	// tokenRef and keysRef are where pods find token and host keys.
	tokenRef, keysRef v1alpha1.SecretKeyReference
	// told is what the operator has told the server of an SSH proxy; nil for nothing.
	// toldErr is why that is not known.
	told    *manifests.SSHSettings
	toldErr error
	// address at which users reach it; "" while it is not known.
	address string
	// movedTo is the address that the load balancer has instead of the one that the
	// server was told; "" if it has not changed.
	movedTo string
	// answers is true when it greets as dstack's SSH proxy does, with the host keys that
	// it should have.
	answers bool
	// unpresented is true when no proxy presents the host keys any more that users were told.
	unpresented bool
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
	r.readTold(ctx, p)
	finding, err := r.programSSHProxy(ctx, p, want)
	if err != nil || p.ssh.told != nil && !p.ssh.answers {
		p.keepPublished() // What users were told stays right.
	}
	switch {
	case errors.Is(err, errSecretInvalid):
		p.facts.SSHProxy = status.Stuck(v1alpha1.ReasonSecretInvalid, strings.TrimSuffix(err.Error(), ": "+errSecretInvalid.Error()))
		p.wakeAfter(askLater) // Secrets are not watched.
		return nil
	case errors.Is(err, errTokenReplaced):
		p.facts.SSHProxy = tokenReplaced(manifests.SSHTokenRef(p.server))
		p.wakeAfter(askLater)
		return nil
	case apierrors.IsInvalid(err) || apierrors.IsForbidden(err):
		// It is the same the next time: somebody must act, and wakes the operator then.
		p.facts.SSHProxy = status.Stuck(v1alpha1.ReasonApplyFailed, err.Error())
		return nil
	case err != nil:
		p.facts.SSHProxy = status.Waiting(v1alpha1.ReasonApplyFailed, err.Error())
		return err
	}
	p.facts.SSHProxy = finding
	switch {
	case want.Managed == nil:
		return r.dropSSHProxy(ctx, p)
	case isTrue(finding):
		err = r.retireOwnToken(ctx, p)
	}
	return errors.Join(err, r.observeMemory(ctx, p))
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
		Token: p.ssh.tokenRef, TokenID: p.ssh.tokenID, HostKeys: p.ssh.keysRef, HostKeysID: p.ssh.keysID,
		TokenUID: p.ssh.tokenUID,
	}
	var live appsv1.Deployment
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: manifests.SSHProxyName(p.server.Name)}, &live)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read Deployment %s: %w", manifests.SSHProxyName(p.server.Name), err)
	}
	if err != nil {
		if err := r.reclaimSSHProxy(ctx, p.server); err != nil {
			return err
		}
	}
	if o.TokenReplaced(&live) {
		return errTokenReplaced
	}
	earlier := live.Spec.Template.Annotations[manifests.AnnotationTokenID]
	if earlier != "" && earlier != o.TokenID && live.Status.ReadyReplicas > 0 &&
		workload.AnyHasOtherSSHToken(workload.WithoutLost(p.pods, p.now), p.server.Name, o.TokenID) && !p.allAccept(o.TokenID) {
		if ref, ok := workload.SSHTokenOf(&live.Spec.Template.Spec.Containers[0]); ok {
			o.Token, o.TokenID, p.ssh.behind = ref, earlier, true
			o.TokenUID = types.UID(live.Annotations[manifests.AnnotationImmutableToken])
		}
	}
	var failed []error
	for _, object := range manifests.SSHProxy(p.server, o) {
		failed = append(failed, r.applyObject(ctx, p.server.Namespace, object))
	}
	p.memory.noProxyLeft = false
	return errors.Join(failed...)
}
