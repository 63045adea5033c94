package controllers

import (
	"context"
	"fmt"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// showSettings writes nothing to the workload: it shows what the user's own
// manifest of it must contain, and judges how far that has come.
func (r *DstackServerReconciler) showSettings(ctx context.Context, p *pass) error {
	intent := r.intent(p)
	if next, moved := r.withNewAddress(p); moved {
		intent = next
		p.takeNewAddress("it is in what the workload's manifest must contain")
	}
	r.warnings(p)
	p.warnOfDatabase()
	if err := r.lookAtConfig(ctx, p); err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	p.facts.Revisions.Rejected = ""
	if f := p.obstacle(intent); f.Reason != "" {
		p.facts.Settings = f
		return nil
	}
	patch := intent.Patch()
	if err := r.applyObject(ctx, p.server.Namespace, manifests.Manual(p.server, patch)); err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	r.announceStranded(ctx, p, intent)
	p.facts.Injected = append(intent.InPlace(), p.surplus(intent)...)
	missing := inState(p.facts.Injected, map[v1alpha1.InjectedState]string{v1alpha1.InjectedMissing: "", v1alpha1.InjectedDifferent: " (it is different)"})
	surplus := inState(p.facts.Injected, map[v1alpha1.InjectedState]string{v1alpha1.InjectedSurplus: ""})
	if len(missing)+len(surplus) > 0 {
		p.facts.Settings = p.manualStep(missing, surplus)
		p.facts.ManualPatch = patch
		return nil
	}
	// What the user's manifest sets itself need not be held here as well: the next
	// change of it would be a conflict with the operator.
	if err := r.applier.HandOver(ctx, p.workload); err != nil {
		return err
	}
	p.facts.Revisions.Applied = intent.Revision
	if err := r.noteProven(ctx, p, intent.Revision); err != nil {
		return err
	}
	p.facts.Settings = p.judgeRollout(r.observeRollout(p))
	return nil
}

func (p *pass) manualStep(missing, surplus []string) status.Finding {
	if !p.policyReady && p.workload.Injected() == nil {
		return status.Waiting(v1alpha1.ReasonWaitingForPolicyServers,
			"put nothing into the workload's manifest before every replica of the policy server is ready")
	}
	var steps []string
	if len(missing) > 0 {
		steps = append(steps, fmt.Sprintf("%s lacks %s: put status.manualPatch into its manifest, which kubectl -n %s get configmap %s -o jsonpath='{.data.patch\\.yaml}' prints too",
			p.workload, named(missing, mostNamed), p.server.Namespace, manifests.ManualName(p.server.Name)))
	}
	if len(surplus) > 0 {
		steps = append(steps, fmt.Sprintf("nothing asks any more for what %s has of %s: take it out of its manifest", p.workload, named(surplus, mostNamed)))
	}
	return status.Stuck(v1alpha1.ReasonManualStepNeeded, "spec.injection is Manual and "+strings.Join(steps, "; "))
}

// mostNamed is how many items a message names.
const mostNamed = 6

// inState names the items of a state, each with a note.
func inState(items []v1alpha1.InjectedItem, notes map[v1alpha1.InjectedState]string) []string {
	var names []string
	for _, item := range items {
		if note, found := notes[item.State]; found {
			names = append(names, item.Name+note)
		}
	}
	return names
}

// surplus are the server-wide settings that the workload still has although nothing
// asks for them any more: a patch cannot say what must go.
func (p *pass) surplus(intent manifests.Intent) []v1alpha1.InjectedItem {
	wanted := map[string]bool{}
	for _, e := range intent.Env() {
		wanted[*e.Name] = true
	}
	var items []v1alpha1.InjectedItem
	for _, name := range manifests.ServerWide() {
		item := workload.Item(p.container, name)
		users := item != nil && item.Value != "1" && (name == dstack.EnvForbidDstackInRuns || name == dstack.EnvForbidServicesWithoutGateway)
		if !wanted[name] && item != nil && !users {
			items = append(items, v1alpha1.InjectedItem{Name: name, State: v1alpha1.InjectedSurplus})
		}
	}
	if id := workload.AnnotationSSHToken; intent.SSHTokenID == "" && p.workload.Template.Annotations[id] != "" {
		items = append(items, v1alpha1.InjectedItem{Name: "annotation " + id, State: v1alpha1.InjectedSurplus})
	}
	return items
}

// warnOfDatabase: who changes the manifest restarts the server.
func (p *pass) warnOfDatabase() {
	risk := p.workload.DatabaseRisk(p.container, manifests.ServerDir(p.server), p.databaseHidden)
	if risk != "" && p.workload.Injected() == nil {
		p.warn("the change of %s restarts the server, and that loses its database: %s. Put it on a persistent volume or set %s first",
			p.workload, risk, dstack.EnvDatabaseURL)
	}
}
