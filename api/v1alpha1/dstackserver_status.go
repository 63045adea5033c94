package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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

// Build is a kind of build of dstack.
//
// +kubebuilder:validation:Enum=Release;Development
type Build string

// Kinds of builds.
const (
	BuildRelease     Build = "Release"
	BuildDevelopment Build = "Development"
)

// DstackServerStatus is what the operator says of a dstack server.
type DstackServerStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions tell how far it has come: Accepted, Connected,
	// PodsOwned, PolicyPluginReady, SSHProxyReady, SettingsApplied,
	// UnmatchedProjectsCovered, ProfilesAccepted, Ready, and, abnormal when true,
	// Reconciling and Stalled.
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

	// build is Development if a server pod answered and reported no release, as a
	// development build of dstack does, and Release if all reported one. While it is
	// empty, the version is not known, and no control counts as enforced.
	//
	// +optional
	Build Build `json:"build,omitempty"`

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

	// doubts lists why server pods may run without what their specs set. A doubt stays
	// until the operator finds that it no longer holds: neither a failed request nor
	// another reason of SettingsApplied clears it. No control counts as enforced
	// meanwhile.
	//
	// +optional
	// +listType=map
	// +listMapKey=reason
	// +kubebuilder:validation:MaxItems=3
	Doubts []SettingsDoubt `json:"doubts,omitempty"`

	// configFileGap is the last time in which the server's config.yml may not have
	// named the plugin, where a volume is mounted at exactly its path. It is kept until
	// no server container can have restarted in that time.
	//
	// +optional
	ConfigFileGap *ConfigFileGap `json:"configFileGap,omitempty"`

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
