package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
)

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
