package manifests

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

// Intent is what the operator wants to own in the user's workload, and nothing
// else. It is applied without force, but to undo a rollback.
type Intent struct {
	// Workload as it was read; its uid and resourceVersion go into the intent, so
	// that no other object and no later version is changed.
	Workload *workload.Workload
	// Container is the name of the server's container.
	Container string
	// Server is the name of the DstackServer, which the pods bear as a label; "" for
	// settings that were approved before there was one.
	Server string
	// Settings are variables that work alone: one in conflict is left out.
	Settings []*corev1ac.EnvVarApplyConfiguration
	// Plugin is what only works together: it is applied whole or not at all.
	Plugin *PluginPart
	// SSH are the variables of the SSH proxy: they are applied all or not at all,
	// because dstack does not enforce a proxy that it only half knows of.
	SSH []*corev1ac.EnvVarApplyConfiguration
	// SSHTokenID stands for the SSH proxy's token, which the server reads at its
	// start.
	SSHTokenID string
	// TokenID stands for the policy server's token, which the server reads at its
	// start.
	TokenID string
	// Revision digests all of it but the image and the version of the plugin.
	Revision string
}

// PluginPart makes the server ask the policy server.
type PluginPart struct {
	Env     []*corev1ac.EnvVarApplyConfiguration
	Volumes []*corev1ac.VolumeApplyConfiguration
	Mounts  []*corev1ac.VolumeMountApplyConfiguration
	Init    *corev1ac.ContainerApplyConfiguration
}

// WithoutSetting is the intent without one of its independent variables.
func (i Intent) WithoutSetting(name string) Intent {
	i.Settings = slices.DeleteFunc(slices.Clone(i.Settings), func(e *corev1ac.EnvVarApplyConfiguration) bool { return *e.Name == name })
	return i
}

// WithoutPlugin is the intent without its plugin part.
func (i Intent) WithoutPlugin() Intent {
	i.Plugin = nil
	return i
}

// WithoutSSH is the intent without the variables of the SSH proxy.
func (i Intent) WithoutSSH() Intent {
	i.SSH, i.SSHTokenID = nil, ""
	return i
}

// Empty tells whether nothing is left to apply.
func (i Intent) Empty() bool { return len(i.Settings) == 0 && len(i.SSH) == 0 && i.Plugin == nil }

// Env are all variables of the intent.
func (i Intent) Env() []*corev1ac.EnvVarApplyConfiguration {
	env := slices.Concat(i.Settings, i.SSH)
	if i.Plugin != nil {
		env = append(env, i.Plugin.Env...)
	}
	return env
}

// NetworkMode is what the server's pods run with by this intent.
func (i Intent) NetworkMode() v1alpha1.NetworkMode {
	for _, e := range i.Settings {
		if n, err := strconv.Atoi(ptr.Deref(e.Value, "")); *e.Name == dstack.EnvJobNetworkMode && err == nil {
			return v1alpha1.NetworkMode(n) //nolint:gosec // 1 to 3
		}
	}
	return v1alpha1.NetworkModeHostWhenPossible
}

// Config is the intent as an apply configuration for its workload.
func (i Intent) Config() runtime.ApplyConfiguration {
	w := i.Workload
	template := i.template()
	if w.Kind == v1alpha1.WorkloadStatefulSet {
		return appsv1ac.StatefulSet(w.Meta.Name, w.Meta.Namespace).
			WithUID(w.Meta.UID).WithResourceVersion(w.Meta.ResourceVersion).
			WithSpec(appsv1ac.StatefulSetSpec().WithTemplate(template))
	}
	return appsv1ac.Deployment(w.Meta.Name, w.Meta.Namespace).
		WithUID(w.Meta.UID).WithResourceVersion(w.Meta.ResourceVersion).
		WithSpec(appsv1ac.DeploymentSpec().WithTemplate(template))
}

func (i Intent) template() *corev1ac.PodTemplateSpecApplyConfiguration {
	container := corev1ac.Container().WithName(i.Container).WithEnv(i.Env()...)
	spec := corev1ac.PodSpec()
	if p := i.Plugin; p != nil {
		container.WithVolumeMounts(p.Mounts...)
		spec.WithVolumes(p.Volumes...).WithInitContainers(p.Init)
	}
	annotations := map[string]string{workload.AnnotationSettings: i.Revision}
	if i.TokenID != "" {
		annotations[AnnotationTokenID] = i.TokenID
	}
	if i.SSHTokenID != "" {
		annotations[workload.AnnotationSSHToken] = i.SSHTokenID
	}
	template := corev1ac.PodTemplateSpec().WithAnnotations(annotations)
	if i.Server != "" {
		template.WithLabels(map[string]string{workload.LabelServerPod: i.Server})
	}
	return template.
		WithSpec(spec.WithContainers(container))
}

// Release is the empty intent: applied by the same manager it gives back all
// that was set, and nothing else.
func Release(w *workload.Workload) runtime.ApplyConfiguration {
	if w.Kind == v1alpha1.WorkloadStatefulSet {
		return appsv1ac.StatefulSet(w.Meta.Name, w.Meta.Namespace).WithUID(w.Meta.UID)
	}
	return appsv1ac.Deployment(w.Meta.Name, w.Meta.Namespace).WithUID(w.Meta.UID)
}

// digest is the settings revision.
func (i Intent) digest() string {
	body, err := json.Marshal(i.template())
	if err != nil {
		panic("apply configurations always marshal: " + err.Error())
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])[:8]
}
