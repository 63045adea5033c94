package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// observeServers asks every server pod for its release, and whether it accepts
// the admin token.
func (r *DstackServerReconciler) observeServers(ctx context.Context, p *pass) {
	token, noToken := r.adminToken(ctx, p.server)
	addresses := p.addresses()
	if len(addresses) == 0 {
		p.facts.Connected = status.Unknown(v1alpha1.ReasonNoServerPods, fmt.Sprintf("no pod of %s is ready", p.workload))
		if noToken.Reason != "" {
			p.facts.Connected = noToken
			p.wakeAfter(askLater)
		}
		return
	}
	// Without a token too: which version answers does not depend on it.
	answers := r.Prober.Servers(ctx, addresses, p.apiPort(), token)
	before := p.facts.Version
	reported, all := releases(answers)
	// One that is not Ready may still run what was known before.
	all = all && len(addresses) == len(workload.WithoutLost(p.pods, p.now))
	p.facts.Version = before.Seen(reported, all)
	p.facts.Connected = judgeServers(answers, status.Version{}.Seen(reported, true), noToken)
	if want := p.server.Spec.DefaultPermissions; want != nil && want.AllowManagersManageSecrets != nil && p.facts.Version != before {
		p.wakeAfter(lookAgain) // It decides whether that can be set.
	}
	if !isTrue(p.facts.Connected) {
		p.wakeAfter(askLater)
	}
}

// releases are those that processes reported, and whether all did. A process may report
// it and then fail to judge the token.
func releases(answers []observe.Server) (reported []string, all bool) {
	all = true
	for _, a := range answers {
		if a.Err == nil || a.Release != "" {
			reported = append(reported, a.Release)
		} else {
			all = false
		}
	}
	return reported, all
}

// addresses are those of the server pods that can be asked.
func (p *pass) addresses() []string {
	var addresses []string
	for i := range p.pods {
		if pod := &p.pods[i]; askable(pod) {
			addresses = append(addresses, pod.Status.PodIP)
		}
	}
	return addresses
}

// askable tells whether a pod's process answers, as far as its kubelet knows.
func askable(pod *corev1.Pod) bool {
	return workload.Ready(pod) && pod.DeletionTimestamp == nil && pod.Status.PodIP != ""
}

// apiPort is the port of the API in each server pod.
func (p *pass) apiPort() int {
	if port := p.server.Spec.API.Port; port != 0 {
		return int(port)
	}
	return dstack.DefaultPort
}

func isTrue(f status.Finding) bool { return f.Status == "True" }

// adminToken reads the token of an administrator; no token is no error.
func (r *DstackServerReconciler) adminToken(ctx context.Context, server *v1alpha1.DstackServer) (string, status.Finding) {
	return readAdminToken(ctx, r.Live, server)
}

func readAdminToken(ctx context.Context, reader client.Reader, server *v1alpha1.DstackServer) (string, status.Finding) {
	ref := server.Spec.API.AdminTokenSecretRef
	if ref == nil {
		return "", status.Finding{}
	}
	var secret corev1.Secret
	err := reader.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: ref.Name}, &secret)
	if err != nil && !apierrors.IsNotFound(err) {
		return "", status.Unknown(v1alpha1.ReasonReconcileError, "the Secret with the admin token could not be read: "+err.Error())
	}
	token := string(secret.Data[ref.Key])
	if token == "" {
		return "", status.Stuck(v1alpha1.ReasonTokenNotFound, fmt.Sprintf(
			"Secret %s has no key %s with an admin token in it: create it, or mend spec.api.adminTokenSecretRef", ref.Name, ref.Key))
	}
	return token, status.Finding{}
}

// judgeServers sums up what the server pods say. Their version comes first: what is
// wrong with the token is no evidence of another one.
func judgeServers(answers []observe.Server, version status.Version, noToken status.Finding) status.Finding {
	if f := version.Judge(); f.Reason != "" {
		return f
	}
	if noToken.Reason != "" {
		return noToken
	}
	for _, a := range answers {
		if a.Err != nil {
			return status.Waiting(v1alpha1.ReasonUnreachable, "a server pod does not answer its API: "+a.Err.Error())
		}
		if a.TokenRejected {
			return status.Stuck(v1alpha1.ReasonTokenRejected, "a server pod does not take the admin token for that of a global administrator: mend the Secret that spec.api.adminTokenSecretRef names")
		}
	}
	return status.OK(v1alpha1.ReasonConnected, fmt.Sprintf("all %d server pods answer; dstack %s", len(answers), shown(version)))
}

// shown is how a version is called in messages.
func shown(version status.Version) string {
	if version.Release == "" {
		return "(a development build)"
	}
	return version.Release
}
