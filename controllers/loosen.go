package controllers

import (
	"fmt"
	"slices"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
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
	if p.plansLooser() {
		running.NetworkMode = isolation.Weaker(running.NetworkMode, p.effective.Plan.NetworkMode)
	}
}

// plansLooser tells whether the plan is a looser network mode than pods are made
// with now, and can be had.
func (p *pass) plansLooser() bool {
	if p.effective == nil || p.workload.Injected() == nil || p.server.Spec.Injection == v1alpha1.InjectionDisabled {
		return false
	}
	if change := p.server.Status.PendingChange; change != nil && p.server.Annotations[v1alpha1.AnnotationApprove] != change.Revision {
		return false // It is not going to be applied.
	}
	kept := slices.ContainsFunc(p.server.Status.Injected, func(i v1alpha1.InjectedItem) bool {
		return i.Name == dstack.EnvJobNetworkMode && i.State == v1alpha1.InjectedConflict
	})
	return !kept && isolation.Strictness(p.effective.Plan.NetworkMode) < isolation.Strictness(workload.NetworkMode(p.container))
}

// untold holds a looser network mode back until the status says it and every
// policy server has read it there; an empty finding means that nothing is to be
// waited for.
func (p *pass) untold() status.Finding {
	planned := p.effective.Plan.NetworkMode
	if !p.plansLooser() {
		return status.Finding{}
	}
	stricter := func(mode v1alpha1.NetworkMode) bool {
		return isolation.Strictness(mode) > isolation.Strictness(planned)
	}
	said := p.server.Status.Running
	behind := slices.ContainsFunc(p.policyServers, func(s observe.PolicyServer) bool { return s.Err != nil || stricter(s.NetworkMode) })
	if !behind && (said == nil || !stricter(said.NetworkMode)) {
		return status.Finding{}
	}
	return status.Waiting(v1alpha1.ReasonWaitingForPolicyServers, fmt.Sprintf(
		"network mode %d is looser than what runs: the server gets it once every policy server knows of it", planned))
}
