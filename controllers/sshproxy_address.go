package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/sshproxy"
	"github.com/dstack-isolation/operator/internal/status"
)

// setAddress notes where users reach the proxy, and what they must trust.
func (p *pass) setAddress(address, source string) status.Finding {
	at, err := sshproxy.ParseAddress(address)
	if err != nil {
		return invalidAddress(source, address, err)
	}
	p.ssh.address, p.facts.SSH.Address = at.String(), at.String()
	p.publishHostKeys()
	return status.Finding{}
}

// publishHostKeys tells users what to trust, once every proxy presents it.
func (p *pass) publishHostKeys() {
	if !p.ssh.answers {
		return
	}
	p.facts.SSH.Fingerprints, p.facts.SSH.KnownHosts = p.ssh.hostKey.Fingerprints(), nil
	if at, err := sshproxy.ParseAddress(p.ssh.address); err == nil {
		p.facts.SSH.KnownHosts = p.ssh.hostKey.KnownHosts(at)
	}
}

func invalidAddress(source, address string, err error) status.Finding {
	return status.Stuck(v1alpha1.ReasonInvalidAddress, fmt.Sprintf("%s %q %s", source, address, err))
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
	hosts, told := balancerHosts(&service), p.toldAddress()
	port := strconv.Itoa(int(p.server.Spec.SSHProxy.Managed.Service.Port))
	switch {
	case len(hosts) == 0 && told == "":
		return status.Waiting(v1alpha1.ReasonAddressPending, fmt.Sprintf("the load balancer of Service %s has no address yet: wait for it, or set spec.sshProxy.managed.address", name)), nil
	case len(hosts) == 0:
		if f := p.setAddress(told, "the address in "+p.workload.String()); f.Reason != "" {
			return f, nil
		}
		return status.Waiting(v1alpha1.ReasonAddressPending, fmt.Sprintf("the load balancer of Service %s has no address, and the server was told %s: wait for it, or set spec.sshProxy.managed.address", name, told)), nil
	case told == "":
		return p.setAddress(usable(hosts)+":"+port, "the load balancer's address"), nil
	}
	if at, err := sshproxy.ParseAddress(told); err == nil && slices.Contains(hosts, at.Host) {
		return p.setAddress(at.Host+":"+port, "the load balancer's address"), nil // Also on another port of the spec's.
	}
	if f := p.setAddress(told, "the address in "+p.workload.String()); f.Reason != "" {
		return f, nil
	}
	found := usable(hosts) + ":" + port
	at, err := sshproxy.ParseAddress(found)
	if err != nil {
		return invalidAddress("the load balancer's new address", found, err), nil
	}
	p.ssh.movedTo = at.String()
	return status.Stuck(v1alpha1.ReasonAddressChanged, fmt.Sprintf(
		"the load balancer of Service %s has address %s now, and the server was told %s", name, p.ssh.movedTo, told)), nil
}

// toldAddress is where users are sent who come by this proxy; "" while the server
// was told of none, or of another.
func (p *pass) toldAddress() string {
	if p.ssh.told == nil || !manifests.IsSSHToken(p.server, p.ssh.told.Token) {
		return ""
	}
	return p.ssh.told.Address
}

// balancerHosts are the host names and addresses of a Service's load balancer. The
// API server takes none with capitals.
func balancerHosts(service *corev1.Service) []string {
	var hosts []string
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if host := cmp.Or(ingress.Hostname, ingress.IP); host != "" {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// usable is the first host that dstack can use, which no IPv6 address is, else the
// first one. That gets no brackets, so that it is refused and not misread.
func usable(hosts []string) string {
	for _, host := range hosts {
		if _, err := sshproxy.ParseAddress(host); err == nil {
			return host
		}
	}
	return hosts[0]
}

// withNewAddress is what is planned with the address that the load balancer has got
// since the server was told another. False if it has not, or while the proxy does not
// answer. Such a change restarts the server, and comes from outside of what anybody
// here wrote, so it waits for approval whatever spec.rollout says.
func (r *DstackServerReconciler) withNewAddress(p *pass) (manifests.Intent, bool) {
	if p.ssh.movedTo == "" || !p.ssh.answers {
		return manifests.Intent{}, false
	}
	in := r.settingsInput(p)
	if in.SSH == nil {
		return manifests.Intent{}, false
	}
	told := *in.SSH
	told.Address = p.ssh.movedTo
	in.SSH = &told
	return manifests.Settings(in), true
}

// approveNewAddress tells how to let the server have the new address.
func (p *pass) approveNewAddress(revision string) {
	if p.facts.SSHProxy.Reason == v1alpha1.ReasonAddressChanged {
		p.facts.SSHProxy.Message += fmt.Sprintf(": that is settings revision %s, which restarts the server; see status.pendingChange and approve it: %s. To keep the address, write it to spec.sshProxy.managed.address",
			revision, p.approvingCommand(revision))
	}
}

// takeNewAddress makes the load balancer's new address the one that users are told.
func (p *pass) takeNewAddress(why string) {
	said := p.facts.SSHProxy
	if f := p.setAddress(p.ssh.movedTo, "the load balancer's address"); f.Reason == "" && said.Reason == v1alpha1.ReasonAddressChanged {
		p.facts.SSHProxy = status.Waiting(said.Reason, said.Message+": "+why)
	}
}
