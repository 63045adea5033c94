package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProjectPattern is a whole project name with "*" (any run of characters,
// also none) and "?" (exactly one character) as the only wildcards, compared
// without regard to case, as dstack compares project names.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=100
// +kubebuilder:validation:Pattern=`^[-_.a-zA-Z0-9*?]+$`
type ProjectPattern string

// ProjectSelector says which projects a profile governs.
type ProjectSelector struct {
	// include lists the projects that the profile governs, by whole name; "*"
	// stands for any characters and "?" for one; case does not matter.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Include []ProjectPattern `json:"include"`

	// exclude lists projects that this profile does not govern although include
	// names them. It limits this profile only: another profile may still govern
	// them, and if none does, the server's unmatchedProjects applies.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	Exclude []ProjectPattern `json:"exclude,omitempty"`
}

// Exception lets some users do what some controls of this profile deny.
type Exception struct {
	// name of the exception, unique in the profile. It appears in decisions.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// users lists the dstack user names it is for, compared letter by letter.
	// dstack asks the policy with the user who applies or updates a run, so that
	// is whom it is for, also when another user owns the run.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=100
	Users []string `json:"users"`

	// controls lists the controls that it lifts. It lifts only what this profile
	// denies: where another profile denies the same, that one needs an exception
	// too. hostSSH cannot be lifted for single users, because dstack enforces it
	// for the whole server.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Controls []ControlName `json:"controls"`

	// reason says why, for those who review it.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=500
	Reason string `json:"reason"`

	// expiresAt is the moment at which the exception ends, to the second. Without
	// it the exception holds until it is removed.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
}

// RuleKind is a kind of object that dstack asks about.
//
// +kubebuilder:validation:Enum=Run;Fleet;Volume;Gateway
type RuleKind string

// The kinds of object that a rule can be about.
const (
	RuleKindRun     RuleKind = "Run"
	RuleKindFleet   RuleKind = "Fleet"
	RuleKindVolume  RuleKind = "Volume"
	RuleKindGateway RuleKind = "Gateway"
)

// Rule refuses what no control is about, by an expression.
type Rule struct {
	// name of the rule, unique in the profile. It appears in refusals.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// kind of object that the rule is about: Run, Fleet, Volume or Gateway.
	//
	// +required
	Kind RuleKind `json:"kind"`

	// expression in CEL, as in Kubernetes, that is true for what the rule allows.
	// Its variables are object (the specification as dstack sends it), user,
	// project, and offer, which is true for a request of dstack offer. What it does
	// not allow, or what it cannot be evaluated for, is refused. An expression that
	// does not compile refuses every object of its kind, and the profile is not
	// accepted.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Expression string `json:"expression"`

	// message of the refusal: one line that says what is not allowed.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=500
	// +kubebuilder:validation:XValidation:rule="!self.matches('[[:cntrl:]]')",message="message must be one line without control characters",reason=FieldValueInvalid
	Message string `json:"message"`

	// hint says what to write instead, in one line after the message.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=200
	// +kubebuilder:validation:XValidation:rule="!self.matches('[[:cntrl:]]')",message="hint must be one line without control characters",reason=FieldValueInvalid
	Hint string `json:"hint,omitempty"`
}

// IsolationProfileSpec says how strictly some projects are kept apart.
//
// +kubebuilder:validation:XValidation:rule="self.serverRef == oldSelf.serverRef",message="serverRef must not change: create a new profile for the other server, then delete this one",reason=FieldValueForbidden,fieldPath=".serverRef"
// +kubebuilder:validation:XValidation:rule="self.level != 'Dedicated' || (has(self.controls) && has(self.controls.fleets))",message="level Dedicated needs controls.fleets: list the fleets that belong to these projects alone",reason=FieldValueRequired,fieldPath=".level"
type IsolationProfileSpec struct {
	// serverRef names the DstackServer whose projects this profile governs.
	//
	// +required
	ServerRef LocalObjectReference `json:"serverRef"`

	// projects says which projects the profile governs. A project that several
	// profiles match is governed by all of them: per control the strictest wins.
	//
	// +required
	Projects ProjectSelector `json:"projects"`

	// level is the preset that gives each control its value: Open, Baseline,
	// Restricted or Dedicated.
	//
	// +required
	Level Level `json:"level"`

	// levelVersion pins what the level means. Default: v1.
	//
	// +optional
	// +kubebuilder:default=v1
	LevelVersion LevelVersion `json:"levelVersion,omitempty"`

	// enforcement is Enforce (refuse what is denied) or Audit (refuse nothing,
	// move no setting of the server, count and log what would be refused).
	// Default: Enforce.
	//
	// +optional
	// +kubebuilder:default=Enforce
	Enforcement Enforcement `json:"enforcement,omitempty"`

	// controls override single controls of the level.
	//
	// +optional
	Controls *Controls `json:"controls,omitempty"`

	// exceptions let some users do what some controls deny, with a reason and, if
	// set, until a moment.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Exceptions []Exception `json:"exceptions,omitempty"`

	// rules refuse what no control is about. They hold beside the controls and
	// allow nothing that a control denies; exceptions do not lift them.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Rules []Rule `json:"rules,omitempty"`

	// hint is a sentence added to every refusal, such as whom to ask. One line.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=200
	// +kubebuilder:validation:XValidation:rule=`!self.matches(r'[\p{Cc}\x{2028}\x{2029}]')`,message="hint must be one line without control characters",reason=FieldValueInvalid
	Hint string `json:"hint,omitempty"`
}

// IsolationProfile says how strictly some projects of a dstack server are kept
// apart.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=isop,categories=dstack
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.spec.serverRef.name`
// +kubebuilder:printcolumn:name="Level",type=string,JSONPath=`.spec.level`
// +kubebuilder:printcolumn:name="Enforcement",type=string,JSONPath=`.spec.enforcement`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type IsolationProfile struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says how strictly some projects are kept apart.
	//
	// +required
	Spec IsolationProfileSpec `json:"spec"`

	// status is what the operator says of the profile.
	//
	// +optional
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "waiting for the operator", lastTransitionTime: "1970-01-01T00:00:00Z"}, {type: "Ready", status: "Unknown", reason: "Pending", message: "waiting for the operator", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status IsolationProfileStatus `json:"status,omitzero"`
}

// IsolationProfileList is a list of IsolationProfiles.
//
// +kubebuilder:object:root=true
type IsolationProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []IsolationProfile `json:"items"`
}
