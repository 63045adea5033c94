// Package v1alpha1 contains the API of the dstack isolation operator:
// DstackServer, a dstack server that already runs, and IsolationProfile, how
// strictly some of its projects are kept apart.
//
// The package holds types, markers and constants only. It imports nothing but
// apimachinery, so that other programs can use it without inheriting the
// operator's dependencies.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +kubebuilder:ac:output:package="applyconfiguration"
// +groupName=isolation.dstack.ai
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the API group of all kinds in this package.
const Group = "isolation.dstack.ai"

var (
	// GroupVersion is the group and version of all kinds in this package.
	GroupVersion = schema.GroupVersion{Group: Group, Version: "v1alpha1"}

	// SchemeGroupVersion is the name that generated code expects for GroupVersion.
	SchemeGroupVersion = GroupVersion

	schemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme registers the kinds of this package with a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)

// Resource returns the group-qualified name of a resource of this group.
func Resource(resource string) schema.GroupResource {
	return GroupVersion.WithResource(resource).GroupResource()
}

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&DstackServer{}, &DstackServerList{},
		&IsolationProfile{}, &IsolationProfileList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
