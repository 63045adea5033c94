package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// SettingsDoubt is a reason why a server pod may run without what its spec sets.
type SettingsDoubt struct {
	// reason is the reason that condition SettingsApplied has for it.
	//
	// +required
	Reason SettingsDoubtReason `json:"reason"`

	// message describes what may be wrong, and how to fix it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`

	// since is when the operator first found it.
	//
	// +required
	Since metav1.Time `json:"since"`
}

// SettingsDoubtReason is a reason of condition SettingsApplied by which settings that
// are in place may not take effect.
//
// +kubebuilder:validation:Enum=ConfigDisabled;ConfigMountClash;SettingHidden
type SettingsDoubtReason string

// ConfigFileGap is a time in which a config.yml that is mounted at exactly its path
// may not have named the plugin. The file is not read again when a container restarts
// in its pod, except by the server itself.
type ConfigFileGap struct {
	// lostAt is when the file was last known to name the plugin. If the operator does
	// not know that, it is when the oldest server pod was created.
	//
	// +required
	LostAt metav1.Time `json:"lostAt"`

	// backAt is when the operator found the lines in the file again. It is empty while
	// they are missing. A node may serve the earlier content for two minutes longer.
	//
	// +optional
	BackAt *metav1.Time `json:"backAt,omitempty"`
}
