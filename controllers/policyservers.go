package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/status"
)

const (
	// askAgain is how soon policy servers are asked again while they decide by an
	// older revision: they learn of a change within a second.
	askAgain = 500 * time.Millisecond
	// askLater is how soon processes that do not answer are asked again.
	askLater = 10 * time.Second
)

// observePolicyServers asks every policy server pod what it decides by.
// applyErr is why the objects could not be applied. The error is about reads
// that failed.
func (r *DstackServerReconciler) observePolicyServers(ctx context.Context, p *pass, applyErr error) error {
	switch {
	case errors.Is(applyErr, errTokenInvalid):
		p.facts.PolicyPlugin = status.Stuck(v1alpha1.ReasonTokenInvalid, applyErr.Error())
		p.wakeAfter(askLater) // Secrets are not watched.
		return nil
	case applyErr != nil:
		p.facts.PolicyPlugin = status.Waiting(v1alpha1.ReasonApplyFailed, applyErr.Error())
		return nil
	}
	finding, err := r.askPolicyServers(ctx, p)
	if err != nil {
		finding = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
	}
	p.facts.PolicyPlugin = finding
	return err
}

// askPolicyServers judges what they answer and how their rollout stands.
func (r *DstackServerReconciler) askPolicyServers(ctx context.Context, p *pass) (status.Finding, error) {
	rollout, err := r.policyRollout(ctx, p.server)
	if err != nil {
		return status.Finding{}, err
	}
	addresses, err := r.readyAddresses(ctx, p.server.Namespace, manifests.PolicyServerName(p.server.Name))
	if err != nil {
		return status.Finding{}, err
	}
	answers := r.Prober.PolicyServers(ctx, addresses, manifests.PortDecisions, p.token)
	p.policyServers = answers
	finding, served := judgePolicyServers(answers, p.effective.Revision)
	switch {
	case served:
		p.facts.Served = p.effective.Revision
	case finding.Reason == v1alpha1.ReasonRevisionBehind || finding.Reason == v1alpha1.ReasonUpgrading:
		p.wakeAfter(askAgain)
	case len(addresses) > 0:
		p.wakeAfter(askLater)
	}
	p.tokenAccepted = rollout == "" && len(answers) > 0 && !slices.ContainsFunc(answers, func(a observe.PolicyServer) bool { return a.Err != nil })
	// The Service learns of ready pods a moment later than their Deployment does.
	if want := int(p.server.Spec.PolicyPlugin.Replicas); rollout == "" && len(addresses) < want {
		rollout = fmt.Sprintf("the Service sends requests to %d of %d policy servers yet", len(addresses), want)
	}
	if rollout != "" {
		return status.Waiting(v1alpha1.ReasonRollingOut, rollout), nil
	}
	p.policyReady = served
	return finding, nil
}

// policyRollout says what the policy server's Deployment still waits for; ""
// when every replica is ready.
func (r *DstackServerReconciler) policyRollout(ctx context.Context, server *v1alpha1.DstackServer) (string, error) {
	d, err := r.ownDeployment(ctx, server, manifests.PolicyServerName(server.Name))
	if err != nil || d == nil {
		return "waiting for the policy server's Deployment to appear", err
	}
	return rolloutOf(d, manifests.LabelServer+"="+server.Name), nil
}

// ownDeployment reads a Deployment of the operator's own; nil where there is none.
func (r *DstackServerReconciler) ownDeployment(ctx context.Context, server *v1alpha1.DstackServer, name string) (*appsv1.Deployment, error) {
	var d appsv1.Deployment
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: name}, &d)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Deployment %s: %w", name, err)
	}
	return &d, nil
}

// rolloutOf says what a Deployment still waits for; "" when every replica is
// ready. selector finds its pods.
func rolloutOf(d *appsv1.Deployment, selector string) string {
	want := ptr.Deref(d.Spec.Replicas, 1)
	if d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == want && d.Status.ReadyReplicas == want && d.Status.Replicas == want {
		return ""
	}
	ready := d.Status.ReadyReplicas
	if d.Status.ObservedGeneration < d.Generation {
		ready = 0
	}
	return fmt.Sprintf("%d of %d replicas of Deployment %s are ready and up to date: look at its pods (kubectl -n %s get pods -l %s)",
		min(ready, d.Status.UpdatedReplicas), want, d.Name, d.Namespace, selector)
}

// readyAddresses are the addresses of all pods that a Service sends requests to.
func (r *DstackServerReconciler) readyAddresses(ctx context.Context, namespace, service string) ([]string, error) {
	var slicesOf discoveryv1.EndpointSliceList
	err := r.Client.List(ctx, &slicesOf, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service})
	if err != nil {
		return nil, fmt.Errorf("list EndpointSlices: %w", err)
	}
	var addresses []string
	for i := range slicesOf.Items {
		for _, e := range slicesOf.Items[i].Endpoints {
			if ptr.Deref(e.Conditions.Ready, true) && len(e.Addresses) > 0 {
				addresses = append(addresses, e.Addresses[0])
			}
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

// judgePolicyServers tells whether all of them decide by the revision.
func judgePolicyServers(answers []observe.PolicyServer, revision string) (status.Finding, bool) {
	if len(answers) == 0 {
		return status.Waiting(v1alpha1.ReasonRollingOut, "no policy server is ready, so dstack refuses every run that would ask it"), false
	}
	behind, versions := 0, map[string]bool{}
	for _, a := range answers {
		if a.Err != nil {
			return status.Waiting(v1alpha1.ReasonRollingOut, "a policy server did not tell its revision: "+a.Err.Error()), false
		}
		versions[a.Version] = true
		if a.Revision != revision {
			behind++
		}
	}
	switch {
	case behind > 0 && len(versions) > 1:
		return status.Waiting(v1alpha1.ReasonUpgrading, fmt.Sprintf("%d of %d policy servers are of another build of the operator and decide by another revision than %s", behind, len(answers), revision)), false
	case behind > 0:
		return status.Waiting(v1alpha1.ReasonRevisionBehind, fmt.Sprintf("%d of %d policy servers do not decide by policy revision %s yet", behind, len(answers), revision)), false
	}
	return status.OK(v1alpha1.ReasonServing, fmt.Sprintf("all %d policy servers decide by policy revision %s", len(answers), revision)), true
}
