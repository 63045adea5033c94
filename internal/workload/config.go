package workload

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// ConfigSource is where the user's own config.yml lies.
type ConfigSource struct {
	// Mount is the server container's mount that holds the file; nil when the
	// server directory lies on no volume.
	Mount *corev1.VolumeMount
	// Path of the file below the mount, such as "server/config.yml".
	Path string
	// Clash is true when a volume of the user's is mounted at exactly the path of
	// config.yml, so that no copy can be mounted over it. MountedFile tells where
	// the file comes from.
	Clash bool
}

// FindConfig finds the user's config.yml: the mount with the longest mountPath
// that is a prefix of the server directory. The operator's own mount at the
// file itself is passed over; configVolume is its volume's name.
func FindConfig(c *corev1.Container, serverDir, configVolume string) ConfigSource {
	file := path.Join(serverDir, dstack.ConfigFile)
	var found ConfigSource
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		if m.Name == configVolume {
			continue
		}
		dir := mountDir(m)
		if dir == file {
			return ConfigSource{Mount: m, Clash: true}
		}
		if !within(serverDir, dir) || found.Mount != nil && len(mountDir(found.Mount)) >= len(dir) {
			continue
		}
		found = ConfigSource{Mount: m, Path: strings.TrimPrefix(strings.TrimPrefix(file, dir), "/")}
	}
	return found
}

// mountDir is where the kubelet mounts: a relative path starts at the root.
func mountDir(m *corev1.VolumeMount) string { return path.Clean("/" + m.MountPath) }

// within tells whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
