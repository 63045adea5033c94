package v1alpha1

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

// ExistingVolumes is the value of the control existingVolumes.
//
// +kubebuilder:validation:Enum=Allowed;AllowedStorageClasses;Denied
type ExistingVolumes string

// The values of ExistingVolumes, from loosest to strictest.
const (
	ExistingVolumesAllowed               ExistingVolumes = "Allowed"
	ExistingVolumesAllowedStorageClasses ExistingVolumes = "AllowedStorageClasses"
	ExistingVolumesDenied                ExistingVolumes = "Denied"
)

// StorageClassName is the name of a StorageClass of Kubernetes.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`
type StorageClassName string

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
	// fleets. A request of dstack offer that names none gets this list filled in.
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

// Controls override single controls of a level. A control that is left out has
// the value that the level gives it.
//
// +kubebuilder:validation:XValidation:rule="has(self.existingVolumes) && self.existingVolumes == 'AllowedStorageClasses' ? has(self.storageClasses) && self.storageClasses.size() > 0 : !has(self.storageClasses)",message="storageClasses must be set when existingVolumes is AllowedStorageClasses, and only then",reason=FieldValueInvalid,fieldPath=".storageClasses"
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

	// importedGateways says whether a service may name a gateway of another
	// project. Whoever runs that gateway sees the dstack tokens of those who call
	// the service. A service that names none gets the project's default gateway,
	// which the project's administrators choose.
	//
	// +optional
	ImportedGateways AllowedDenied `json:"importedGateways,omitempty"`

	// existingVolumes says whether a volume may use a disk or a claim that exists
	// already, which may be another tenant's: Allowed, AllowedStorageClasses (a
	// new volume may name a class in storageClasses) or Denied (nor may it name
	// any class). The last two refuse "volume_id" and "claim_name".
	//
	// +optional
	ExistingVolumes ExistingVolumes `json:"existingVolumes,omitempty"`

	// storageClasses lists the StorageClasses that volumes on Kubernetes may name.
	// Set it when existingVolumes is AllowedStorageClasses, and only then. Name
	// only classes that provision a new disk for each claim: a claim of another
	// class is bound to a disk that exists already.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	StorageClasses []StorageClassName `json:"storageClasses,omitempty"`

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
	// value in a field that this release does not know, or not in this kind of
	// run, or an object in a field that holds none; null, false, 0 and what is
	// empty pass, because a newer dstack sends its new fields that way.
	//
	// +optional
	UnknownFields UnknownFields `json:"unknownFields,omitempty"`
}
