package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

	// replicas of the proxy. A replica that runs out of memory ends the sessions that it
	// has, so more of them lose less at once. Default: 3.
	//
	// +optional
	// +kubebuilder:default=3
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

	// resources of each proxy pod. The connections that users forward take memory there,
	// and the proxy does not limit them. Default: requests of 50m CPU and 128Mi memory, a
	// memory limit of 1Gi, and no CPU limit.
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

// SSHProxyStatus is what users must know of the SSH proxy.
type SSHProxyStatus struct {
	// address at which users reach the proxy, as HOST:PORT.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=259
	Address string `json:"address,omitempty"`

	// fingerprints of the host keys that every replica of a managed proxy presents, such
	// as SHA256:….
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

	// lastOutOfMemory is when a replica of a managed proxy was last killed because it
	// needed more memory than its limit. All sessions of that replica ended.
	//
	// +optional
	LastOutOfMemory *metav1.Time `json:"lastOutOfMemory,omitempty"`
}
