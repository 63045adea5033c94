package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
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

// Delivery is the way in which the policy plugin gets into the dstack server.
//
// +kubebuilder:validation:Enum=Python;REST
type Delivery string

const (
	// DeliveryPython adds a small plugin to the server process: authenticated,
	// works for runs with files, tells what the process really runs with.
	DeliveryPython Delivery = "Python"
	// DeliveryREST uses dstack's built-in rest_plugin: nothing of ours in the
	// server process, but no authentication, runs with files are answered with an
	// internal error, and HTTP_PROXY is honoured.
	DeliveryREST Delivery = "REST"
)

// ResourceRequirements are the compute resources of a container, as in a pod.
type ResourceRequirements struct {
	// requests is what the container is given at least.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=8
	Requests map[string]resource.Quantity `json:"requests,omitempty"`

	// limits is what the container may use at most.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=8
	Limits map[string]resource.Quantity `json:"limits,omitempty"`
}

// PolicyPlugin configures the policy server and its plugin in the dstack
// server.
type PolicyPlugin struct {
	// delivery is Python (default) or REST.
	//
	// +optional
	// +kubebuilder:default=Python
	Delivery Delivery `json:"delivery,omitempty"`

	// url at which a dstack server that runs elsewhere reaches the policy server,
	// through a Service or an Ingress of yours: http or https, a host, a port if it
	// is another than the scheme's, and no path. Only with api.url.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*|\\\\[[0-9a-fA-F:.]+\\\\])(:[1-9][0-9]{0,4})?$')",message="url must be http://HOST, https://HOST or one of them with :PORT, without user, path or trailing slash",reason=FieldValueInvalid
	URL string `json:"url,omitempty"`

	// replicas of the policy server. While none is reachable dstack refuses every
	// run, so keep two or more. Default: 2.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	Replicas int32 `json:"replicas,omitempty"`

	// resources of each policy server pod. Default: requests of 20m CPU and 64Mi
	// memory, a memory limit of 256Mi, and no CPU limit.
	//
	// +optional
	Resources *ResourceRequirements `json:"resources,omitempty"`

	// imagePullSecrets name the Secrets with which the operator's image is pulled
	// for the policy server. The init container in the server's pods is pulled
	// with the secrets of that workload.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	ImagePullSecrets []LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// runAsUser is the numeric user of the init container that is added to the
	// server's pods; it must be able to read the server's config.yml. Default: the
	// user of the server's container, else of its pod, else 0, which is what
	// dstack's own image runs as.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	RunAsUser *int64 `json:"runAsUser,omitempty"`
}

// SSHProxy is dstack's SSH proxy: where profiles deny hostSSH it is the only way
// into jobs, and never leads to a host.
//
// +kubebuilder:validation:XValidation:rule="has(self.managed) != has(self.external)",message="sshProxy must have either managed or external",reason=FieldValueInvalid
type SSHProxy struct {
	// managed lets the operator run the proxy in this namespace.
	//
	// +optional
	Managed *ManagedSSHProxy `json:"managed,omitempty"`

	// external names a proxy that already runs elsewhere.
	//
	// +optional
	External *ExternalSSHProxy `json:"external,omitempty"`
}

// SSHProxyAddress is where users reach an SSH proxy: HOST or HOST:PORT, without
// a port 22.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=259
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*(:([1-9][0-9]{0,4}))?$') && (!self.contains(':') || int(self.substring(self.indexOf(':') + 1)) <= 65535)",message="address must be HOST or HOST:PORT, with a host name or an IPv4 address and nothing before it: dstack does not start with anything else",reason=FieldValueInvalid
type SSHProxyAddress string

// ExternalSSHProxy names an SSH proxy that already runs.
type ExternalSSHProxy struct {
	// address at which users reach it. The operator must reach it there too, to see
	// that it answers.
	//
	// +required
	Address SSHProxyAddress `json:"address"`

	// tokenSecretRef names the Secret key that holds the token which the proxy
	// presents to the dstack server. It is worth root on every host: whoever has it
	// is given the private keys of all of them.
	//
	// +required
	TokenSecretRef SecretKeyReference `json:"tokenSecretRef"`
}

// SSHProxyServiceType is how an SSH proxy is reached from outside.
//
// +kubebuilder:validation:Enum=LoadBalancer;NodePort;ClusterIP
type SSHProxyServiceType string

// The types of Service for an SSH proxy.
const (
	SSHProxyLoadBalancer SSHProxyServiceType = "LoadBalancer"
	SSHProxyNodePort     SSHProxyServiceType = "NodePort"
	SSHProxyClusterIP    SSHProxyServiceType = "ClusterIP"
)

// SSHProxyService is the Service in front of a managed SSH proxy.
type SSHProxyService struct {
	// type is LoadBalancer (default), NodePort or ClusterIP.
	//
	// +optional
	// +kubebuilder:default=LoadBalancer
	Type SSHProxyServiceType `json:"type,omitempty"`

	// port of the Service. Default: 22.
	//
	// +optional
	// +kubebuilder:default=22
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// nodePort on every node, for types NodePort and LoadBalancer. Default: one that
	// Kubernetes picks.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort,omitempty"`

	// annotations of the Service, such as those that tell a cloud what kind of load
	// balancer to make.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Annotations map[string]string `json:"annotations,omitempty"`

	// loadBalancerClass picks one of several implementations of load balancers.
	// Kubernetes lets it be set only when the Service is made.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	LoadBalancerClass string `json:"loadBalancerClass,omitempty"`
}

// ManagedSSHProxy is an SSH proxy that the operator runs.
//
// +kubebuilder:validation:XValidation:rule="has(self.address) || self.service.type == 'LoadBalancer'",message="managed must have an address unless service.type is LoadBalancer: nothing else tells where users reach the proxy",reason=FieldValueRequired,fieldPath=".address"
type ManagedSSHProxy struct {
	// image of dstack's sshproxy. Default: dstackai/sshproxy:0.0.2.
	//
	// +optional
	// +kubebuilder:default="dstackai/sshproxy:0.0.2"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`

	// imagePullSecrets name the Secrets with which the image is pulled.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	ImagePullSecrets []LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// replicas of the proxy. Default: 2.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=16
	Replicas int32 `json:"replicas,omitempty"`

	// address at which users reach the proxy. It may be left out for a Service of
	// type LoadBalancer: then it is the load balancer's first address, with the
	// Service's port. A load balancer that gets another one later is followed when
	// that is approved, whatever spec.rollout says, because it restarts the dstack
	// server: status.pendingChange shows it.
	//
	// +optional
	Address SSHProxyAddress `json:"address,omitempty"`

	// service in front of the proxy.
	//
	// +optional
	// +kubebuilder:default={}
	Service SSHProxyService `json:"service,omitzero"`

	// hostKeysSecretRef names the Secret key that holds the proxy's private host
	// keys: one PEM block after the other, without passphrase, one a type. Default:
	// an ed25519 key that is made once and kept in a Secret. Users must trust the
	// keys, so a change of them keeps everybody out until they do.
	//
	// +optional
	HostKeysSecretRef *SecretKeyReference `json:"hostKeysSecretRef,omitempty"`

	// tokenSecretRef names the Secret key that holds the token which the proxy
	// presents to the dstack server. It is worth root on every host: whoever has it
	// is given the private keys of all of them. Default: one that is made once and
	// kept in a Secret.
	//
	// +optional
	TokenSecretRef *SecretKeyReference `json:"tokenSecretRef,omitempty"`

	// resources of each proxy pod. Default: requests of 20m CPU and 64Mi memory, a
	// memory limit of 256Mi, and no CPU limit.
	//
	// +optional
	Resources *ResourceRequirements `json:"resources,omitempty"`

	// terminationGracePeriodSeconds is for how long a proxy pod that is being
	// replaced keeps the sessions that it has. The proxy cuts them all when it is
	// told to stop, so it is told so only at the end. Default: 600.
	//
	// +optional
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=86400
	TerminationGracePeriodSeconds int32 `json:"terminationGracePeriodSeconds,omitempty"`

	// nodeSelector for the proxy's pods. Without kubernetes.io/arch they run on
	// amd64 only, as dstack's image does.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
}

// UnmatchedProjects is the policy for projects that no profile names.
type UnmatchedProjects struct {
	// level is the preset for projects that no profile names: Open, Baseline or
	// Restricted. Dedicated needs a list of fleets, which only a profile has.
	//
	// +required
	// +kubebuilder:validation:XValidation:rule="self != 'Dedicated'",message="level Dedicated needs a list of fleets, which only a profile has: use Restricted here and give the projects that have their own fleets a profile",reason=FieldValueInvalid
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

// RunningSettings is what the server's pods run with, the weakest over all of
// them, those that are terminating included.
type RunningSettings struct {
	// pods is the number of server pods that were looked at.
	//
	// +required
	Pods int32 `json:"pods"`

	// policyPods is the number of those pods that ask the policy server.
	//
	// +required
	PolicyPods int32 `json:"policyPods"`

	// networkMode is the weakest network mode (2, then 1, then 3) of these pods.
	// A pod whose mode cannot be known counts as 2. A weaker mode that new pods
	// have or are about to get counts before the first of them is there.
	//
	// +optional
	NetworkMode NetworkMode `json:"networkMode,omitempty"`

	// sshEnforcedPods is the number of those pods that put no user's key on hosts,
	// so that the SSH proxy is the only way in: dstack's three variables are there,
	// with the token by a reference that must be met.
	//
	// +optional
	SSHEnforcedPods int32 `json:"sshEnforcedPods,omitempty"`

	// deliveries lists the ways in which these pods ask the policy server.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	Deliveries []Delivery `json:"deliveries,omitempty"`

	// deniedByServer lists the controls that dstack itself denies in all projects, on
	// every one of these pods.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	DeniedByServer []ControlName `json:"deniedByServer,omitempty"`

	// defaultPermissions lists what the config.yml of every one of these pods was made
	// to say in default_permissions, each as KEY=true or KEY=false.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=64
	DefaultPermissions []string `json:"defaultPermissions,omitempty"`
}

// PolicyRevisions are the digests of what is decided.
type PolicyRevisions struct {
	// desired is the revision of the objects as they are now.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Desired string `json:"desired,omitempty"`

	// served is the revision that every policy server pod decides by. It is empty
	// while they differ or one does not answer.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Served string `json:"served,omitempty"`
}

// SettingsRevisions are the digests of what is put into the pod template.
type SettingsRevisions struct {
	// applied is the revision that was last applied to the workload.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Applied string `json:"applied,omitempty"`

	// proven is the last applied revision with which a server pod became ready.
	// Until there is one, a failure of our part takes the settings back.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Proven string `json:"proven,omitempty"`

	// rejected stands for the settings that were taken back because their first pod
	// failed. They are tried again when they or the DstackServer's spec change, or
	// its annotation isolation.dstack.ai/retry.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Rejected string `json:"rejected,omitempty"`
}

// InjectedState says what became of one item that the operator sets in the
// workload.
//
// +kubebuilder:validation:Enum=Applied;Conflict;Withheld;Missing;Different;Surplus
type InjectedState string

const (
	// InjectedSurplus: spec.injection is Manual, and the workload has the item although
	// nothing asks for it any more.
	InjectedSurplus InjectedState = "Surplus"
	// InjectedApplied: the item is set.
	InjectedApplied InjectedState = "Applied"
	// InjectedConflict: another manager sets the item to something else.
	InjectedConflict InjectedState = "Conflict"
	// InjectedWithheld: the item was left out because one that it depends on is in
	// conflict.
	InjectedWithheld InjectedState = "Withheld"
	// InjectedMissing: spec.injection is Manual, and the workload lacks the item.
	InjectedMissing InjectedState = "Missing"
	// InjectedDifferent: spec.injection is Manual, and the workload sets the item to
	// something else.
	InjectedDifferent InjectedState = "Different"
)

// InjectedItem is one item that the operator sets in the workload, or wants to
// find there.
type InjectedItem struct {
	// name of the item: an environment variable, or such as "volume NAME".
	//
	// +required
	// +kubebuilder:validation:MaxLength=256
	Name string `json:"name"`

	// state says what became of it.
	//
	// +required
	State InjectedState `json:"state"`

	// manager is the field manager that owns the item in conflict.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Manager string `json:"manager,omitempty"`
}

// ChangeAction is what a change does to one item of the workload.
//
// +kubebuilder:validation:Enum=Add;Change;Remove
type ChangeAction string

// What a change does to an item.
const (
	ChangeAdd    ChangeAction = "Add"
	ChangeChange ChangeAction = "Change"
	ChangeRemove ChangeAction = "Remove"
)

// PendingItem is one item of the workload that a change is about.
type PendingItem struct {
	// name of the item: an environment variable, or such as "volume NAME".
	//
	// +required
	// +kubebuilder:validation:MaxLength=256
	Name string `json:"name"`

	// action is Add, Change or Remove.
	//
	// +required
	Action ChangeAction `json:"action"`

	// why says what asks for it. No value is shown that is a secret.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Why string `json:"why,omitempty"`
}

// PendingChange is a change of settings that waits for approval.
type PendingChange struct {
	// revision of the settings that would be applied. The annotation
	// isolation.dstack.ai/approve with it as value approves the change.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	Revision string `json:"revision"`

	// items that the change is about.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Items []PendingItem `json:"items,omitempty"`

	// activeRuns is the number of runs that the restart of the server will meet. It
	// is left out while it is not known, as without spec.api.adminTokenSecretRef.
	//
	// +optional
	ActiveRuns *int32 `json:"activeRuns,omitempty"`

	// message says what the change does to the server, its runs and SSH sessions.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// HiddenVariable is a variable that the server takes, or took, by envFrom, and that
// the operator decides about.
type HiddenVariable struct {
	// name of the variable.
	//
	// +required
	// +kubebuilder:validation:MaxLength=256
	Name string `json:"name"`

	// source that it comes from, as in "key A of ConfigMap settings".
	//
	// +required
	// +kubebuilder:validation:MaxLength=600
	Source string `json:"source"`

	// goneAt is when it was seen there no more. A server pod that started before may
	// still run with it.
	//
	// +optional
	GoneAt *metav1.Time `json:"goneAt,omitempty"`
}

// Removal tells of settings that somebody else took out of the workload, and of
// the gap until they were back in every server pod.
type Removal struct {
	// manager is the field manager that wrote the workload then.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Manager string `json:"manager,omitempty"`

	// removedAt is when that was written.
	//
	// +required
	RemovedAt metav1.Time `json:"removedAt"`

	// restoredAt is when every server pod had the settings again.
	//
	// +optional
	RestoredAt *metav1.Time `json:"restoredAt,omitempty"`

	// runs is the number of runs that were submitted in the gap. It is left out while
	// it is not known, as without spec.api.adminTokenSecretRef.
	//
	// +optional
	Runs *int32 `json:"runs,omitempty"`

	// firstRuns are the first of them, as PROJECT/RUN.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=256
	FirstRuns []string `json:"firstRuns,omitempty"`
}

// SSHProxyStatus is what users must know of the SSH proxy.
type SSHProxyStatus struct {
	// address at which users reach the proxy, as HOST:PORT.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=259
	Address string `json:"address,omitempty"`

	// fingerprints of the host keys of a managed proxy, such as SHA256:….
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=64
	Fingerprints []string `json:"fingerprints,omitempty"`

	// knownHosts are the lines that users of a managed proxy add to their
	// ~/.ssh/known_hosts. Without them dstack attach fails.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=4096
	KnownHosts []string `json:"knownHosts,omitempty"`
}

// DstackServerStatus is what the operator says of a dstack server.
type DstackServerStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions tell how far it has come: Accepted, Connected,
	// PolicyPluginReady, SSHProxyReady, SettingsApplied, UnmatchedProjectsCovered,
	// Ready, and, abnormal when true, Reconciling and Stalled.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// release of dstack that the server's pods run, the oldest of them, as they last
	// said it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Release string `json:"release,omitempty"`

	// profiles is the number of profiles that name this server.
	//
	// +optional
	Profiles int32 `json:"profiles,omitempty"`

	// plannedNetworkMode is the network mode that the profiles ask for together.
	//
	// +optional
	PlannedNetworkMode NetworkMode `json:"plannedNetworkMode,omitempty"`

	// running is what the server's pods run with. Decisions rest on it, not on
	// what is planned.
	//
	// +optional
	Running *RunningSettings `json:"running,omitempty"`

	// sshProxy is what users must know of the SSH proxy.
	//
	// +optional
	SSHProxy *SSHProxyStatus `json:"sshProxy,omitempty"`

	// policyRevision tells which policy is decided by.
	//
	// +optional
	PolicyRevision PolicyRevisions `json:"policyRevision,omitzero"`

	// settingsRevision tells which settings were put into the workload.
	//
	// +optional
	SettingsRevision SettingsRevisions `json:"settingsRevision,omitzero"`

	// pendingChange is a change of settings that waits for approval: any when
	// spec.rollout is OnApproval, else a new address of the SSH proxy's load balancer.
	//
	// +optional
	PendingChange *PendingChange `json:"pendingChange,omitempty"`

	// lastRemoval tells of the last time that somebody else took the settings out of
	// the workload.
	//
	// +optional
	LastRemoval *Removal `json:"lastRemoval,omitempty"`

	// hiddenVariables are those that the server takes by envFrom although the operator
	// decides about them, and those with which a pod may still run that has started
	// before they went.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	HiddenVariables []HiddenVariable `json:"hiddenVariables,omitempty"`

	// injected lists the items that the operator sets in the workload, or wants to
	// find there when spec.injection is Manual, never their values.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Injected []InjectedItem `json:"injected,omitempty"`

	// manualPatch is what the workload's manifest must contain when spec.injection
	// is Manual, as a strategic merge patch in YAML. It is empty while all of it is
	// in place, and for a server that runs elsewhere. The ConfigMap
	// isolation-manual-NAME always holds it; for a server elsewhere its key README says
	// what to do there.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	ManualPatch string `json:"manualPatch,omitempty"`

	// warnings name what does not stop the operator but should be known, such as
	// an outage of seconds at each change of settings.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	Warnings []string `json:"warnings,omitempty"`
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
