package controllers

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/sshproxy"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// observeManagedProxy finds the address of a managed proxy and asks its pods.
func (r *DstackServerReconciler) observeManagedProxy(ctx context.Context, p *pass) (status.Finding, error) {
	elsewhere, err := r.findAddress(ctx, p)
	if err != nil {
		return status.Finding{}, err
	}
	name := manifests.SSHProxyName(p.server.Name)
	ips, err := r.readyAddresses(ctx, p.server.Namespace, name)
	if err != nil {
		return status.Finding{}, err
	}
	rollout, err := r.rolloutOf(ctx, p.server, name)
	if err != nil {
		return status.Finding{}, err
	}
	var addresses []string
	for _, ip := range ips {
		addresses = append(addresses, net.JoinHostPort(ip, strconv.Itoa(dstack.SSHProxyPort)))
	}
	finding := status.Waiting(v1alpha1.ReasonRollingOut, "no SSH proxy is ready, so nobody can log in by it")
	if len(addresses) > 0 {
		finding = r.askSSHProxies(ctx, p, addresses)
	}
	return p.judgeManagedProxy(elsewhere, finding, rollout), nil
}

// judgeManagedProxy says what is most worth to be known of a managed proxy: of its
// address, of what its pods answer, and of their rollout.
func (p *pass) judgeManagedProxy(address, answers status.Finding, rollout string) status.Finding {
	switch {
	case answers.Reason == v1alpha1.ReasonRollingOut && p.facts.Running != nil && p.facts.Running.SSHEnforcedPods > 0:
		return status.Waiting(v1alpha1.ReasonUnreachable, "no SSH proxy answers, so nobody can log in, and the server stays closed; "+cmp.Or(rollout, "its Service has no address yet"))
	case address.Reason != "":
		return address
	case !isTrue(answers) && rollout == "":
		return answers
	case rollout != "":
		return status.Waiting(v1alpha1.ReasonRollingOut, rollout)
	case p.workload != nil && workload.NoneLabelled(p.pods, p.server.Name, manifests.Endpoint(p.server)):
		return status.Waiting(v1alpha1.ReasonUnreachable, fmt.Sprintf(
			"no server pod has label %s, so the SSH proxy cannot reach the server and nobody can log in: see SettingsApplied", workload.LabelServerPod))
	case p.ssh.behind:
		return status.Waiting(v1alpha1.ReasonTokenMismatch, "the token was changed: running SSH proxies keep the earlier one until every server pod has the new one; those pods that have it refuse logins until then")
	}
	return answers
}

// askSSHProxies shakes hands with every address: for the banner, and for the host keys
// that users are told to trust.
func (r *DstackServerReconciler) askSSHProxies(ctx context.Context, p *pass, addresses []string) status.Finding {
	published := p.publishedHostKeys()
	types := append(p.ssh.hostKey.Types(), published.Types()...)
	slices.Sort(types)
	answers := r.Prober.SSHProxies(ctx, addresses, slices.Compact(types))
	var presented [][]ssh.PublicKey
	for _, a := range answers {
		if a.Err != nil {
			p.wakeAfter(askLater)
			return status.Waiting(v1alpha1.ReasonUnreachable, "an SSH proxy does not greet as dstack's does: "+a.Err.Error())
		}
		presented = append(presented, a.HostKeys)
	}
	differs, stands := sshproxy.Compare(p.ssh.hostKey, published, presented)
	if differs != "" {
		p.ssh.unpresented = !stands
		p.wakeAfter(askLater)
		return status.Waiting(v1alpha1.ReasonHostKeyMismatch, p.hostKeyMismatch(differs))
	}
	p.ssh.answers = true
	p.publishHostKeys()
	return status.OK(v1alpha1.ReasonAnswering, fmt.Sprintf("every SSH proxy answers, version %s; users reach it at %s", answers[0].Version, p.ssh.address))
}

// hostKeyMismatch says what to do about a proxy that presents other host keys than its
// Secret has.
func (p *pass) hostKeyMismatch(differs string) string {
	ref := manifests.SSHHostKeysRef(p.server)
	what := fmt.Sprintf("an SSH proxy %s of Secret %s: run kubectl -n %s rollout restart deployment/%s",
		differs, ref.Name, p.server.Namespace, manifests.SSHProxyName(p.server.Name))
	if ofOperators(p.server, ref) {
		return what
	}
	return what + ". If it stays, put the keys into a Secret with another name and set spec.sshProxy.managed.hostKeysSecretRef to that"
}

// publishedHostKeys are those that users were told to trust.
func (p *pass) publishedHostKeys() sshproxy.HostKeys {
	if p.server.Status.SSHProxy == nil {
		return nil
	}
	return sshproxy.ParseKnownHosts(p.server.Status.SSHProxy.KnownHosts)
}

// keepPublished leaves what users were told as it is, but for host keys that no proxy
// presents any more.
func (p *pass) keepPublished() {
	p.facts.SSH = p.server.Status.SSHProxy.DeepCopy()
	if p.ssh.unpresented && p.facts.SSH != nil {
		p.facts.SSH.Fingerprints, p.facts.SSH.KnownHosts = nil, nil
	}
}

// observeMemory says so when a replica of the managed proxy was killed for lack of
// memory: the next one may be, and nothing but the sessions that end tells users.
func (r *DstackServerReconciler) observeMemory(ctx context.Context, p *pass) error {
	var pods corev1.PodList
	err := r.Client.List(ctx, &pods, client.InNamespace(p.server.Namespace), client.MatchingLabels(manifests.SSHSelectorLabels(p.server.Name)))
	if err != nil {
		return fmt.Errorf("list pods of the SSH proxy: %w", err)
	}
	var known *metav1.Time
	if before := p.server.Status.SSHProxy; before != nil {
		known = before.LastOutOfMemory
	}
	killed, last := workload.OutOfMemory(pods.Items)
	message := fmt.Sprintf("%d of %d SSH proxy pods ran out of memory, which ended their sessions: raise spec.sshProxy.managed.resources.limits.memory", killed, len(pods.Items))
	if killed > 0 {
		p.facts.SSHProxy.Message += "; " + message
	}
	if !last.IsZero() && (known == nil || known.Before(&last)) {
		p.tell(corev1.EventTypeWarning, v1alpha1.ReasonOutOfMemory, message)
		known = &last
	}
	if p.facts.SSH == nil && known != nil {
		p.facts.SSH = &v1alpha1.SSHProxyStatus{} // A status that was lost: else it were told with each pass.
	}
	if p.facts.SSH != nil {
		p.facts.SSH.LastOutOfMemory = known
	}
	return nil
}

// rolloutOf says what the SSH proxy's Deployment still waits for; "" when every
// replica is ready.
func (r *DstackServerReconciler) rolloutOf(ctx context.Context, server *v1alpha1.DstackServer, name string) (string, error) {
	d, err := r.ownDeployment(ctx, server, name)
	if err != nil || d == nil {
		return "waiting for Deployment " + name + " to appear", err
	}
	return rolloutOf(d, fmt.Sprintf("%s=%s,%s=%s", manifests.LabelServer, server.Name, manifests.LabelComponent, manifests.ComponentSSHProxy)), nil
}
