package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ExceptionState says whether an exception lifts anything.
//
// +kubebuilder:validation:Enum=Active;Expired;Inactive
type ExceptionState string

const (
	// ExceptionActive: the exception has not ended.
	ExceptionActive ExceptionState = "Active"
	// ExceptionExpired: the exception has ended, and lifts nothing any more.
	ExceptionExpired ExceptionState = "Expired"
	// ExceptionInactive: the exception has not ended and lifts nothing, since none
	// of its controls can be lifted; the condition Accepted says why.
	ExceptionInactive ExceptionState = "Inactive"
)

// ExceptionStatus is one exception of a profile and its end.
type ExceptionStatus struct {
	// name of the exception.
	//
	// +required
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// state is Active, Expired or Inactive.
	//
	// +required
	State ExceptionState `json:"state"`

	// expiresAt is the moment at which the exception ends or has ended. It is left
	// out for one that does not end.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// users is the number of users it names.
	//
	// +required
	Users int32 `json:"users"`

	// controls lists the controls it names, without those that this release does not
	// know.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Controls []ControlName `json:"controls,omitempty"`
}
