package manifests

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

func configOf(in SettingsInput) workload.ConfigSource {
	return workload.FindConfig(in.Container, ServerDir(in.Server), ConfigVolume)
}

// configArguments tell the init container where config.yml lies and where its
// copy goes. A file that a volume is mounted at as a whole is only checked: two
// mounts at one path are not valid.
func configArguments(in SettingsInput) ([]string, []*corev1ac.VolumeMountApplyConfiguration) {
	source := configOf(in)
	m := source.Mount
	if source.Clash {
		file := path.Join(injectSourceDir, dstack.ConfigFile)
		return []string{workload.CheckFlag + file}, []*corev1ac.VolumeMountApplyConfiguration{repeated(m, file).WithReadOnly(true)}
	}
	args := []string{"--target=" + path.Join(injectTargetDir, dstack.ConfigFile)}
	mounts := []*corev1ac.VolumeMountApplyConfiguration{corev1ac.VolumeMount().WithName(ConfigVolume).WithMountPath(injectTargetDir)}
	if m == nil {
		return args, mounts
	}
	mount := repeated(m, injectSourceDir)
	if m.ReadOnly {
		mount.WithReadOnly(true)
	}
	return append(args, "--source="+path.Join(injectSourceDir, source.Path)), append(mounts, mount)
}

// repeated is what another container mounts, at another path.
func repeated(m *corev1.VolumeMount, at string) *corev1ac.VolumeMountApplyConfiguration {
	mount := corev1ac.VolumeMount().WithName(m.Name).WithMountPath(at)
	if m.SubPath != "" {
		mount.WithSubPath(m.SubPath)
	}
	return mount
}

// injectResources are little, and nowhere more than what the server's own
// container asks for. A pod counts as the larger of its init containers and of
// the sum of the others, so it then costs no quota.
func injectResources(server *corev1.Container) *corev1ac.ResourceRequirementsApplyConfiguration {
	request := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	limit := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	for name := range request {
		lower(limit, name, server.Resources.Limits)
		lower(request, name, server.Resources.Limits)
		lower(request, name, server.Resources.Requests)
	}
	return corev1ac.ResourceRequirements().WithRequests(request).WithLimits(limit)
}

func lower(list corev1.ResourceList, name corev1.ResourceName, most corev1.ResourceList) {
	if q, set := most[name]; set && q.Cmp(list[name]) < 0 {
		list[name] = q
	}
}
