package controllers

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// applySettings puts the settings into the user's workload, if nothing speaks
// against it, and judges how far they have come.
func (r *DstackServerReconciler) applySettings(ctx context.Context, p *pass) error {
	intent, ready, err := r.chooseSettings(ctx, p)
	if err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	defer p.sayPending()
	if !ready {
		return nil
	}
	r.announceStranded(ctx, p, intent)
	p.repairs = true
	result, err := r.applier.Settings(ctx, intent)
	if apierrors.IsConflict(err) {
		p.facts.Settings = status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("%s changed while the settings were applied: trying again", p.workload))
		p.wakeAfter(lookAgain)
		return nil
	}
	if err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	return r.followSettings(ctx, p, intent, result)
}

// chooseSettings decides what is applied in this pass. Not ready means nothing, and
// the pass says why.
func (r *DstackServerReconciler) chooseSettings(ctx context.Context, p *pass) (intent manifests.Intent, ready bool, err error) {
	if p.ssh.toldErr != nil {
		// To want less than was told would open the server.
		return manifests.Intent{}, false, p.ssh.toldErr
	}
	planned := r.intent(p)
	r.warnings(p)
	if err := r.lookAtConfig(ctx, p); err != nil {
		return planned, false, err
	}
	intent, approved, err := r.approve(ctx, p, planned)
	if err != nil {
		return planned, false, err
	}
	if f := p.refusal(intent); f.Reason != "" {
		p.facts.Settings = f
		return intent, false, nil
	}
	if p.workload.Injected() == nil && !p.policyReady {
		p.facts.Settings = status.Waiting(v1alpha1.ReasonWaitingForPolicyServers,
			"the server is told to ask the policy server once every replica of it is ready")
		return intent, false, nil
	}
	if !approved {
		if f := r.proxyAwaited(p); f.Reason != "" {
			p.facts.Settings, p.facts.Pending = f, nil // To be approved together.
		}
		return intent, false, nil
	}
	wait := r.holdBack(p, intent)
	p.facts.Settings = wait
	return intent, wait.Reason == "", nil
}

// followSettings judges what became of settings that were sent.
func (r *DstackServerReconciler) followSettings(ctx context.Context, p *pass, intent manifests.Intent, result apply.Result) error {
	p.facts.Injected = result.Items
	clash := judgeResult(result, p.workload)
	if clash.Reason != "" && !result.Plugin {
		p.facts.Settings = clash
		return nil
	}
	p.facts.Revisions.Applied, p.facts.Revisions.Rejected = intent.Revision, ""
	if err := r.applyObject(ctx, p.server.Namespace, manifests.Approved(p.server, intent, string(p.secrets.key()))); err != nil {
		return err
	}
	err := r.followRollout(ctx, p, intent)
	// The plugin is in, so its pods are followed even where a variable beside it
	// is in conflict; what stalls the pods themselves comes first.
	if clash.Reason != "" && !p.facts.Settings.Stalled {
		p.facts.Settings = clash
	}
	return err
}

// holdBack says what the settings wait for that will come by itself; an empty finding
// means that they may be applied.
func (r *DstackServerReconciler) holdBack(p *pass, intent manifests.Intent) status.Finding {
	untold := p.untold(intent) // First, so that it is told while the rest is waited for.
	if f := r.proxyAwaited(p); f.Reason != "" {
		return f
	}
	if f := r.unsettled(p, intent); f.Reason != "" {
		return f
	}
	if untold.Reason != "" {
		p.wakeAfter(lookAgain)
	}
	return untold
}

// intent is what the workload should carry.
func (r *DstackServerReconciler) intent(p *pass) manifests.Intent {
	return manifests.Settings(r.settingsInput(p))
}

func (r *DstackServerReconciler) settingsInput(p *pass) manifests.SettingsInput {
	return manifests.SettingsInput{
		Server: p.server, Workload: p.workload, Container: p.container,
		NetworkMode: p.effective.Plan.NetworkMode, Forbidden: p.effective.Plan.Forbidden, Permissions: p.permissions(),
		SSH: p.sshSettings(), Files: r.Plugin, Options: r.settingsOptions(p),
	}
}

// judgeResult tells what kept settings from being applied.
func judgeResult(result apply.Result, w *workload.Workload) status.Finding {
	if result.Invalid != "" {
		return status.Stuck(v1alpha1.ReasonInvalidWorkload, fmt.Sprintf("the API server refuses %s with the settings in it: %s", w, result.Invalid))
	}
	if len(result.Conflicts) == 0 {
		return status.Finding{}
	}
	var clashes []string
	for _, c := range result.Conflicts {
		clashes = append(clashes, c.String()+remedy(c))
	}
	return status.Stuck(v1alpha1.ReasonFieldConflict, fmt.Sprintf("in %s, %s", w, strings.Join(clashes, "; ")))
}

func remedy(c apply.Conflict) string {
	if c.Item == dstack.EnvPythonPath {
		return ": append :" + manifests.PluginDir + " to its value there, or remove it"
	}
	return ": remove it there, so that the operator can set it"
}
