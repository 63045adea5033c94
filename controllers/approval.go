package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// countRunsEvery is how often the active runs are counted that a change waits for.
const countRunsEvery = 5 * time.Minute

// approve decides which settings are applied: those that are planned, or, while
// they wait for approval, those that were approved last, so that a drift of these is
// repaired. What was applied while spec.rollout was Automatic counts as approved.
// False means that there are none to apply.
func (r *DstackServerReconciler) approve(ctx context.Context, p *pass, planned manifests.Intent) (manifests.Intent, bool, error) {
	next, moved := r.withNewAddress(p)
	if moved && p.approves(next) {
		planned, moved = next, false
		p.takeNewAddress("the change is approved")
	}
	if !moved {
		next = planned
	}
	if p.server.Spec.Rollout != v1alpha1.RolloutOnApproval {
		if moved {
			r.awaitApproval(ctx, p, next)
		}
		return planned, true, nil
	}
	last, found, err := r.approvedForContainer(ctx, p)
	switch {
	case err != nil:
		return planned, false, err
	case !moved && p.isApproved(planned, last, found):
		return planned, true, nil
	case !moved && p.approves(planned):
		// Kept before it is applied: who comes after a crash in between goes on.
		return planned, true, r.applyObject(ctx, p.server.Namespace, manifests.Approved(p.server, planned, string(p.secrets.key())))
	}
	r.awaitApproval(ctx, p, next)
	return last, found, nil
}

// awaitApproval shows a change that waits.
func (r *DstackServerReconciler) awaitApproval(ctx context.Context, p *pass, next manifests.Intent) {
	p.approveNewAddress(next.Revision)
	p.facts.Pending = r.pending(ctx, p, next)
}

// approvedForContainer reads the settings that were approved last, if they are for a
// container that is still there.
func (r *DstackServerReconciler) approvedForContainer(ctx context.Context, p *pass) (manifests.Intent, bool, error) {
	last, found, err := r.approvedLast(ctx, p)
	if p.approved.problem != nil {
		p.warn("in ConfigMap %s, %s: a drift of them is not repaired", manifests.ApprovedName(p.server.Name), p.approved.problem)
	}
	if err != nil || !found {
		return last, false, err
	}
	if _, gone := p.workload.Container(last.Container); gone != nil {
		p.warn("the settings that were approved last are for container %s, which %s has no more: they are not repaired", last.Container, p.workload)
		found = false
	}
	return last, found, nil
}

// isApproved tells whether planned settings are those that were approved last, or,
// where these are not kept, those that the workload carries.
func (p *pass) isApproved(planned, last manifests.Intent, found bool) bool {
	if found {
		return last.Revision == planned.Revision
	}
	return p.isOwn(planned)
}

// isOwn tells whether the workload carries these settings, as the operator applied
// them. Then somebody only deleted what was kept of them.
func (p *pass) isOwn(planned manifests.Intent) bool {
	return p.workload.SettingsRevision() == planned.Revision && apply.OwnsRevision(p.workload)
}

// approves tells whether the annotation names the revision of these settings.
func (p *pass) approves(intent manifests.Intent) bool {
	return p.server.Annotations[v1alpha1.AnnotationApprove] == intent.Revision
}

func (p *pass) approvingCommand(revision string) string {
	return fmt.Sprintf("kubectl -n %s annotate --overwrite dstackserver %s %s=%s", p.server.Namespace, p.server.Name, v1alpha1.AnnotationApprove, revision)
}

// approvedSettings are those that were approved last, as a pass has read them.
type approvedSettings struct {
	read  bool
	last  manifests.Intent
	found bool
	// problem is why what is kept counts for nothing.
	problem error
}

// approvedLast reads the settings that were approved last, once a pass. They are not
// read from the cache, which might still have those before.
func (r *DstackServerReconciler) approvedLast(ctx context.Context, p *pass) (manifests.Intent, bool, error) {
	if p.approved.read {
		return p.approved.last, p.approved.found, nil
	}
	var c corev1.ConfigMap
	name := manifests.ApprovedName(p.server.Name)
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: name}, &c)
	if client.IgnoreNotFound(err) != nil {
		return manifests.Intent{}, false, fmt.Errorf("read ConfigMap %s: %w", name, err)
	}
	p.approved.read = true
	if c.Labels[manifests.LabelServerUID] != string(p.server.UID) {
		// There is none, or one of an object of this name that is gone: it approves nothing.
		return manifests.Intent{}, false, nil
	}
	in := manifests.SettingsInput{Server: p.server, Workload: p.workload, Container: p.container, Files: r.Plugin, Options: r.options(p)}
	p.approved.last, p.approved.problem = manifests.ReadApproved(c.Data, in, string(p.secrets.key()))
	p.approved.found = p.approved.problem == nil
	return p.approved.last, p.approved.found, nil
}

// sayPending lets a change that waits speak for settings that are well otherwise.
func (p *pass) sayPending() {
	if p.server.Spec.Rollout != v1alpha1.RolloutOnApproval {
		return // Only an address waits then, and SSHProxyReady says so.
	}
	if p.facts.Pending != nil && !p.facts.Settings.Stalled && (p.facts.Settings.Reason == "" || p.facts.Settings.Status != metav1.ConditionUnknown) {
		p.facts.Settings = p.waitingForApproval()
	}
}

// waitingForApproval is what is said of a change that waits.
func (p *pass) waitingForApproval() status.Finding {
	change := p.facts.Pending
	return status.Stuck(v1alpha1.ReasonWaitingForApproval, fmt.Sprintf(
		"spec.rollout is OnApproval, and settings revision %s waits%s; see status.pendingChange and approve it: %s",
		change.Revision, p.otherApproval(), p.approvingCommand(change.Revision)))
}

// otherApproval says that the annotation names another revision than the one that
// waits.
func (p *pass) otherApproval() string {
	other := p.server.Annotations[v1alpha1.AnnotationApprove]
	if other == "" || other == p.facts.Revisions.Applied {
		return ""
	}
	const most = 20
	if len(other) > most {
		other = strings.ToValidUTF8(other[:most], "") + "…"
	}
	return fmt.Sprintf(" (the annotation approves %q, which is another one)", other)
}

// pending says what a change would do.
func (r *DstackServerReconciler) pending(ctx context.Context, p *pass, planned manifests.Intent) *v1alpha1.PendingChange {
	change := &v1alpha1.PendingChange{Revision: planned.Revision, Items: p.changes(planned)}
	var count string
	change.ActiveRuns, count = r.countedRuns(ctx, p, change.Revision)
	change.Message = "the dstack server restarts: for that time its API does not answer and nobody new can log in to a run; runs go on"
	if planned.SSHSettings() == nil && p.toldOfSSHProxy() {
		if stranded := status.Stranded(p.server, count); stranded != "" {
			change.Message += "; " + stranded
		}
	}
	if p.server.Spec.SSHProxy != nil {
		change.Message += "; sessions that go through the SSH proxy are not cut (how many there are, dstack's SSH proxy tells nobody)"
	}
	return change
}

// countedRuns is the number of active runs as it was a few minutes ago at most, and the
// words for it: a change may wait for days, and each new number is a write.
func (r *DstackServerReconciler) countedRuns(ctx context.Context, p *pass, revision string) (*int32, string) {
	now := r.Clock.Now()
	var known *int32
	if before := p.server.Status.PendingChange; before != nil && before.Revision == revision {
		known = before.ActiveRuns
	}
	if last := p.memory.counted; last.revision == revision {
		if left := last.at.Add(countRunsEvery).Sub(now); left > 0 {
			p.wakeAfter(left)
			return known, last.count
		}
	}
	token, _ := r.adminToken(ctx, p.server)
	listed := listActive(ctx, r.Prober, p, token)
	number, count := listed.number(), listed.count()
	if !listed.known && known != nil {
		number, count = known, fmt.Sprint(*known)
	}
	p.memory.counted = counting{revision, now, count}
	p.wakeAfter(countRunsEvery)
	return number, count
}

// counting is when the active runs were counted last that a change meets.
type counting struct {
	revision string
	at       time.Time
	// count is what was said of their number.
	count string
}

// changes compares the workload with what is planned for it, item by item.
func (p *pass) changes(planned manifests.Intent) []v1alpha1.PendingItem {
	var items []v1alpha1.PendingItem
	wanted := map[string]bool{}
	add := func(name string, action v1alpha1.ChangeAction) {
		items = append(items, v1alpha1.PendingItem{Name: name, Action: action, Why: p.why(name)})
	}
	for _, item := range planned.InPlace() {
		wanted[item.Name] = true
		switch {
		case strings.HasSuffix(item.Name, workload.AnnotationSettings):
		case item.State == v1alpha1.InjectedMissing:
			add(item.Name, v1alpha1.ChangeAdd)
		case item.State == v1alpha1.InjectedDifferent:
			add(item.Name, v1alpha1.ChangeChange)
		}
	}
	for _, name := range p.dropped(wanted) {
		add(name, v1alpha1.ChangeRemove)
	}
	return items
}

// dropped names what is the operator's in the workload and not wanted any more.
func (p *pass) dropped(wanted map[string]bool) []string {
	var names []string
	for _, e := range p.container.Env {
		if !wanted[e.Name] && slices.Contains(managed, e.Name) && apply.OwnsVariable(p.workload, p.container.Name, e.Name) {
			names = append(names, e.Name)
		}
	}
	for i := range p.workload.Template.Spec.Volumes {
		v := p.workload.Template.Spec.Volumes[i].Name
		if ours := v == manifests.PluginVolume || v == manifests.ConfigVolume; ours && !wanted["volume "+v] {
			names = append(names, "volume "+v)
		}
	}
	return names
}

// why says what asks for an item to be as it is planned.
func (p *pass) why(name string) string {
	plan := p.effective.Plan
	switch name {
	case dstack.EnvJobNetworkMode:
		return plan.WhyNetworkMode()
	case dstack.EnvForbidDstackInRuns, dstack.EnvForbidServicesWithoutGateway:
		return "it is set while every policy of the server that enforces denies the control, and no exception lifts it"
	case dstack.EnvServerSSHProxyEnforced:
		return "it is set while spec.sshProxy is, and a policy that enforces denies hostSSH"
	case dstack.EnvServerSSHProxyAddress:
		return "spec.sshProxy, and the address at which users reach the proxy"
	case dstack.EnvSSHProxyAPIToken, "annotation " + workload.AnnotationSSHToken:
		return "the token of the SSH proxy, which the server reads at its start"
	case dstack.EnvToken, "annotation " + manifests.AnnotationTokenID:
		return "the token of the policy server, which the server reads at its start"
	case "label " + workload.LabelServerPod:
		return "how Services and NetworkPolicies of the operator select the server's pods"
	case "initContainer " + workload.InjectContainer:
		return "how config.yml is prepared, or the token of the policy server"
	default:
		return "the policy plugin: spec.policyPlugin.delivery is " + string(p.server.Spec.PolicyPlugin.Delivery)
	}
}
