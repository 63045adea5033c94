// Package manifests builds the objects that the operator applies: the policy
// server and what belongs to it, and the settings that go into the user's own
// workload. It is pure; its results are apply configurations.
package manifests

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

// Labels on every object of the operator's own. They are found by these, since
// none has an owner reference: a foreground deletion would collect them before
// the server has its settings back, and it would then refuse every run.
const (
	LabelName      = "app.kubernetes.io/name"
	LabelComponent = "app.kubernetes.io/component"
	LabelManagedBy = "app.kubernetes.io/managed-by"
	LabelServer    = v1alpha1.Group + "/server"
	LabelServerUID = v1alpha1.Group + "/server-uid"

	// AnnotationTokenID on a pod template stands for the token that the pod reads at
	// its start: a digest that tells nothing of it.
	AnnotationTokenID = v1alpha1.Group + "/token-id"
	// AnnotationImmutableToken on the SSH proxy's Deployment is the uid of the user's
	// immutable Secret that its pods read the token from.
	AnnotationImmutableToken = v1alpha1.Group + "/immutable-token"
	// AnnotationHostKeysID on the SSH proxy's pods changes with its host keys.
	AnnotationHostKeysID = v1alpha1.Group + "/ssh-host-keys-id"

	// AppName is the value of LabelName and of LabelManagedBy.
	AppName = "dstack-isolation"
	// ComponentPolicyServer is the value of LabelComponent of the policy server.
	ComponentPolicyServer = "policy-server"
	// ComponentSSHProxy is the value of LabelComponent of the SSH proxy.
	ComponentSSHProxy = "ssh-proxy"
	// ComponentManager is the value of LabelComponent of the manager's pods.
	ComponentManager = "manager"
)

// Names in the pods of the user's workload.
const (
	// ConfigVolume is the emptyDir that holds the merged copy of config.yml.
	ConfigVolume = "dstack-isolation-config"
	// PluginVolume is the ConfigMap with the Python plugin.
	PluginVolume = "dstack-isolation-plugin"
	// PluginDir is where the Python plugin is mounted, and its item of PYTHONPATH.
	PluginDir = "/opt/dstack-isolation"

	injectSourceDir = "/isolation/source"
	injectTargetDir = "/isolation/target"
)

const (
	// TokenKey is the key of the policy server's token in its Secret.
	TokenKey = "token"
	// ProvenKey is the key, in the state ConfigMap, of the settings revision with
	// which a server pod became ready.
	ProvenKey = "proven"
	// PatchKey is the key of the patch in the ConfigMap of ManualName.
	PatchKey = "patch.yaml"
	// PortDecisions is the port on which the policy server is asked.
	PortDecisions = 8080
	// PortHealth is the port of the policy server's probes and metrics.
	PortHealth = 8081

	tokenDir   = "/var/run/dstack-isolation/token"
	earlierDir = "/var/run/dstack-isolation/earlier-tokens"
)

// PolicyServerName names the policy server's Deployment, Service,
// PodDisruptionBudget and NetworkPolicy. It begins with "isolation" so that the
// variables which Kubernetes makes of a Service's name never begin with DSTACK_:
// dstack would read them.
func PolicyServerName(server string) string { return "isolation-policy-" + server }

// TokenSecretName names the Secret that holds the policy server's token. Pods read a
// copy of it.
func TokenSecretName(server string) string { return PolicyServerName(server) + "-token" }

// StateName names the ConfigMap that tells the init container whether the
// settings have worked before.
func StateName(server string) string { return "isolation-state-" + server }

// ManualName names the ConfigMap that shows what the workload's manifest must
// contain.
func ManualName(server string) string { return "isolation-manual-" + server }

// PolicyURL is where the server's pods reach the policy server.
func PolicyURL(namespace, server string) string {
	return fmt.Sprintf("http://%s:%d", PolicyHost(namespace, server), PortDecisions)
}

// PolicyHost is the host of PolicyURL.
func PolicyHost(namespace, server string) string {
	return fmt.Sprintf("%s.%s.svc", PolicyServerName(server), namespace)
}

// Endpoint tells how a server pod that asks the policy server is recognised.
func Endpoint(s *v1alpha1.DstackServer) workload.Endpoint {
	return workload.Endpoint{
		URL: PolicyURL(s.Namespace, s.Name), ServerDir: ServerDir(s), ConfigVolume: ConfigVolume,
		PluginDir: PluginDir, PluginVolume: PluginVolume,
	}
}

// ServerDir is the server's directory, with the API's default.
func ServerDir(s *v1alpha1.DstackServer) string {
	if s.Spec.ServerDir == "" {
		return dstack.DefaultServerDir
	}
	return s.Spec.ServerDir
}

// Labels are the labels of every object that belongs to a server.
func Labels(s *v1alpha1.DstackServer) map[string]string {
	labels := SelectorLabels(s.Name)
	labels[LabelManagedBy] = AppName
	labels[LabelServerUID] = string(s.UID)
	return labels
}

// ServerPodLabels select the server's pods that run with the operator's settings.
func ServerPodLabels(server string) map[string]string {
	return map[string]string{workload.LabelServerPod: server}
}

// SelectorLabels select the policy server's pods.
func SelectorLabels(server string) map[string]string {
	return map[string]string{LabelName: AppName, LabelComponent: ComponentPolicyServer, LabelServer: server}
}
