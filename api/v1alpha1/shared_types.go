package v1alpha1

// Level names a preset of controls. From loosest to strictest: Open, Baseline,
// Restricted, Dedicated. What a level means is fixed by the level version.
//
// Baseline is hardening, never containment: with it, distributed tasks still
// run on the host network, from which a job can reach the host's agent.
//
// +kubebuilder:validation:Enum=Open;Baseline;Restricted;Dedicated
type Level string

// The levels, from loosest to strictest.
const (
	LevelOpen       Level = "Open"
	LevelBaseline   Level = "Baseline"
	LevelRestricted Level = "Restricted"
	LevelDedicated  Level = "Dedicated"
)

// LevelVersion pins what the levels mean. A later version of the operator may
// add versions; it never changes what an existing one means.
//
// +kubebuilder:validation:Enum=v1
type LevelVersion string

// LevelVersionV1 is the first definition of the levels, and the default.
const LevelVersionV1 LevelVersion = "v1"

// Enforcement says what becomes of a request that a policy denies.
//
// +kubebuilder:validation:Enum=Enforce;Audit
type Enforcement string

const (
	// EnforcementEnforce refuses what the policy denies.
	EnforcementEnforce Enforcement = "Enforce"
	// EnforcementAudit refuses nothing and moves no server-wide setting; it
	// counts and logs what it would have refused.
	EnforcementAudit Enforcement = "Audit"
)

// ControlName names one control, as in spec.controls of an IsolationProfile and
// spec.unmatchedProjects.controls of a DstackServer.
//
// +kubebuilder:validation:Enum=hostSSH;privileged;instanceVolumes;hostNetwork;distributedTasks;serviceRouters;fleetEnvironment;sshFleets;sharedInstances;importedFleets;importedGateways;existingVolumes;serverAccess;servicesWithoutGateway;services;tags;fleets;backends;registries;unknownFields
type ControlName string

// The controls, in the order of the tables that list them.
const (
	ControlHostSSH                ControlName = "hostSSH"
	ControlPrivileged             ControlName = "privileged"
	ControlInstanceVolumes        ControlName = "instanceVolumes"
	ControlHostNetwork            ControlName = "hostNetwork"
	ControlDistributedTasks       ControlName = "distributedTasks"
	ControlServiceRouters         ControlName = "serviceRouters"
	ControlFleetEnvironment       ControlName = "fleetEnvironment"
	ControlSSHFleets              ControlName = "sshFleets"
	ControlSharedInstances        ControlName = "sharedInstances"
	ControlImportedFleets         ControlName = "importedFleets"
	ControlImportedGateways       ControlName = "importedGateways"
	ControlExistingVolumes        ControlName = "existingVolumes"
	ControlServerAccess           ControlName = "serverAccess"
	ControlServicesWithoutGateway ControlName = "servicesWithoutGateway"
	ControlServices               ControlName = "services"
	ControlTags                   ControlName = "tags"
	ControlFleets                 ControlName = "fleets"
	ControlBackends               ControlName = "backends"
	ControlRegistries             ControlName = "registries"
	ControlUnknownFields          ControlName = "unknownFields"
)

// LocalObjectReference names an object in the same namespace.
//
// +structType=atomic
type LocalObjectReference struct {
	// name of the object, in the same namespace.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// SecretKeyReference names one key of a Secret in the same namespace.
//
// +structType=atomic
type SecretKeyReference struct {
	// name of the Secret, in the same namespace.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// key within the Secret's data.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key"`
}

// NetworkMode is dstack's server-wide setting for the network of jobs
// (DSTACK_SERVER_JOB_NETWORK_MODE): 1 gives the host's network to distributed
// tasks only, 2 to every job that fills its instance (dstack's default), 3 to
// none. From loosest to strictest: 2, 1, 3.
//
// +kubebuilder:validation:Enum=1;2;3
type NetworkMode int32

// The network modes of dstack.
const (
	NetworkModeHostForDistributed NetworkMode = 1
	NetworkModeHostWhenPossible   NetworkMode = 2
	NetworkModeBridge             NetworkMode = 3
)
