package controllers

import (
	"fmt"
	"slices"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// countComing lets a looser network mode count as soon as a pod could be made
// with it. Where the host network is denied a policy server allows distributed
// tasks while it counts on mode 3, and any server pod may be the one that starts
// their jobs: a looser pod that is not counted yet would give them the host
// network, which neither the earlier nor the later policy does.
func (p *pass) countComing(running *v1alpha1.RunningSettings) {
	if running.Pods == 0 || p.container == nil {
		return
	}
	running.NetworkMode = isolation.Weaker(running.NetworkMode, workload.NetworkMode(p.container))
	if p.server.Spec.Injection == v1alpha1.InjectionManual && p.effective != nil && p.workload.Injected() != nil {
		// It is shown, and somebody may put it in place at any time.
		running.NetworkMode = isolation.Weaker(running.NetworkMode, p.effective.Plan.NetworkMode)
	}
}

// makesLooser tells whether settings have a looser network mode than pods are made
// with now, and can be had.
func (p *pass) makesLooser(intent manifests.Intent) bool {
	kept := slices.ContainsFunc(p.server.Status.Injected, func(i v1alpha1.InjectedItem) bool {
		return i.Name == dstack.EnvJobNetworkMode && i.State == v1alpha1.InjectedConflict
	})
	return p.workload.Injected() != nil && !kept && isolation.Strictness(intent.NetworkMode()) < isolation.Strictness(workload.NetworkMode(p.container))
}

// untold holds settings with a looser network mode back until the status says it,
// and every policy server has read it there and decides by the policy that it
// belongs to; an empty finding means that nothing is to be waited for.
func (p *pass) untold(intent manifests.Intent) status.Finding {
	if !p.makesLooser(intent) {
		return status.Finding{}
	}
	coming := intent.NetworkMode()
	if running := p.facts.Running; running.Pods > 0 {
		running.NetworkMode = isolation.Weaker(running.NetworkMode, coming)
	}
	stricter := func(mode v1alpha1.NetworkMode) bool {
		return isolation.Strictness(mode) > isolation.Strictness(coming)
	}
	said := p.server.Status.Running
	behind := !p.policyReady || slices.ContainsFunc(p.policyServers, func(s observe.PolicyServer) bool {
		return s.Err != nil || s.Revision != p.effective.Revision || stricter(s.NetworkMode)
	})
	if !behind && (said == nil || !stricter(said.NetworkMode)) {
		return status.Finding{}
	}
	return status.Waiting(v1alpha1.ReasonWaitingForPolicyServers, fmt.Sprintf(
		"network mode %d is looser than what runs: the server gets it once every policy server knows of it and decides by policy revision %s", coming, p.effective.Revision))
}
