package controllers

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
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
	case p.ssh.behind:
		return status.Waiting(v1alpha1.ReasonTokenMismatch, "the token was changed: running SSH proxies keep the earlier one until every server pod has the new one; those pods that have it refuse logins until then")
	}
	return answers
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
	return status.OK(v1alpha1.ReasonAnswering, fmt.Sprintf("every SSH proxy answers, version %s; users reach it at %s", answers[0].Version, p.ssh.address))
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
