package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Standing says how well a denied control holds.
//
// +kubebuilder:validation:Enum=Enforced;Pending;Bypassable;NotEnforceable;NotDenied
type Standing string

const (
	// StandingEnforced: what the control denies is refused, by what enforcedBy
	// names.
	StandingEnforced Standing = "Enforced"
	// StandingPending: it will be enforced once the settings or the policy that
	// it needs have arrived everywhere; or that they have cannot be seen, since the
	// server runs elsewhere.
	StandingPending Standing = "Pending"
	// StandingBypassable: what the control denies is refused, but another path,
	// which the message names, leads to the same thing.
	StandingBypassable Standing = "Bypassable"
	// StandingNotEnforceable: nothing enforces it as things are; the message
	// says what is missing.
	StandingNotEnforceable Standing = "NotEnforceable"
	// StandingNotDenied: nothing is denied, so nothing has to hold.
	StandingNotDenied Standing = "NotDenied"
)

// EffectiveControl is one row of the table of controls that hold for every
// project of a profile.
type EffectiveControl struct {
	// control is the name of the control.
	//
	// +required
	Control ControlName `json:"control"`

	// asked is the value that this profile asks for.
	//
	// +required
	// +kubebuilder:validation:MaxLength=256
	Asked string `json:"asked"`

	// effective is the value that all its projects get at least.
	//
	// +required
	// +kubebuilder:validation:MaxLength=256
	Effective string `json:"effective"`

	// becauseOf names what made the effective value differ from the asked one.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	BecauseOf string `json:"becauseOf,omitempty"`

	// enforcedBy names what refuses: the policy plugin, a setting of the server,
	// or both.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	EnforcedBy string `json:"enforcedBy,omitempty"`

	// standing says how well it holds.
	//
	// +required
	Standing Standing `json:"standing"`

	// message says why the standing is not Enforced, and what to do.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`
}

// SettingEffect is one way in which the settings of the whole server differ
// from what a profile asks for.
type SettingEffect struct {
	// control is the name of the control.
	//
	// +required
	Control ControlName `json:"control"`

	// message says what differs and because of whom.
	//
	// +required
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message"`
}

// PlatformLimitName names a limit of the platform.
//
// +kubebuilder:validation:Enum=HostAgent;SharedHosts;AlwaysPrivileged;ContainerBackends
type PlatformLimitName string

// The limits of the platform, in the order in which status lists them.
const (
	// PlatformLimitHostAgent: on hosts that dstack's agent manages, controls rest on
	// the container runtime and the agent, and what the agent keeps on the host is not
	// fully protected from jobs.
	PlatformLimitHostAgent PlatformLimitName = "HostAgent"
	// PlatformLimitSharedHosts: jobs that share a host share its kernel and the
	// network of its container engine.
	PlatformLimitSharedHosts PlatformLimitName = "SharedHosts"
	// PlatformLimitAlwaysPrivileged: some backends run every container privileged.
	PlatformLimitAlwaysPrivileged PlatformLimitName = "AlwaysPrivileged"
	// PlatformLimitContainerBackends: some backends run containers of their own,
	// without hosts that dstack's agent manages.
	PlatformLimitContainerBackends PlatformLimitName = "ContainerBackends"
)

// PlatformLimit is something that dstack or its backends leave open whatever a
// profile denies. What an administrator can close by a field is in the rows of
// status.effective instead.
type PlatformLimit struct {
	// name of the limit.
	//
	// +required
	Name PlatformLimitName `json:"name"`

	// controls that are denied in the profile's projects and that the limit weakens.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Controls []ControlName `json:"controls"`

	// message says what is left open, and what reduces it.
	//
	// +required
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message"`
}

// IsolationProfileStatus is what the operator says of a profile.
type IsolationProfileStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions tell how far the profile has come: Accepted, Programmed,
	// ExceptionsCurrent, Ready, and, abnormal when true, Reconciling and Stalled.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// effective lists what each control is asked to be and what it is.
	//
	// +optional
	// +listType=map
	// +listMapKey=control
	// +kubebuilder:validation:MaxItems=32
	Effective []EffectiveControl `json:"effective,omitempty"`

	// platformLimits lists what dstack and its backends leave open whatever this
	// profile denies, as far as its projects can meet it. No field of this profile or
	// its server closes a limit, but fewer backends may leave one out.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	PlatformLimits []PlatformLimit `json:"platformLimits,omitempty"`

	// exceptions lists each exception with its end and its state.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Exceptions []ExceptionStatus `json:"exceptions,omitempty"`

	// gained lists where the projects get it stricter than this profile asks,
	// because the whole server shares one setting.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Gained []SettingEffect `json:"gained,omitempty"`

	// lost lists wishes of this profile that the whole server's setting cannot
	// meet, and because of whom.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Lost []SettingEffect `json:"lost,omitempty"`
}
