package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// ServerFacts is what one pass has found out about a DstackServer. A finding
// that was not reached is left empty and shows as Unknown.
type ServerFacts struct {
	// Effective is nil while the object is not accepted.
	Effective *isolation.Effective

	Accepted     Finding
	Pods         Finding
	Connected    Finding
	PolicyPlugin Finding
	SSHProxy     Finding
	Settings     Finding

	// Served is the revision that every policy server pod decides by; "" while
	// they differ.
	Served string
	// Running is what the pods run with; nil when they were not looked at.
	Running *v1alpha1.RunningSettings
	// Revisions of the settings, as far as they have come.
	Revisions v1alpha1.SettingsRevisions
	// Version is what is known of the versions of the server's pods.
	Version Version
	// SSH is what users must know of the SSH proxy; nil without one.
	SSH      *v1alpha1.SSHProxyStatus
	Injected []v1alpha1.InjectedItem
	// Pending is a change of settings that waits for approval; nil for none.
	Pending *v1alpha1.PendingChange
	// Hidden are variables that came by envFrom and that pods may still run with.
	Hidden []v1alpha1.HiddenVariable
	// Doubts are why settings that are in place may not take effect.
	Doubts []v1alpha1.SettingsDoubt
	// ConfigFileGap is when a config.yml may not have named the plugin; nil for never.
	ConfigFileGap *v1alpha1.ConfigFileGap
	// LastRemoval of settings by somebody else; nil if there was none.
	LastRemoval *v1alpha1.Removal
	// ManualPatch is what the workload's manifest still lacks; "" when nothing.
	ManualPatch string
	Warnings    []string
}

// Server computes the whole status of a DstackServer.
func Server(s *v1alpha1.DstackServer, f ServerFacts, now time.Time) v1alpha1.DstackServerStatus {
	out := v1alpha1.DstackServerStatus{
		ObservedGeneration: s.Generation,
		Release:            clipTo(f.Version.Release, 60),
		Build:              f.Version.build(),
		Running:            f.Running,
		SSHProxy:           f.SSH,
		SettingsRevision:   f.Revisions,
		Injected:           boundedItems(f.Injected),
		ManualPatch:        f.ManualPatch,
		PendingChange:      boundedChange(f.Pending),
		Warnings:           bounded(f.Warnings),
		LastRemoval:        f.LastRemoval,
		HiddenVariables:    f.Hidden,
		Doubts:             f.Doubts,
		ConfigFileGap:      f.ConfigFileGap,
	}
	unmatched := pending()
	if e := f.Effective; e != nil {
		out.Profiles = int32(min(len(e.Profiles), 1<<30))
		out.PlannedNetworkMode = e.Plan.NetworkMode
		out.PolicyRevision = v1alpha1.PolicyRevisions{Desired: e.Revision, Served: f.Served}
		unmatched = covered(s, e, f)
	}
	rows := []row{
		{v1alpha1.ConditionAccepted, f.Accepted.orPending()},
		{v1alpha1.ConditionPolicyPluginReady, f.PolicyPlugin.orPending()},
		{v1alpha1.ConditionSSHProxyReady, f.SSHProxy.orPending()},
		{v1alpha1.ConditionSettingsApplied, f.Settings.orPending()},
		{v1alpha1.ConditionPodsOwned, podsOwned(s, f)},
		{v1alpha1.ConditionConnected, f.Connected.orPending()},
		{v1alpha1.ConditionUnmatchedProjectsCovered, unmatched},
		{v1alpha1.ConditionProfilesAccepted, profilesAccepted(f.Effective)},
	}
	out.Conditions = conditions(rows, ready(f), s.Generation, s.Status.Conditions, now)
	return out
}

func ready(f ServerFacts) string {
	if f.Running == nil || f.Effective == nil {
		return ""
	}
	return fmt.Sprintf("all %d server pods ask the policy server; %d profiles, policy revision %s, network mode %d",
		f.Running.Pods, len(f.Effective.Profiles), f.Effective.Revision, f.Running.NetworkMode)
}

// covered tells how the policy for projects that no profile names stands.
func covered(s *v1alpha1.DstackServer, e *isolation.Effective, f ServerFacts) Finding {
	if len(e.Unmatched.Problems) > 0 {
		return Stuck(v1alpha1.ReasonInvalidSpec, problems(e.Unmatched.Problems))
	}
	switch {
	case f.Accepted.Status == metav1.ConditionFalse:
		// Nothing is set up for this object, so there is nothing to wait for.
		return Finding{metav1.ConditionFalse, f.Accepted.Reason, "this DstackServer is not accepted: " + f.Accepted.Message, f.Accepted.Stalled}
	case f.Settings.Reason == v1alpha1.ReasonDisabled, f.Settings.Reason == v1alpha1.ReasonReleasing,
		s.Spec.Injection == v1alpha1.InjectionDisabled && f.Settings.Reason != "":
		return f.Settings
	}
	view := View{
		Effective: e, Served: f.Served, Running: f.Running, Proven: f.Revisions.Proven != "", PodsUnknown: f.Pods.Reason == v1alpha1.ReasonPodsUnknown,
		SettingsStalled: f.Settings.Stalled, Doubt: doubtOf(f.Doubts, f.Settings.Reason), Version: f.Version, SSHProxy: f.SSHProxy.orPending(), Elsewhere: runsElsewhere(s),
	}
	p := programmed(e.Unmatched, view)
	if p.isTrue() && p.Reason == v1alpha1.ReasonProgrammed {
		return OK(v1alpha1.ReasonCovered, "projects that no profile names are refused what spec.unmatchedProjects denies")
	}
	if p.isTrue() {
		return OK(p.Reason, "nothing is refused in projects that no profile names: what spec.unmatchedProjects denies is counted and logged")
	}
	if p.Reason == v1alpha1.ReasonControlNotEnforceable {
		p.Message = "in projects that no profile names, " + p.Message
	}
	return p
}

func problems(all []isolation.Problem) string {
	texts := make([]string, len(all))
	for i, p := range all {
		texts[i] = p.String()
	}
	return strings.Join(texts, "; ")
}

// bounded keeps the list within what the API allows, each text whole.
func bounded(warnings []string) []string {
	const most = 16
	out := slices.Clone(warnings)
	if len(out) > most {
		out = out[:most]
	}
	for i := range out {
		out[i] = clip(out[i])
	}
	return out
}

// boundedChange keeps the texts of a change within what the API allows: names hold
// paths, and reasons the names of profiles.
func boundedChange(change *v1alpha1.PendingChange) *v1alpha1.PendingChange {
	if change == nil {
		return nil
	}
	const most, length = 32, 250
	out := *change
	out.Items = slices.Clone(change.Items[:min(len(change.Items), most)])
	for i := range out.Items {
		out.Items[i].Name, out.Items[i].Why = clipTo(out.Items[i].Name, length), clip(out.Items[i].Why)
	}
	return &out
}

func boundedItems(items []v1alpha1.InjectedItem) []v1alpha1.InjectedItem {
	const most, length = 32, 250
	out := slices.Clone(items)
	if len(out) > most {
		out = out[:most]
	}
	for i := range out {
		out[i].Name, out[i].Manager = clipTo(out[i].Name, length), clipTo(out[i].Manager, length)
	}
	return out
}
