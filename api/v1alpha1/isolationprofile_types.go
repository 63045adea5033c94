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

// AllowedDenied is the value of a control that knows no middle way.
//
// +kubebuilder:validation:Enum=Allowed;Denied
type AllowedDenied string

// The values of AllowedDenied, from loosest to strictest.
const (
	Allowed AllowedDenied = "Allowed"
	Denied  AllowedDenied = "Denied"
)

// HostNetwork is the value of the control hostNetwork.
//
// +kubebuilder:validation:Enum=Allowed;DistributedOnly;Denied
type HostNetwork string

// The values of HostNetwork, from loosest to strictest.
const (
	HostNetworkAllowed         HostNetwork = "Allowed"
	HostNetworkDistributedOnly HostNetwork = "DistributedOnly"
	HostNetworkDenied          HostNetwork = "Denied"
)

// InstanceVolumesMode is the mode of the control instanceVolumes.
//
// +kubebuilder:validation:Enum=Allowed;AllowedPaths;Denied
type InstanceVolumesMode string

// The modes of InstanceVolumes, from loosest to strictest.
const (
	InstanceVolumesAllowed      InstanceVolumesMode = "Allowed"
	InstanceVolumesAllowedPaths InstanceVolumesMode = "AllowedPaths"
	InstanceVolumesDenied       InstanceVolumesMode = "Denied"
)

// InstancePath is an absolute, clean path on a host: it starts with "/", has
// no "." or ".." component, no empty component and no trailing slash, and is
// not "/" itself.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self.matches('^(/[^/[:cntrl:]]+)+$') && !self.matches('/[.][.]?(/|$)')",message="paths must be absolute and clean: start with /, name no . or .. component, hold no empty component, no control character and no trailing /",reason=FieldValueInvalid
type InstancePath string

// InstanceVolumes is the value of the control instanceVolumes.
//
// +kubebuilder:validation:XValidation:rule="self.mode == 'AllowedPaths' ? has(self.paths) && self.paths.size() > 0 : !has(self.paths)",message="paths must be set when mode is AllowedPaths, and only then",reason=FieldValueInvalid,fieldPath=".paths"
type InstanceVolumes struct {
	// mode is Allowed (any directory of the host may be mounted), AllowedPaths
	// (only the directories in paths and what lies below them) or Denied.
	//
	// +required
	Mode InstanceVolumesMode `json:"mode"`

	// paths lists the host directories that runs may mount, with all that lies
	// below them. Set it when mode is AllowedPaths, and only then. Links on the
	// host are followed by the container engine, unseen by dstack: name only
	// directories in which no tenant can create one.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Paths []InstancePath `json:"paths,omitempty"`
}

// UnknownFields is the value of the control unknownFields.
//
// +kubebuilder:validation:Enum=Allowed;DeniedIfSet
type UnknownFields string

// The values of UnknownFields, from loosest to strictest.
const (
	UnknownFieldsAllowed     UnknownFields = "Allowed"
	UnknownFieldsDeniedIfSet UnknownFields = "DeniedIfSet"
)

// FleetName names a fleet: NAME for one of the project's own, PROJECT/NAME for
// one that another project shares with it.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=200
// +kubebuilder:validation:Pattern=`^([-_.a-zA-Z0-9]+/)?[-_.a-zA-Z0-9]+$`
type FleetName string

// AllowedFleets is the value of the control fleets.
type AllowedFleets struct {
	// allowed lists the fleets that runs may use: NAME for a fleet of the run's
	// own project, PROJECT/NAME for a fleet that another project shares with it.
	// A run that names no fleet gets this list filled in.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Allowed []FleetName `json:"allowed"`
}

// BackendName is dstack's name of a backend, such as aws, gcp or kubernetes;
// remote stands for SSH fleets.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type BackendName string

// AllowedBackends is the value of the control backends.
type AllowedBackends struct {
	// allowed lists the backends that runs, fleets, volumes and gateways may use,
	// by dstack's names, such as aws, gcp or kubernetes; remote stands for SSH
	// fleets.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Allowed []BackendName `json:"allowed"`
}

// RegistryName is the host of an image registry, with its port if it has one,
// and as much of the repository's path as is wanted, such as ghcr.io/example.
// docker.io stands for images that name no registry.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=255
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`
type RegistryName string

// AllowedRegistries is the value of the control registries.
type AllowedRegistries struct {
	// allowed lists where images of a run may come from: a registry, or a
	// registry and the beginning of the repository's path by whole components,
	// such as ghcr.io/example. docker.io stands for images that name no registry,
	// docker.io/library for official ones, docker.io/dstackai for dstack's own.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Allowed []RegistryName `json:"allowed"`
}

// Controls override single controls of a profile's level. A control that is
// left out has the value that the level gives it.
type Controls struct {
	// hostSSH says whether a user may log in to the host by SSH. Denied needs
	// dstack's SSH proxy, enforced by the server, and lets a run carry only one
	// well-formed public key without options.
	//
	// +optional
	HostSSH AllowedDenied `json:"hostSSH,omitempty"`

	// privileged says whether a run may start privileged containers, by
	// "privileged: true" or "docker: true", in the run or in one of its groups.
	//
	// +optional
	Privileged AllowedDenied `json:"privileged,omitempty"`

	// instanceVolumes says whether a run may mount directories of the host.
	//
	// +optional
	InstanceVolumes *InstanceVolumes `json:"instanceVolumes,omitempty"`

	// hostNetwork says whether a run may use the network of the host, from which
	// it reaches the host's agent: Allowed, DistributedOnly (only tasks of more
	// than one node) or Denied. dstack sets the network for the whole server, so
	// a project may get less than its profile allows; its status says so.
	//
	// +optional
	HostNetwork HostNetwork `json:"hostNetwork,omitempty"`

	// distributedTasks says whether tasks of more than one node may run.
	//
	// +optional
	DistributedTasks AllowedDenied `json:"distributedTasks,omitempty"`

	// serviceRouters says whether a group of a service may be a router for the
	// others. Routers need traffic between replicas, which does not get through
	// on bridge networks, that is, with network mode 1 or 3.
	//
	// +optional
	ServiceRouters AllowedDenied `json:"serviceRouters,omitempty"`

	// fleetEnvironment says whether an SSH fleet may set environment variables.
	// They reach the host's agent and every job on its hosts. Denied lets only
	// HTTP_PROXY, HTTPS_PROXY and NO_PROXY pass, in upper or lower case, with
	// values without quotes, backslashes and line breaks.
	//
	// +optional
	FleetEnvironment AllowedDenied `json:"fleetEnvironment,omitempty"`

	// sshFleets says whether hosts may be added by SSH. Who adds a host has root
	// on it and sees the jobs of all who run there.
	//
	// +optional
	SSHFleets AllowedDenied `json:"sshFleets,omitempty"`

	// sharedInstances says whether a fleet may split its instances into blocks,
	// so that several jobs share one host. Denied wants blocks to be 1.
	//
	// +optional
	SharedInstances AllowedDenied `json:"sharedInstances,omitempty"`

	// importedFleets says whether a run may name fleets and instances of other
	// projects. A run that names no fleet may still be placed on an imported one:
	// set fleets too to prevent that.
	//
	// +optional
	ImportedFleets AllowedDenied `json:"importedFleets,omitempty"`

	// existingVolumes says whether a volume may be registered for a disk or a
	// claim that exists already ("volume_id", "claim_name"), which may be
	// another tenant's.
	//
	// +optional
	ExistingVolumes AllowedDenied `json:"existingVolumes,omitempty"`

	// serverAccess says whether a run may get a tunnel to the dstack server
	// ("dstack: true").
	//
	// +optional
	ServerAccess AllowedDenied `json:"serverAccess,omitempty"`

	// servicesWithoutGateway says whether a service may be served by the dstack
	// server itself, on the same origin as its web interface. Denied wants a
	// service to name a gateway.
	//
	// +optional
	ServicesWithoutGateway AllowedDenied `json:"servicesWithoutGateway,omitempty"`

	// services says whether services may run at all. A service receives the
	// dstack tokens of those who call it, also with "auth: true".
	//
	// +optional
	Services AllowedDenied `json:"services,omitempty"`

	// tags says whether tags may be set. On the Kubernetes backend they become
	// labels of pods, which Services and NetworkPolicies may select.
	//
	// +optional
	Tags AllowedDenied `json:"tags,omitempty"`

	// fleets lists the only fleets that runs may use. Left out, any may be used,
	// except in level Dedicated, which needs the list.
	//
	// +optional
	Fleets *AllowedFleets `json:"fleets,omitempty"`

	// backends lists the only backends that may be used. Left out, any may be
	// used.
	//
	// +optional
	Backends *AllowedBackends `json:"backends,omitempty"`

	// registries lists the only places that images may come from. Left out, any
	// may be used.
	//
	// +optional
	Registries *AllowedRegistries `json:"registries,omitempty"`

	// unknownFields is Allowed or DeniedIfSet. DeniedIfSet refuses what carries a
	// value in a field that this release does not know; null, false, 0 and what
	// is empty pass, because a newer dstack sends its new fields that way.
	//
	// +optional
	UnknownFields UnknownFields `json:"unknownFields,omitempty"`
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
	// Its variables are object (the specification as dstack sends it), user and
	// project. What it does not allow, or what it cannot be evaluated for, is
	// refused. An expression that does not compile refuses every object of its
	// kind, and the profile is not accepted.
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

// IsolationProfileStatus is what the operator says of a profile.
type IsolationProfileStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions tell how far the profile has come: Accepted, Programmed, Ready,
	// and, abnormal when true, Reconciling and Stalled.
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
