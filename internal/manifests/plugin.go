package manifests

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// PluginFiles are the files of the Python plugin: path below PluginDir to
// content.
type PluginFiles map[string]string

// hash digests paths and contents.
func (f PluginFiles) hash() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintf(h, "%d:%s%d:%s", len(name), name, len(f[name]), f[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:10]
}

// PluginConfigMapName names the ConfigMap of one version of the plugin.
func PluginConfigMapName(server string, files PluginFiles) string {
	return fmt.Sprintf("isolation-plugin-%s-%s", server, files.hash())
}

// Plugin builds the immutable ConfigMap with the plugin's files. Keys of a
// ConfigMap know no slash, so the volume maps them back to paths.
func Plugin(s *v1alpha1.DstackServer, files PluginFiles) Object {
	data := map[string]string{}
	for name, content := range files {
		data[pluginKey(name)] = content
	}
	name := PluginConfigMapName(s.Name, files)
	return Object{"ConfigMap", name, corev1ac.ConfigMap(name, s.Namespace).
		WithLabels(Labels(s)).WithImmutable(true).WithData(data)}
}

func pluginKey(file string) string { return strings.ReplaceAll(file, "/", "__") }

func pluginItems(files PluginFiles) []*corev1ac.KeyToPathApplyConfiguration {
	var items []*corev1ac.KeyToPathApplyConfiguration
	for _, name := range slices.Sorted(maps.Keys(files)) {
		items = append(items, corev1ac.KeyToPath().WithKey(pluginKey(name)).WithPath(name))
	}
	return items
}
