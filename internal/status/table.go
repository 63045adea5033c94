package status

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// Table tells of each control what the profile asks for, what all its projects
// get at least, and how well that holds.
func Table(p *isolation.Profile, v View) []v1alpha1.EffectiveControl {
	policy := v.Effective.AtLeast(p)
	var rows []v1alpha1.EffectiveControl
	for _, c := range isolation.AllControls() {
		held := policy[c]
		row := v1alpha1.EffectiveControl{
			Control: c.Name(), Asked: p.Values[c].String(), Effective: held.Value.String(),
		}
		if !held.Value.Equal(p.Values[c]) {
			row.BecauseOf = refs(held.By, p)
		}
		standing, message := standing(c, p, policy, v)
		row.Standing, row.Message = standing, clip(message)
		if standing != v1alpha1.StandingNotDenied && standing != v1alpha1.StandingNotEnforceable {
			row.EnforcedBy = string(c.Enforcer())
		}
		rows = append(rows, row)
	}
	return rows
}

func refs(profiles []*isolation.Profile, but *isolation.Profile) string {
	var names []string
	for _, p := range profiles {
		if p != but {
			names = append(names, p.Ref)
		}
	}
	slices.Sort(names)
	return clipTo(strings.Join(names, ", "), 250)
}

// clip bounds a text to what the API allows for a message of a list.
func clip(s string) string { return clipTo(s, 500) }

func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func denies(c isolation.Control, v isolation.Value) bool { return !v.Equal(c.Loosest()) }

// standing tells how well a control holds, and why not better.
func standing(c isolation.Control, p *isolation.Profile, policy isolation.Policy, v View) (v1alpha1.Standing, string) {
	switch {
	case !denies(c, policy[c].Value):
		return v1alpha1.StandingNotDenied, ""
	case !p.Enforce && !enforced(policy[c]):
		return v1alpha1.StandingNotDenied, "counted and logged only: the profile audits"
	case c == isolation.HostSSH && !v.Effective.Plan.SSHProxy:
		return v1alpha1.StandingNotEnforceable, noProxy(p, v)
	case v.Override.Reason != "":
		return v1alpha1.StandingNotEnforceable, v.Override.Message
	}
	if awaited := v.awaitedFor(c); awaited != "" {
		return v1alpha1.StandingPending, awaited
	}
	way := hostNetworkLeft(policy, v.Running.NetworkMode)
	asIs := c == isolation.HostNetwork && v.Running.NetworkMode == v1alpha1.NetworkModeHostForDistributed
	if way == "" || asIs || c == isolation.DistributedTasks {
		return v1alpha1.StandingEnforced, ""
	}
	return v1alpha1.StandingBypassable, way
}

// awaitedFor says what must still arrive before a control is enforced; "" when
// nothing.
func (v View) awaitedFor(c isolation.Control) string {
	awaited := v.awaited()
	if awaited == "" && c == isolation.HostSSH {
		return v.sshAwaited()
	}
	return awaited
}

// awaited says what must still arrive before anything is enforced; "" when
// nothing.
func (v View) awaited() string {
	switch {
	case v.Served != v.Effective.Revision:
		return "waiting for every policy server to decide by it"
	case v.Running == nil || v.Running.Pods == 0:
		return "no pod of the dstack server runs"
	case v.Running.PolicyPods < v.Running.Pods:
		return "not every server pod asks the policy server"
	case !v.Proven:
		return "no server pod has become ready with the settings yet"
	}
	return ""
}

// enforced tells whether one of those that make the value what it is enforces.
func enforced(h isolation.Held) bool {
	return slices.ContainsFunc(h.By, func(p *isolation.Profile) bool { return p.Enforce })
}

// noProxy says why hostSSH cannot be denied, and what to do. Projects that no
// profile names have a level and no controls of their own.
func noProxy(p *isolation.Profile, v View) string {
	remedy := "controls.hostSSH to Allowed"
	if p.Name == "" {
		remedy = "spec.unmatchedProjects.enforcement to Audit or its level to Open, and govern projects by profiles with controls.hostSSH Allowed"
	}
	return fmt.Sprintf("it needs dstack's SSH proxy: set spec.sshProxy of DstackServer %s, or set %s", v.Effective.Name, remedy)
}

// hostNetworkLeft says how a run can still get the network of the host, from
// which it reaches the host's agent and through it all that other controls
// deny; "" when it cannot.
func hostNetworkLeft(policy isolation.Policy, running v1alpha1.NetworkMode) string {
	if running == v1alpha1.NetworkModeBridge {
		return ""
	}
	if running != v1alpha1.NetworkModeHostForDistributed {
		return "server pods run with network mode 2, so a job that fills its instance gets the host network, from which it reaches the host's agent"
	}
	for _, c := range []isolation.Control{isolation.HostNetwork, isolation.DistributedTasks} {
		if policy[c].Mode == isolation.ModeDenied && enforced(policy[c]) {
			return ""
		}
	}
	return "tasks of more than one node get the host network, from which they reach the host's agent: deny hostNetwork or distributedTasks"
}

// notEnforceable names the controls that the profile denies and that nothing
// enforces, each with what to do.
func notEnforceable(p *isolation.Profile, v View) []string {
	var out []string
	for _, c := range isolation.AllControls() {
		if !denies(c, p.Values[c]) || c != isolation.HostSSH || v.Effective.Plan.SSHProxy {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s is enforced by nothing: %s", c.Name(), p.Values[c], noProxy(p, v)))
	}
	return out
}
