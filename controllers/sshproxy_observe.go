package controllers

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/sshproxy"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// sshSettings is what the server is told of the SSH proxy. While the proxy does
// not answer the server keeps what it was told: to take it away would put users'
// keys on hosts again, and to tell more would keep everybody out.
func (p *pass) sshSettings() *manifests.SSHSettings {
	if p.server.Spec.SSHProxy == nil {
		return nil
	}
	enforced := p.effective.Plan.SSHEnforced
	if p.ssh.answers && p.ssh.address != "" {
		return &manifests.SSHSettings{TokenID: p.ssh.tokenID, SSHProxy: workload.SSHProxy{
			Token: manifests.SSHTokenRef(p.server), Address: p.ssh.address, Enforced: enforced,
		}}
	}
	live, whole := p.toldOfSSHProxy()
	switch {
	case whole:
		live.Enforced = live.Enforced && enforced
	case p.workload.Template.Annotations[workload.AnnotationSSHToken] != "" && p.server.Status.SSHProxy != nil && p.server.Status.SSHProxy.Address != "":
		// Somebody changed a part of it. To want nothing would take the rest out.
		live = workload.SSHProxy{Token: manifests.SSHTokenRef(p.server), Address: p.server.Status.SSHProxy.Address, Enforced: enforced}
	default:
		return nil
	}
	return &manifests.SSHSettings{TokenID: p.workload.Template.Annotations[workload.AnnotationSSHToken], SSHProxy: live}
}

// toldOfSSHProxy is what the operator told the server of an SSH proxy before.
func (p *pass) toldOfSSHProxy() (workload.SSHProxy, bool) {
	if p.workload == nil || p.workload.Template.Annotations[workload.AnnotationSSHToken] == "" {
		return workload.SSHProxy{}, false
	}
	return workload.LiveSSHProxy(p.container)
}

// sshHeldBack tells whether the server is not told yet what it should be.
func (p *pass) sshHeldBack() bool {
	if p.server.Spec.SSHProxy == nil {
		return false
	}
	told := p.sshSettings()
	return told == nil || p.effective.Plan.SSHEnforced && !told.Enforced
}

// sshEnforcedByTemplate tells whether new pods have the SSH proxy as the only
// way in.
func (p *pass) sshEnforcedByTemplate() bool {
	live, ok := p.toldOfSSHProxy()
	return ok && live.Enforced
}

// setAddress notes where users reach the proxy, and what they must trust.
func (p *pass) setAddress(address, source string) status.Finding {
	at, err := sshproxy.ParseAddress(address)
	if err != nil {
		return status.Stuck(v1alpha1.ReasonInvalidAddress, fmt.Sprintf("%s %q %s", source, address, err))
	}
	p.ssh.address = at.String()
	p.facts.SSH.Address, p.facts.SSH.KnownHosts = at.String(), p.ssh.hostKey.KnownHosts(at)
	return status.Finding{}
}

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
	switch {
	case elsewhere.Reason != "":
		return elsewhere, nil
	case !isTrue(finding) && rollout == "":
		return finding, nil
	case rollout != "":
		return status.Waiting(v1alpha1.ReasonRollingOut, rollout), nil
	case p.ssh.behind:
		return status.Waiting(v1alpha1.ReasonTokenMismatch, "the token was changed: the SSH proxy follows once every server pod has it, and until then some or all logins are refused"), nil
	}
	return finding, nil
}

// findAddress notes the address of the spec, else the load balancer's. The
// finding says why there is none that could be used.
func (r *DstackServerReconciler) findAddress(ctx context.Context, p *pass) (status.Finding, error) {
	if named := p.server.Spec.SSHProxy.Managed.Address; named != "" {
		return p.setAddress(string(named), "spec.sshProxy.managed.address"), nil
	}
	name := manifests.SSHProxyName(p.server.Name)
	var service corev1.Service
	if err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: name}, &service); client.IgnoreNotFound(err) != nil {
		return status.Finding{}, fmt.Errorf("read Service %s: %w", name, err)
	}
	told, _ := p.toldOfSSHProxy()
	found := balancerAddress(&service, p.server.Spec.SSHProxy.Managed.Service.Port)
	if found == "" && told.Address == "" {
		return status.Waiting(v1alpha1.ReasonAddressPending, fmt.Sprintf("the load balancer of Service %s has no address yet: wait for it, or set spec.sshProxy.managed.address", name)), nil
	}
	if told.Address == "" || found == told.Address {
		return p.setAddress(found, "the load balancer's address"), nil
	}
	if f := p.setAddress(told.Address, "the address in "+p.workload.String()); f.Reason != "" || found == "" {
		return f, nil
	}
	return status.Stuck(v1alpha1.ReasonAddressChanged, fmt.Sprintf(
		"the load balancer of Service %s has address %s now, and the server was told %s: write the one that is right to spec.sshProxy.managed.address, which restarts the server if it is the new one", name, found, told.Address)), nil
}

// balancerAddress is the first address of a Service's load balancer, with the
// port; "" if it has none. An IPv6 address gets no brackets, so that it is
// refused and not misread.
func balancerAddress(service *corev1.Service, port int32) string {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if host := cmp.Or(ingress.Hostname, ingress.IP); host != "" {
			return host + ":" + strconv.Itoa(int(port))
		}
	}
	return ""
}

// askSSHProxies asks every address for its banner.
func (r *DstackServerReconciler) askSSHProxies(ctx context.Context, p *pass, addresses []string) status.Finding {
	answers := r.Prober.SSHProxies(ctx, addresses)
	for _, a := range answers {
		if a.Err != nil {
			p.wakeAfter(askLater)
			return status.Waiting(v1alpha1.ReasonUnreachable, "an SSH proxy does not greet as dstack's does: "+a.Err.Error())
		}
	}
	p.ssh.answers = true
	return status.OK(v1alpha1.ReasonAnswering, fmt.Sprintf("every SSH proxy answers, version %s; users log in at %s", answers[0].Version, p.ssh.address))
}

// rolloutOf says what the SSH proxy's Deployment still waits for; "" when every
// replica is ready.
func (r *DstackServerReconciler) rolloutOf(ctx context.Context, server *v1alpha1.DstackServer, name string) (string, error) {
	var d appsv1.Deployment
	if err := r.Client.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: name}, &d); err != nil {
		return "waiting for Deployment " + name + " to appear", client.IgnoreNotFound(err)
	}
	return rolloutOf(&d, fmt.Sprintf("%s=%s,%s=%s", manifests.LabelServer, server.Name, manifests.LabelComponent, manifests.ComponentSSHProxy)), nil
}

// checkSSHTokens asks the server's pods, as the proxy would, whether they have
// its token. One that knows of no proxy although it was told of one does not
// enforce it either.
func (r *DstackServerReconciler) checkSSHTokens(ctx context.Context, p *pass, port int) {
	if p.ssh.token == "" {
		return
	}
	var addresses []string
	for i := range p.pods {
		pod := &p.pods[i]
		told := workload.ToldOfSSHProxy(pod, p.container.Name)
		if told && workload.Ready(pod) && pod.DeletionTimestamp == nil && pod.Status.PodIP != "" {
			addresses = append(addresses, pod.Status.PodIP)
		}
	}
	for _, answer := range r.Prober.SSHProxyTokens(ctx, addresses, port, p.ssh.token) {
		switch {
		case answer.State == dstack.SSHProxyTokenUnset:
			p.facts.SSHProxy = status.Stuck(v1alpha1.ReasonNotEnforced,
				"a server pod knows of no SSH proxy although it was told of one, so it lets users in past it: see that the token in its Secret was not empty when the pod started, and restart the pod")
			p.wakeAfter(askLater)
			return
		case !isTrue(p.facts.SSHProxy):
		case answer.Err != nil:
			p.facts.SSHProxy = status.Waiting(v1alpha1.ReasonUnreachable, "a server pod does not tell whether it has the SSH proxy's token: "+answer.Err.Error())
			p.wakeAfter(askLater)
		case answer.State == dstack.SSHProxyTokenRejected:
			p.facts.SSHProxy = status.Waiting(v1alpha1.ReasonTokenMismatch, "a server pod has another token than the SSH proxy, so that it lets nobody in: waiting for the pod to be replaced")
			p.wakeAfter(askLater)
		}
	}
}
