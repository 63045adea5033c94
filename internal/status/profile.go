package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// View is what a profile needs to know of its server.
type View struct {
	// Effective is what holds for the server as its objects are now.
	Effective *isolation.Effective
	// Served is the revision that every policy server pod decides by; "" while
	// they differ.
	Served string
	// Running is what the server's pods run with; nil when it is not known.
	Running *v1alpha1.RunningSettings
	// CatchingUp is true when every policy server answers and some only decide by
	// an older revision, as for a moment after each change.
	CatchingUp bool
	// Proven is true once a server pod became ready with the settings.
	Proven bool
	// Elsewhere is true for a server whose pods cannot be seen: then nothing is
	// known of what they run with.
	Elsewhere bool
	// PodsUnknown is true while the owner of a server pod is not known.
	PodsUnknown bool
	// SettingsStalled is true when the server's settings wait for somebody.
	SettingsStalled bool
	// Doubt is why settings that are in place may not hold; "" when nothing says so.
	Doubt string
	// Version is what is known of the server's version of dstack.
	Version Version
	// SSHProxy is what the server's condition says of the SSH proxy.
	SSHProxy Finding
	// Override, when it has a reason, says for all profiles why nothing is in
	// force: the server is not accepted, disabled or being released.
	Override Finding
}

// ViewOf reads the view of a server from its own status, as the DstackServer's
// reconciler wrote it.
func ViewOf(s *v1alpha1.DstackServer, e *isolation.Effective) View {
	v := View{Effective: e, Running: s.Status.Running, Proven: s.Status.SettingsRevision.Proven != "", Elsewhere: runsElsewhere(s)}
	v.Version = VersionOf(s)
	v.Doubt = doubtOf(s.Status.Doubts, "")
	if s.Status.PolicyRevision.Served == e.Revision {
		v.Served = e.Revision
	}
	switch {
	case s.DeletionTimestamp != nil:
		v.Override = Stuck(v1alpha1.ReasonReleasing, fmt.Sprintf("DstackServer %s is being deleted: its settings are taken back and nothing is refused any more", s.Name))
	case s.Spec.Injection == v1alpha1.InjectionDisabled:
		v.Override = Stuck(v1alpha1.ReasonDisabled, fmt.Sprintf("DstackServer %s has spec.injection Disabled, so nothing is refused: set it to Enabled", s.Name))
	}
	for _, c := range s.Status.Conditions {
		v.take(s.Name, c)
	}
	v.SSHProxy.Stalled = v.SSHProxy.Stalled || stalledBy(s.Status.Conditions, v.SSHProxy)
	return v
}

// take reads one condition of the server.
func (v *View) take(server string, c metav1.Condition) {
	switch c.Type {
	case v1alpha1.ConditionAccepted:
		if c.Status == metav1.ConditionFalse && v.Override.Reason == "" {
			v.Override = Stuck(v1alpha1.ReasonServerNotAccepted, fmt.Sprintf("DstackServer %s is not accepted: %s", server, c.Message))
		}
	case v1alpha1.ConditionPolicyPluginReady:
		v.CatchingUp = c.Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonRevisionBehind || c.Reason == v1alpha1.ReasonUpgrading
	case v1alpha1.ConditionSSHProxyReady:
		v.SSHProxy = Finding{Status: c.Status, Reason: c.Reason, Message: c.Message, Stalled: sshStalls(c)}
	case v1alpha1.ConditionPodsOwned:
		v.PodsUnknown = c.Reason == v1alpha1.ReasonPodsUnknown
	case v1alpha1.ConditionSettingsApplied:
		v.SettingsStalled = c.Status == metav1.ConditionFalse && stalls(c.Reason)
		if v.Doubt == "" {
			v.Doubt = doubt(c.Reason)
		}
	}
}

// stalls tells the reasons of SettingsApplied that wait for somebody.
func stalls(reason string) bool {
	switch reason {
	case v1alpha1.ReasonFieldConflict, v1alpha1.ReasonConfigMountClash, v1alpha1.ReasonWouldLoseDatabase,
		v1alpha1.ReasonInjectionFailed, v1alpha1.ReasonRolloutBlocked, v1alpha1.ReasonProxyInTheWay,
		v1alpha1.ReasonConfigDisabled, v1alpha1.ReasonInvalidWorkload, v1alpha1.ReasonPodFailing,
		v1alpha1.ReasonPodRefused, v1alpha1.ReasonManualStepNeeded,
		v1alpha1.ReasonWaitingForApproval, v1alpha1.ReasonSettingHidden, v1alpha1.ReasonReleaseTooOld:
		return true
	default:
		return false
	}
}

// stalledBy tells whether a server is stalled by this very finding. Some reasons, such
// as TokenMismatch, do not tell by themselves whether somebody must act.
func stalledBy(all []metav1.Condition, f Finding) bool {
	c := meta.FindStatusCondition(all, v1alpha1.ConditionStalled)
	return c != nil && c.Status == metav1.ConditionTrue && c.Reason == f.Reason && c.Message == f.Message
}

// sshStalls tells the reasons of SSHProxyReady that wait for somebody.
func sshStalls(c metav1.Condition) bool {
	switch c.Reason {
	case v1alpha1.ReasonSecretInvalid, v1alpha1.ReasonAddressChanged, v1alpha1.ReasonInvalidAddress, v1alpha1.ReasonNotEnforced:
		return c.Status == metav1.ConditionFalse
	default:
		return false
	}
}

// Profile computes the whole status of an IsolationProfile whose server exists.
func Profile(obj *v1alpha1.IsolationProfile, v View, now time.Time) v1alpha1.IsolationProfileStatus {
	out := v1alpha1.IsolationProfileStatus{ObservedGeneration: obj.Generation}
	p := v.Effective.Profile(obj.Name)
	if p == nil {
		// The cache has not seen the profile yet, or it is about to go.
		out.Conditions = profileConditions(obj, pending(), pending(), now)
		return out
	}
	out.Exceptions = exceptions(obj, p, now)
	table := newTable(p, v, now)
	out.Effective, out.PlatformLimits = table.rows(), platformLimits(&table.policy)
	out.Gained = effects(v.Effective.Gained(p))
	out.Lost = effects(v.Effective.Lost(p))
	if alreadyServed(obj, p, v) {
		v.Served = v.Effective.Revision
		if rows := newTable(p, v, now).rows(); slices.Equal(rows, obj.Status.Effective) {
			out.Effective = rows
		}
	}
	out.Conditions = profileConditions(obj, accepted(p), programmed(p, v), now)
	return out
}

// ProfileWithoutServer computes the status of a profile whose server is not
// there.
func ProfileWithoutServer(obj *v1alpha1.IsolationProfile, now time.Time) v1alpha1.IsolationProfileStatus {
	name := obj.Spec.ServerRef.Name
	missing := Stuck(v1alpha1.ReasonServerNotFound, fmt.Sprintf(
		"there is no DstackServer %q in namespace %s: create it, or create this profile again with another spec.serverRef", name, obj.Namespace))
	return v1alpha1.IsolationProfileStatus{
		ObservedGeneration: obj.Generation,
		Conditions:         profileConditions(obj, missing, Waiting(v1alpha1.ReasonServerNotFound, missing.Message), now),
	}
}

func profileConditions(obj *v1alpha1.IsolationProfile, accepted, programmed Finding, now time.Time) []metav1.Condition {
	rows := []row{
		{v1alpha1.ConditionAccepted, accepted},
		{v1alpha1.ConditionProgrammed, programmed},
		{v1alpha1.ConditionExceptionsCurrent, exceptionsCurrent(obj, accepted, now)},
	}
	return conditions(rows, programmed.Message, obj.Generation, obj.Status.Conditions, now)
}

func accepted(p *isolation.Profile) Finding {
	if len(p.Problems) == 0 {
		return OK(v1alpha1.ReasonAccepted, "the profile is valid and its server exists")
	}
	reason := v1alpha1.ReasonInvalidSpec
	if worstOf(p.Problems).Exception {
		reason = v1alpha1.ReasonInvalidException
	}
	return Stuck(reason, problems(p.Problems))
}

// programmed tells whether what the profile asks for is in force.
func programmed(p *isolation.Profile, v View) Finding {
	if v.Override.Reason != "" {
		return v.Override
	}
	if names := notEnforceable(p, v); len(names) > 0 && p.Enforce {
		return Stuck(v1alpha1.ReasonControlNotEnforceable, strings.Join(names, "; "))
	}
	if v.Served != v.Effective.Revision {
		return Waiting(v1alpha1.ReasonPolicyServersNotReady, "waiting for every policy server to decide by policy revision "+v.Effective.Revision)
	}
	if v.Elsewhere {
		return v.notVisible()
	}
	return v.asked(p)
}

// asked tells whether the server's pods ask for a policy that is served, and run
// with the settings that it needs.
func (v View) asked(p *isolation.Profile) Finding {
	r := v.Running
	switch {
	case r == nil || r.Pods == 0:
		return Unknown(v1alpha1.ReasonNoServerPods, "no pod of the dstack server runs, so nothing can be said of its settings")
	case r.PolicyPods < r.Pods && v.PodsUnknown:
		return Waiting(v1alpha1.ReasonSettingsNotRunning,
			fmt.Sprintf("the owner of a server pod is not known, so it counts as not isolated: see PodsOwned of DstackServer %s", v.Effective.Name))
	case r.PolicyPods < r.Pods:
		return v.settings(fmt.Sprintf("%d of %d server pods do not ask the policy server", r.Pods-r.PolicyPods, r.Pods))
	case !v.Proven:
		return v.settings("no server pod has become ready with the settings yet")
	case v.Version.unguarded() != "":
		return v.unguarded()
	case v.Doubt != "":
		return v.settings(v.Doubt)
	case p.Enforce && isolation.Strictness(r.NetworkMode) < isolation.Strictness(v.Effective.Plan.NetworkMode):
		return v.settings(fmt.Sprintf("server pods run with network mode %d, planned is %d", r.NetworkMode, v.Effective.Plan.NetworkMode))
	case !p.Enforce:
		return OK(v1alpha1.ReasonAuditOnly, "nothing is refused: what the profile denies is counted and logged")
	}
	return v.orSSH(p, OK(v1alpha1.ReasonProgrammed, "every policy server decides by this profile and every server pod asks them"))
}

// settings is the finding that server pods lack settings.
func (v View) settings(message string) Finding {
	message += fmt.Sprintf(": see SettingsApplied of DstackServer %s", v.Effective.Name)
	if v.SettingsStalled {
		return Stuck(v1alpha1.ReasonSettingsNotRunning, message)
	}
	return Waiting(v1alpha1.ReasonSettingsNotRunning, message)
}

// sshAwaited says what must still arrive before hostSSH is denied on every
// server pod; "" when nothing. That the proxy itself does not answer later opens
// nothing: then nobody gets in.
func (v View) sshAwaited() string {
	switch {
	case v.SSHProxy.Reason == v1alpha1.ReasonNotEnforced:
		return v.SSHProxy.Message
	case v.Elsewhere:
		return "it cannot be seen from here that the SSH proxy is the only way in"
	case v.Running == nil || v.Running.SSHEnforcedPods < v.Running.Pods:
		return "not every server pod has the SSH proxy as the only way in"
	}
	return ""
}

// orSSH is the finding that server pods do not enforce the SSH proxy where the
// profile denies hostSSH, else the given one.
func (v View) orSSH(p *isolation.Profile, f Finding) Finding {
	message := v.sshAwaited()
	if p.Values[isolation.HostSSH].Mode != isolation.ModeDenied || message == "" {
		return f
	}
	if !v.SSHProxy.isTrue() {
		message += fmt.Sprintf(": see SSHProxyReady of DstackServer %s", v.Effective.Name)
		if v.SSHProxy.Stalled {
			return Stuck(v1alpha1.ReasonSettingsNotRunning, message)
		}
		return Waiting(v1alpha1.ReasonSettingsNotRunning, message)
	}
	return v.settings(message)
}

// alreadyServed tells whether what the policy servers decide by contains this
// profile as it is, while an edit of another profile is on its way to them. The
// profile's status then stays as it is: with thousands of profiles all would be
// written twice a change otherwise.
func alreadyServed(obj *v1alpha1.IsolationProfile, p *isolation.Profile, v View) bool {
	return v.CatchingUp && p.Generation == obj.Status.ObservedGeneration &&
		slices.ContainsFunc(obj.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == v1alpha1.ConditionProgrammed && (c.Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonNotVisible) && c.ObservedGeneration == p.Generation
		})
}

func effects(all []isolation.Effect) []v1alpha1.SettingEffect {
	var out []v1alpha1.SettingEffect
	for _, e := range all {
		out = append(out, v1alpha1.SettingEffect{Control: e.Control.Name(), Message: clip(e.Message)})
	}
	return out
}
