package controllers

import (
	"context"
	"fmt"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
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
	if f := p.obstacle(); f.Reason != "" {
		p.facts.Settings = f
		return nil
	}
	patch := intent.Patch()
	if err := r.applyObject(ctx, p.server.Namespace, manifests.Manual(p.server, patch)); err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	p.facts.Injected = intent.InPlace()
	missing := notInPlace(p.facts.Injected)
	if len(missing) > 0 {
		p.facts.Settings = p.manualStep(missing)
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

func (p *pass) manualStep(missing []string) status.Finding {
	if !p.policyReady && p.workload.Injected() == nil {
		return status.Waiting(v1alpha1.ReasonWaitingForPolicyServers,
			"put nothing into the workload's manifest before every replica of the policy server is ready")
	}
	const most = 6
	named := strings.Join(missing[:min(len(missing), most)], ", ")
	if more := len(missing) - most; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	return status.Stuck(v1alpha1.ReasonManualStepNeeded, fmt.Sprintf(
		"spec.injection is Manual and %s lacks %s: put status.manualPatch into its manifest, which kubectl -n %s get configmap %s -o jsonpath='{.data.patch\\.yaml}' prints too",
		p.workload, named, p.server.Namespace, manifests.ManualName(p.server.Name)))
}

func notInPlace(items []v1alpha1.InjectedItem) []string {
	var names []string
	for _, item := range items {
		switch item.State {
		case v1alpha1.InjectedMissing:
			names = append(names, item.Name)
		case v1alpha1.InjectedDifferent:
			names = append(names, item.Name+" (it is different)")
		}
	}
	return names
}

// warnOfDatabase: who changes the manifest restarts the server.
func (p *pass) warnOfDatabase() {
	risk := p.workload.DatabaseRisk(p.container, manifests.ServerDir(p.server))
	if risk != "" && p.workload.Injected() == nil {
		p.warn("the change of %s restarts the server, and that loses its database: %s. Put it on a persistent volume or set %s first",
			p.workload, risk, dstack.EnvDatabaseURL)
	}
}
