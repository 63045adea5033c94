package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// rows tell of each control what the profile asks for, what all its projects get
// at least, and how well that holds.
func (t *table) rows() []v1alpha1.EffectiveControl {
	p := t.profile
	rows := make([]v1alpha1.EffectiveControl, 0, isolation.ControlCount)
	for _, c := range isolation.AllControls() {
		held := t.policy[c]
		row := v1alpha1.EffectiveControl{
			Control: c.Name(), Asked: p.Values[c].String(), Effective: held.Value.String(),
		}
		if !held.Value.Equal(p.Values[c]) {
			row.BecauseOf = refs(held.By, p)
			if row.BecauseOf == "" {
				row.BecauseOf = "enforcement Audit"
			}
		}
		standing, message := t.standing(c)
		row.Standing, row.Message = standing, clip(message)
		if standing != v1alpha1.StandingNotDenied && standing != v1alpha1.StandingNotEnforceable {
			row.EnforcedBy = string(t.enforcer(c))
		}
		rows = append(rows, row)
	}
	return rows
}

// table is what the rows have in common.
type table struct {
	profile *isolation.Profile
	view    View
	now     time.Time
	// policy is what all projects get at least.
	policy isolation.Policy
	// awaited says what must still arrive before anything is enforced.
	awaited string
	// ways lead around controls, for everybody; excepted for some.
	ways     []way
	excepted []excepted
}

func newTable(p *isolation.Profile, v View, now time.Time) *table {
	t := &table{profile: p, view: v, now: now, policy: v.Effective.AtLeast(p), awaited: v.awaited()}
	if t.awaited == "" {
		t.ways = slices.Concat(waysToHost(&t.policy, v), waysOfPlacement(&t.policy), waysOfNewProjects(&t.policy, v))
		t.findExcepted()
	}
	return t
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
func (t *table) standing(c isolation.Control) (v1alpha1.Standing, string) {
	switch {
	case !denied(&t.policy, c):
		return v1alpha1.StandingNotDenied, t.notDenied(c)
	case c == isolation.HostSSH && !t.view.Effective.Plan.SSHProxy:
		return v1alpha1.StandingNotEnforceable, "it needs dstack's SSH proxy: " + noProxy(t.profile, t.view)
	case t.view.Override.Reason != "":
		return v1alpha1.StandingNotEnforceable, t.view.Override.Message
	case t.awaited != "":
		return v1alpha1.StandingPending, t.awaited
	case c == isolation.HostSSH && t.view.sshAwaited() != "":
		return v1alpha1.StandingPending, t.view.sshAwaited()
	}
	if ways := t.waysAround(c); len(ways) > 0 {
		return v1alpha1.StandingBypassable, strings.Join(ways, "; ")
	}
	if t.view.Elsewhere {
		return v1alpha1.StandingPending, askedByNobodySeen
	}
	return v1alpha1.StandingEnforced, ""
}

// enforcer names what refuses what the control denies. dstack itself does so only
// while every server pod is told to.
func (t *table) enforcer(c isolation.Control) isolation.Enforcer {
	running := t.view.Running
	if by := c.Enforcer(); by != isolation.ByServerSettings || running != nil && slices.Contains(running.DeniedByServer, c.Name()) {
		return by
	}
	return isolation.ByPlugin
}

// notDenied says what a reader should know of a control that denies nothing.
func (t *table) notDenied(c isolation.Control) string {
	running := t.view.Running
	switch {
	case denies(c, t.profile.Values[c]):
		return "counted and logged only: the profile audits"
	case c == isolation.ServiceRouters && running != nil && isolation.Strictness(running.NetworkMode) > isolation.Strictness(v1alpha1.NetworkModeHostWhenPossible):
		return fmt.Sprintf("routers do not work all the same: they need traffic between replicas, which bridge networks (network mode %d) do not let through", running.NetworkMode)
	}
	return ""
}

// awaited says what must still arrive before anything is enforced; "" when
// nothing.
func (v View) awaited() string {
	switch {
	case v.Served != v.Effective.Revision:
		return "waiting for every policy server to decide by it"
	case v.Elsewhere:
		return "" // What cannot be seen is not awaited; it counts as the weakest.
	case v.Running == nil || v.Running.Pods == 0:
		return "no pod of the dstack server runs"
	case v.Running.PolicyPods < v.Running.Pods && v.PodsUnknown:
		return "the owner of a server pod is not known"
	case v.Running.PolicyPods < v.Running.Pods:
		return "not every server pod asks the policy server"
	case !v.Proven:
		return "no server pod has become ready with the settings yet"
	}
	return cmp.Or(v.Version.unguarded(), v.Doubt)
}

// noProxy says what lets hostSSH be denied, or does without.
func noProxy(p *isolation.Profile, v View) string {
	field := "controls.hostSSH"
	if p.Name == "" {
		field = "spec.unmatchedProjects.controls.hostSSH"
	}
	return fmt.Sprintf("set spec.sshProxy of DstackServer %s, or set %s to Allowed", v.Effective.Name, field)
}

// notEnforceable names the controls that the profile denies and that nothing
// enforces, each with what to do.
func notEnforceable(p *isolation.Profile, v View) []string {
	var out []string
	for _, c := range isolation.AllControls() {
		if !denies(c, p.Values[c]) || c != isolation.HostSSH || v.Effective.Plan.SSHProxy {
			continue
		}
		out = append(out, fmt.Sprintf("nothing enforces %s %s: %s", c.Name(), p.Values[c], noProxy(p, v)))
	}
	return out
}
