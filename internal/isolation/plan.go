package isolation

import (
	"fmt"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Plan is what the settings of the whole server should be. dstack reads them
// at its start and holds them for all projects.
type Plan struct {
	// NetworkMode is 3 if every policy that enforces denies the host network and
	// no exception lifts it, 2 if every one allows it, else 1.
	NetworkMode v1alpha1.NetworkMode
	// SSHProxy is true when the server is to have an SSH proxy, and SSHEnforced
	// when that is to be the only way in: a policy that enforces denies hostSSH.
	SSHProxy, SSHEnforced bool
	// Forbidden are the controls that dstack itself is told to deny in all projects:
	// every policy that enforces denies them and no exception lifts them.
	Forbidden []Control
	// loosest and strictest are the policies that keep the mode from being
	// stricter or looser; nil if there is no such policy.
	loosest, strictest *Profile
	// enforcesSSH is the first policy for which the proxy is the only way in; nil if
	// it is not.
	enforcesSSH *Profile
}

// Strictness orders network modes from loosest to strictest: 2, 1, 3. A mode
// that is not known counts as 2.
func Strictness(mode v1alpha1.NetworkMode) int {
	switch mode {
	case v1alpha1.NetworkModeBridge:
		return 2
	case v1alpha1.NetworkModeHostForDistributed:
		return 1
	default:
		return 0
	}
}

// Weaker is the weaker of two network modes.
func Weaker(a, b v1alpha1.NetworkMode) v1alpha1.NetworkMode {
	if Strictness(a) <= Strictness(b) {
		return a
	}
	return b
}

// plan looks at the values that are enforced by the profiles and by
// unmatchedProjects, never at the projects that exist: new ones appear at any
// time. Profiles in audit mode have no say. unmatchedProjects in audit mode
// enforces nothing, so its projects must keep the host network.
func plan(e *Effective, sshProxy bool, now time.Time) Plan {
	p := planner{allDenied: true, allAllowed: true, Plan: Plan{SSHProxy: sshProxy}}
	for _, profile := range e.Profiles {
		if profile.Enforce {
			p.look(profile, plannedHostNetwork(profile, now))
			p.lookSSH(profile)
		}
	}
	unmatched := ModeAllowed
	if e.Unmatched.Enforce {
		unmatched = plannedHostNetwork(e.Unmatched, now)
		p.lookSSH(e.Unmatched)
	}
	p.look(e.Unmatched, unmatched)
	for _, c := range forbiddable {
		if e.allDeny(c, now) {
			p.Forbidden = append(p.Forbidden, c)
		}
	}
	switch {
	case p.allDenied:
		p.NetworkMode = v1alpha1.NetworkModeBridge
	case p.allAllowed:
		p.NetworkMode = v1alpha1.NetworkModeHostWhenPossible
	default:
		p.NetworkMode = v1alpha1.NetworkModeHostForDistributed
	}
	return p.Plan
}

// forbiddable are the controls that dstack can be told to deny in all projects,
// by a variable whose presence counts.
var forbiddable = []Control{ServerAccess, ServicesWithoutGateway}

// allDeny tells whether every policy that enforces denies the control and none
// lifts it for anybody. unmatchedProjects in audit mode denies nothing.
func (e *Effective) allDeny(c Control, now time.Time) bool {
	denies := func(p *Profile) bool {
		return !p.Values[c].Equal(c.Loosest()) && !p.mayLift(c, now)
	}
	for _, p := range e.Profiles {
		if p.Enforce && !denies(p) {
			return false
		}
	}
	return e.Unmatched.Enforce && denies(e.Unmatched)
}

// planner gathers the values that count.
type planner struct {
	Plan
	allDenied, allAllowed bool
}

// look takes one value in, and keeps the first policy of the loosest and of the
// strictest one.
func (p *planner) look(profile *Profile, mode string) {
	if mode != ModeDenied {
		p.allDenied = false
		if p.loosest == nil || mode == ModeAllowed {
			p.loosest = profile
		}
	}
	if mode != ModeAllowed {
		p.allAllowed = false
		if p.strictest == nil || mode == ModeDenied && p.strictest.Values[HostNetwork].Mode != ModeDenied {
			p.strictest = profile
		}
	}
}

// lookSSH takes one value of hostSSH in. No exception lifts it.
func (p *planner) lookSSH(profile *Profile) {
	if p.SSHProxy && !p.SSHEnforced && profile.Values[HostSSH].Mode == ModeDenied {
		p.SSHEnforced, p.enforcesSSH = true, profile
	}
}

// plannedHostNetwork is the profile's value of hostNetwork. An exception that
// lifts a denial for somebody needs a server on which the host network can be
// had by distributed tasks.
func plannedHostNetwork(p *Profile, now time.Time) string {
	mode := p.Values[HostNetwork].Mode
	if mode == ModeDenied && p.mayLift(HostNetwork, now) {
		return ModeDistributedOnly
	}
	return mode
}

// WhyNetworkMode says what the network mode follows from.
func (p Plan) WhyNetworkMode() string {
	switch {
	case p.NetworkMode == v1alpha1.NetworkModeBridge:
		return "mode 3, because every policy of the server that enforces denies hostNetwork"
	case p.NetworkMode == v1alpha1.NetworkModeHostWhenPossible:
		return "mode 2, which is dstack's own, because no policy that enforces denies hostNetwork"
	case p.strictest == nil || p.loosest == nil || p.strictest == p.loosest:
		return "mode 1, because hostNetwork is left to tasks of more than one node"
	default:
		return fmt.Sprintf("mode 1, because %s asks for hostNetwork %s and %s leaves more", p.strictest.Ref, p.strictest.Values[HostNetwork].Mode, p.loosest.Ref)
	}
}

// Effect is one way in which the plan differs from what a profile asks for.
type Effect struct {
	Control Control
	Message string
}

// Gained tells where the plan is stricter than the profile asks, and because of
// whom.
func (e *Effective) Gained(p *Profile) []Effect {
	var gained []Effect
	if message := e.gainedNetwork(p); message != "" {
		gained = append(gained, Effect{HostNetwork, message})
	}
	if message := e.gainedSSH(p); message != "" {
		gained = append(gained, Effect{HostSSH, message})
	}
	for _, c := range e.Plan.Forbidden {
		if p.Enforce && !p.Values[c].Equal(c.Loosest()) {
			continue
		}
		gained = append(gained, Effect{c, fmt.Sprintf(
			"%s, because every policy of the server that enforces denies %s, so dstack itself is told to refuse it in all projects",
			gainedByForbidding[c], c.Name())})
	}
	return gained
}

// gainedByForbidding says what a control takes from projects that did not ask for
// it.
var gainedByForbidding = map[Control]string{
	ServerAccess:           "runs with dstack: true are refused",
	ServicesWithoutGateway: "services that need no gateway are refused",
}

func (e *Effective) gainedNetwork(p *Profile) string {
	mode := e.Plan.NetworkMode
	because := e.Plan.strictest
	if because == nil || because == p {
		return ""
	}
	var what string
	switch asked := p.Values[HostNetwork].Mode; {
	case asked == ModeAllowed && mode == v1alpha1.NetworkModeHostForDistributed:
		what = "jobs get the host network only in tasks of more than one node"
	case asked != ModeDenied && mode == v1alpha1.NetworkModeBridge:
		what = "no job gets the host network"
	default:
		return ""
	}
	return fmt.Sprintf(
		"%s, because the whole server has one network mode and %s asks for hostNetwork %s",
		what, because.Ref, because.Values[HostNetwork].Mode)
}

// gainedSSH: a profile that only audits does not deny anything by itself.
func (e *Effective) gainedSSH(p *Profile) string {
	if !e.Plan.SSHEnforced || p.Enforce && p.Values[HostSSH].Mode == ModeDenied {
		return ""
	}
	because := e.Plan.enforcesSSH
	return fmt.Sprintf(
		"nobody logs in to hosts, and to jobs only through the SSH proxy, because dstack enforces the proxy for all users alike and %s asks for hostSSH %s",
		because.Ref, because.Values[HostSSH].Mode)
}

// Lost tells which wish of the profile the plan cannot meet, and because of
// whom.
func (e *Effective) Lost(p *Profile) []Effect {
	because := e.Plan.loosest
	denied := p.Values[HostNetwork].Mode == ModeDenied
	distributed := p.Values[DistributedTasks].Mode == ModeAllowed
	if e.Plan.NetworkMode != v1alpha1.NetworkModeHostForDistributed || !denied || !distributed || because == nil || because == p {
		return nil
	}
	asks := because.Values[HostNetwork].Mode
	switch {
	case !because.Enforce:
		asks = "nothing (it only audits)"
	case asks == ModeDenied:
		asks += " with an exception"
	}
	return []Effect{{HostNetwork, fmt.Sprintf(
		"tasks of more than one node are refused instead of running on a bridge network, because the whole server has one network mode and %s asks for hostNetwork %s",
		because.Ref, asks)}}
}
