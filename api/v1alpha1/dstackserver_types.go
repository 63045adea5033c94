package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkloadKind is the kind of workload that runs a dstack server.
//
// +kubebuilder:validation:Enum=Deployment;StatefulSet
type WorkloadKind string

// The kinds of workload that can be injected into.
const (
	WorkloadDeployment  WorkloadKind = "Deployment"
	WorkloadStatefulSet WorkloadKind = "StatefulSet"
)

// WorkloadReference names the user's own workload that runs the dstack server.
//
// +kubebuilder:validation:XValidation:rule="self.kind == oldSelf.kind && self.name == oldSelf.name",message="workload kind and name must not change: delete this DstackServer, which gives the workload back, and create one for the other workload",reason=FieldValueForbidden
type WorkloadReference struct {
	// kind is Deployment or StatefulSet.
	//
	// +required
	Kind WorkloadKind `json:"kind"`

	// name of the workload, in the same namespace.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// container that runs the dstack server. It may be left out when the workload
	// has only one container, init containers aside.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Container string `json:"container,omitempty"`
}

// ServerAPI says how to talk to the dstack server's HTTP API.
type ServerAPI struct {
	// port of the API in each server pod. Default: 3000.
	//
	// +optional
	// +kubebuilder:default=3000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// url of a dstack server that runs elsewhere, outside of this cluster or in
	// another namespace: http or https, a host, a port if it is another than the
	// scheme's, and no path. It takes the place of spec.workload, and needs
	// spec.injection Manual.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*|\\\\[[0-9a-fA-F:.]+\\\\])(:[1-9][0-9]{0,4})?$')",message="url must be http://HOST, https://HOST or one of them with :PORT, without user, path or trailing slash",reason=FieldValueInvalid
	URL string `json:"url,omitempty"`

	// adminTokenSecretRef names the Secret key that holds the token of a global
	// administrator of this dstack server. The token is sent to the server's own
	// pods, or to api.url, only. This release uses it to check that it is accepted,
	// and to tell which runs a change or a loss of settings met.
	//
	// +optional
	AdminTokenSecretRef *SecretKeyReference `json:"adminTokenSecretRef,omitempty"`
}

// Injection says whether the operator sets what it needs in the workload.
//
// +kubebuilder:validation:Enum=Enabled;Manual;Disabled
type Injection string

const (
	// InjectionEnabled applies settings, plugin and init container to the
	// workload, and nothing that another manager owns.
	InjectionEnabled Injection = "Enabled"
	// InjectionManual writes nothing to the workload: status and a ConfigMap show
	// what its manifest must contain, and conditions tell when it does.
	InjectionManual Injection = "Manual"
	// InjectionDisabled gives back all that was set.
	InjectionDisabled Injection = "Disabled"
)

// RolloutApproval says when a change of settings is applied to the workload.
//
// +kubebuilder:validation:Enum=Automatic;OnApproval
type RolloutApproval string

const (
	// RolloutAutomatic applies a change at once.
	RolloutAutomatic RolloutApproval = "Automatic"
	// RolloutOnApproval shows a change in status.pendingChange and applies it once
	// the annotation isolation.dstack.ai/approve names its revision. What was
	// approved last is kept, and repaired, meanwhile.
	RolloutOnApproval RolloutApproval = "OnApproval"
)

// DefaultPermissions are what dstack lets users do who have no permission of
// their own: the key default_permissions of its config.yml. What is left out
// stays as the server's own config.yml has it.
type DefaultPermissions struct {
	// allowNonAdminsCreateProjects lets users who are no global administrators
	// create projects, of which they are administrators then. dstack's default:
	// true.
	//
	// +optional
	AllowNonAdminsCreateProjects *bool `json:"allowNonAdminsCreateProjects,omitempty"` //nolint:kubeapilinter // dstack's own values are booleans

	// allowNonAdminsManageSSHFleets lets members of a project who do not
	// administrate it manage its SSH fleets. dstack's default: true.
	//
	// +optional
	AllowNonAdminsManageSSHFleets *bool `json:"allowNonAdminsManageSSHFleets,omitempty"` //nolint:kubeapilinter // dstack's own values are booleans

	// allowManagersManageSecrets lets managers of a project manage its secrets.
	// dstack's default: false. It needs dstack 0.20.18 or later: older ones do not
	// start with it, so it is left out there.
	//
	// +optional
	AllowManagersManageSecrets *bool `json:"allowManagersManageSecrets,omitempty"` //nolint:kubeapilinter // dstack's own values are booleans
}

// UnmatchedProjects is the policy for projects that no profile names.
//
// +kubebuilder:validation:XValidation:rule="self.level != 'Dedicated' || (has(self.controls) && has(self.controls.fleets))",message="level Dedicated needs controls.fleets: list the fleets that belong to these projects alone",reason=FieldValueRequired,fieldPath=".level"
type UnmatchedProjects struct {
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

	// enforcement is Enforce or Audit. On a server in use, begin with Audit.
	//
	// +required
	Enforcement Enforcement `json:"enforcement"`

	// controls override single controls of the level, as in an IsolationProfile.
	// Without an SSH proxy, set hostSSH to Allowed here: nothing else can deny it.
	//
	// +optional
	Controls *Controls `json:"controls,omitempty"`
}

// DstackServerSpec describes a dstack server that already runs, and how the
// operator may change it.
//
// +kubebuilder:validation:XValidation:rule="has(self.workload) != has(self.api.url)",message="spec must have either workload, for a server in this namespace, or api.url, for one that runs elsewhere",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="has(self.workload) == has(oldSelf.workload)",message="workload must not come or go: delete this DstackServer, which gives the workload back, and create one for the other server",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!has(self.api.url) || self.injection == 'Manual'",message="injection must be Manual for a server that runs elsewhere (api.url): the operator cannot write there",reason=FieldValueInvalid,fieldPath=".injection"
// +kubebuilder:validation:XValidation:rule="!has(self.api.url) || self.policyPlugin.delivery == 'Python'",message="policyPlugin.delivery must be Python for a server that runs elsewhere (api.url): with REST its requests would carry no token",reason=FieldValueInvalid,fieldPath=".policyPlugin.delivery"
// +kubebuilder:validation:XValidation:rule="has(self.api.url) == has(self.policyPlugin.url)",message="policyPlugin.url must be set together with api.url: it is where a server that runs elsewhere reaches the policy server",reason=FieldValueInvalid,fieldPath=".policyPlugin.url"
type DstackServerSpec struct {
	// workload is the user's own Deployment or StatefulSet that runs the server.
	// One workload belongs to one DstackServer: the oldest one that names it. It is
	// left out for a server that runs elsewhere: then api.url names that.
	//
	// +optional
	Workload WorkloadReference `json:"workload,omitzero"` //nolint:kubeapilinter // one that is left out is zero

	// api says how to talk to the server. Its pods are addressed one by one.
	//
	// +optional
	// +kubebuilder:default={}
	API ServerAPI `json:"api,omitzero"`

	// serverDir is the directory in which the server keeps its config.yml.
	// Default: /root/.dstack/server, as in dstack's image.
	//
	// +optional
	// +kubebuilder:default="/root/.dstack/server"
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^(/[^/[:cntrl:]]+)+$') && !self.matches('/[.][.]?(/|$)')",message="serverDir must be an absolute and clean path: start with /, name no . or .. component, hold no empty component, no control character and no trailing /",reason=FieldValueInvalid
	ServerDir string `json:"serverDir,omitempty"`

	// injection is Enabled (default: apply what is needed to the workload, which
	// restarts the server when it changes), Manual (write nothing to the workload;
	// show the exact patch for its manifest and tell when it is in place) or
	// Disabled (give back all of it).
	//
	// +optional
	// +kubebuilder:default=Enabled
	Injection Injection `json:"injection,omitempty"`

	// rollout is Automatic (default: a change of settings is applied at once, which
	// restarts the server) or OnApproval (it is shown in status.pendingChange and
	// waits until the annotation isolation.dstack.ai/approve names its revision).
	//
	// +optional
	// +kubebuilder:default=Automatic
	Rollout RolloutApproval `json:"rollout,omitempty"`

	// policyPlugin configures the policy server and its plugin in the server.
	//
	// +optional
	// +kubebuilder:default={}
	PolicyPlugin PolicyPlugin `json:"policyPlugin,omitzero"`

	// sshProxy is dstack's SSH proxy. Without one, hostSSH cannot be denied.
	//
	// +optional
	SSHProxy *SSHProxy `json:"sshProxy,omitempty"`

	// defaultPermissions are what dstack lets users do who have no permission of
	// their own. Left out, the server's own config.yml decides; dstack's defaults let
	// every user create projects.
	//
	// +optional
	DefaultPermissions *DefaultPermissions `json:"defaultPermissions,omitempty"`

	// unmatchedProjects is the policy for projects that no profile names. It has
	// no default, because any dstack user may create a project: the choice is too
	// heavy to be silent.
	//
	// +required
	UnmatchedProjects UnmatchedProjects `json:"unmatchedProjects"`
}

// DstackServer is a dstack server that already runs in this namespace and that
// the operator keeps isolated as the IsolationProfiles ask.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dsrv,categories=dstack
// +kubebuilder:printcolumn:name="Workload",type=string,JSONPath=`.spec.workload.name`
// +kubebuilder:printcolumn:name="Release",type=string,JSONPath=`.status.release`
// +kubebuilder:printcolumn:name="Profiles",type=integer,JSONPath=`.status.profiles`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Delivery",type=string,priority=1,JSONPath=`.spec.policyPlugin.delivery`
// +kubebuilder:printcolumn:name="NetworkMode",type=integer,priority=1,JSONPath=`.status.running.networkMode`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name must be at most 40 characters of a-z, 0-9 and -, begin with a letter and end with a letter or digit: the names of Services are made of it",reason=FieldValueInvalid,fieldPath=".metadata"
type DstackServer struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec describes the server and how the operator may change it.
	//
	// +required
	Spec DstackServerSpec `json:"spec"`

	// status is what the operator says of the server.
	//
	// +optional
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "waiting for the operator", lastTransitionTime: "1970-01-01T00:00:00Z"}, {type: "Ready", status: "Unknown", reason: "Pending", message: "waiting for the operator", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status DstackServerStatus `json:"status,omitzero"`
}

// DstackServerList is a list of DstackServers.
//
// +kubebuilder:object:root=true
type DstackServerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []DstackServer `json:"items"`
}
