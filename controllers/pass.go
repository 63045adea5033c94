package controllers

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// pass is everything that one reconcile has found out so far.
type pass struct {
	server *v1alpha1.DstackServer
	// now is when the pass began.
	now time.Time
	// memory of earlier passes over the server.
	memory    *memory
	workload  *workload.Workload
	container *corev1.Container
	// pods of the workload's own that may still run, terminating ones included.
	pods []corev1.Pod
	// matching are all pods with the workload's labels: its own, and such as are not
	// known to be. They may rely on what the operator made, and get no secret.
	matching  []corev1.Pod
	effective *isolation.Effective
	// token of the policy server, its digest, and the Secret from which pods take it.
	token, tokenID, tokenSecret string
	// tokenAccepted is true when every policy server accepts that token.
	tokenAccepted bool
	secrets       secretsPass
	// policyReady is true when every replica of the policy server is ready and
	// decides by the desired revision.
	policyReady bool
	// policyServers are the answers of those that are asked for decisions.
	policyServers []observe.PolicyServer
	// clash is what a config.yml lacks over which no copy can be mounted.
	clash status.Finding
	ssh   sshPass
	// approved are the settings that were approved last, once they are read.
	approved approvedSettings
	// repairs is true when what somebody has taken out is put back in this pass.
	repairs bool
	// hidden are variables of the server that come by envFrom.
	hidden []hidden
	// databaseHidden is true when the URL of the server's database comes by envFrom.
	databaseHidden bool
	facts          status.ServerFacts
	// notes are told as events once the status is written.
	notes   []note
	requeue time.Duration
}

func newPass(server *v1alpha1.DstackServer) *pass {
	p := &pass{server: server, memory: &memory{}, facts: status.ServerFacts{
		Revisions: server.Status.SettingsRevision, Injected: server.Status.Injected, LastRemoval: lastRemoval(server),
		// As they were known last, until they are seen again.
		Hidden: server.Status.HiddenVariables, Doubts: server.Status.Doubts, ConfigFileGap: server.Status.ConfigFileGap,
		Version: status.VersionOf(server),
	}}
	if server.Spec.SSHProxy != nil && server.Spec.Injection != v1alpha1.InjectionDisabled {
		p.facts.SSH = server.Status.SSHProxy // Until the pass knows better.
	}
	return p
}

func (p *pass) accepted() bool { return p.facts.Accepted.Status == metav1.ConditionTrue }

// wakeAfter asks for another pass, the soonest wish winning.
func (p *pass) wakeAfter(d time.Duration) {
	if d > 0 && (p.requeue == 0 || d < p.requeue) {
		p.requeue = d
	}
}

// restartCommand starts all pods of the workload anew.
func (p *pass) restartCommand() string {
	return fmt.Sprintf("kubectl -n %s rollout restart %s/%s", p.server.Namespace, strings.ToLower(string(p.workload.Kind)), p.workload.Meta.Name)
}

func (p *pass) warn(format string, args ...any) {
	p.facts.Warnings = append(p.facts.Warnings, fmt.Sprintf(format, args...))
}

// look reads all that the pass depends on and judges whether the object can be
// worked on at all.
func (r *DstackServerReconciler) look(ctx context.Context, p *pass) error {
	effective, err := r.Resolver.Resolve(ctx, p.server)
	if err != nil {
		return err
	}
	p.effective, p.facts.Effective = effective, effective
	if next := effective.NextExpiry; !next.IsZero() {
		// One that has ended while this was resolved is looked at again as well.
		p.wakeAfter(max(next.Sub(r.Clock.Now()), lookAgain))
	}
	owner, err := r.claimedBy(ctx, p.server)
	if err != nil {
		return err
	}
	if owner != "" {
		p.facts.Accepted = p.claimed(owner)
		return nil
	}
	if manifests.Elsewhere(p.server) {
		p.facts.Accepted = status.OK(v1alpha1.ReasonAccepted, "the dstack server runs elsewhere, at "+p.server.Spec.API.URL)
		return nil
	}
	p.workload, err = r.readWorkload(ctx, p.server)
	if apierrors.IsNotFound(err) {
		p.facts.Accepted = status.Stuck(v1alpha1.ReasonWorkloadNotFound, fmt.Sprintf(
			"there is no %s %s in namespace %s: create it, or create this DstackServer again with another spec.workload",
			p.server.Spec.Workload.Kind, p.server.Spec.Workload.Name, p.server.Namespace))
		return nil
	}
	if err != nil {
		return err
	}
	p.facts.Accepted = p.judge()
	if err := r.readPods(ctx, p); err != nil || p.container == nil {
		return err
	}
	return r.readHidden(ctx, p)
}

// judge finds the server's container and checks what the spec says of it.
func (p *pass) judge() status.Finding {
	c, err := p.workload.Container(p.server.Spec.Workload.Container)
	if err != nil {
		return status.Stuck(v1alpha1.ReasonContainerNotFound, err.Error())
	}
	p.container = c
	problem, doubt := workload.ServerDirProblem(&p.workload.Template.Spec, c, manifests.ServerDir(p.server))
	if problem != "" {
		return status.Stuck(v1alpha1.ReasonInvalidSpec, problem)
	}
	if doubt != "" {
		p.warn("%s", doubt)
	}
	return status.OK(v1alpha1.ReasonAccepted, fmt.Sprintf("%s runs dstack in container %s", p.workload, c.Name))
}

// claimedBy finds an older DstackServer of the same workload or URL; "" if there
// is none. One that is being deleted still holds its claim.
func (r *DstackServerReconciler) claimedBy(ctx context.Context, server *v1alpha1.DstackServer) (string, error) {
	var rivals v1alpha1.DstackServerList
	err := r.Client.List(ctx, &rivals, client.InNamespace(server.Namespace),
		client.MatchingFields{indexWorkload: workloadKey(server)})
	if err != nil {
		return "", fmt.Errorf("list DstackServers: %w", err)
	}
	oldest := server
	for i := range rivals.Items {
		if older(&rivals.Items[i], oldest) {
			oldest = &rivals.Items[i]
		}
	}
	if oldest.UID == server.UID {
		return "", nil
	}
	return oldest.Name, nil
}

func older(a, b *v1alpha1.DstackServer) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

func (r *DstackServerReconciler) readWorkload(ctx context.Context, server *v1alpha1.DstackServer) (*workload.Workload, error) {
	return readWorkload(ctx, r.Client, server)
}

func readWorkload(ctx context.Context, reader client.Reader, server *v1alpha1.DstackServer) (*workload.Workload, error) {
	ref := server.Spec.Workload
	key := client.ObjectKey{Namespace: server.Namespace, Name: ref.Name}
	if ref.Kind == v1alpha1.WorkloadStatefulSet {
		var s appsv1.StatefulSet
		if err := reader.Get(ctx, key, &s); err != nil {
			return nil, err
		}
		return workload.FromStatefulSet(&s), nil
	}
	var d appsv1.Deployment
	if err := reader.Get(ctx, key, &d); err != nil {
		return nil, err
	}
	return workload.FromDeployment(&d), nil
}
