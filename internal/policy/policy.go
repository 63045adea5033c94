// Package policy reads one request of dstack's plugin protocol and decides it.
//
// It is pure: no client, no clock but the one passed in, no log. What it reads
// is written by people who may want past it, so it reads strictly: whatever it
// does not understand it refuses and says why.
package policy

import (
	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// Request is one request of dstack's plugin protocol.
type Request struct {
	// Kind of object that is asked about.
	Kind dstack.ApplyKind
	// User who applies it, and the Project it is applied to.
	User, Project string
	// Spec holds the very bytes received, a slice of the body. It is never
	// encoded again: dstack sends numbers that a second encoding could change.
	Spec []byte
	// Process is what the asking process runs with; nil when it did not say, as
	// dstack's built-in rest_plugin never does.
	Process *Process
}

// Process is what the Python plugin attests of its own dstack server process.
// A nil pointer is something that could not be read.
type Process struct {
	PluginVersion    string
	DstackVersion    string
	JobNetworkMode   *int
	SSHProxyEnforced *bool
	// Plugins that the process has loaded, in the order in which they are asked;
	// nil if unknown.
	Plugins []string
	// Last tells whether the asking plugin is the last of them.
	Last *bool
}

// Running is what the server's pods run with: the weakest of all.
type Running struct {
	// NetworkMode is 0 when it is not known, which counts as the weakest.
	NetworkMode v1alpha1.NetworkMode
}

// Decision is what becomes of a request.
type Decision struct {
	Allowed bool
	// Message is the whole text of the refusal, at most 2,000 characters; empty
	// when allowed.
	Message string
	// Reasons why it is refused; empty when allowed.
	Reasons []Reason
	// Filled is the specification with the fleets that the run may use put in, or
	// the backends that may be offered, in place of the one received; nil when it
	// stays as it is.
	Filled []byte
	// Audited are the reasons for which profiles in audit mode would have refused
	// it, as far as they are not among Reasons.
	Audited []Reason
	// Lifted are the exceptions ("PROFILE/EXCEPTION") without which there would
	// have been a further reason.
	Lifted []string
	// Revision of the policy that was decided by.
	Revision string
}

// Reason is one thing that is wrong with a request.
type Reason struct {
	// Control is the control's name in the API, ControlSpec, or ControlRules with
	// the name of a rule.
	Control string
	// Field is where, such as "configuration.groups[1].privileged"; "object" for a
	// rule.
	Field string
	// Message is a sentence with the value and the remedy, without full stop and
	// without the profile.
	Message string
	// Profiles are the names of the profiles that ask for it; "unmatchedProjects"
	// for the server's. Empty for ControlSpec, which holds under every profile.
	Profiles []string
	// Cause is why the expression of a rule could not be evaluated, for those who
	// wrote it; empty for all else. Users are not shown it.
	Cause string
}

// ControlSpec stands in Reason.Control for a specification whose shape is not
// understood. No profile allows that.
const ControlSpec = "spec"
