// Package inject is what the operator puts into the pod of a dstack server: the
// Python plugin that asks the policy server, and the init container that makes
// dstack load it.
//
// dstack loads plugins only if its config.yml names them, reads that file once at
// start, and runs without any policy when the file is missing or a name in it is
// misspelt. The file is the user's own and holds credentials. So it is never
// edited: a merged copy is written, and mounted over it.
package inject

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"slices"
	"strings"
)

//go:embed plugin/dstack_isolation/*.py plugin/*.dist-info/METADATA plugin/*.dist-info/entry_points.txt
var pluginFS embed.FS

// PluginItem says where a key of the plugin's ConfigMap stands below the folder
// that is named in PYTHONPATH.
type PluginItem struct {
	// Key in the ConfigMap, which may hold no slash.
	Key string
	// Path relative to the folder, with slashes.
	Path string
}

// PluginConfigMap is the content of a ConfigMap that, mounted with Items, is a
// folder in which Python's importlib.metadata finds the plugin.
type PluginConfigMap struct {
	Data map[string]string
	// Items in the order of their keys.
	Items []PluginItem
	// Hash is ten hexadecimal digits over all paths and contents: a part of the
	// name of an immutable ConfigMap.
	Hash string
}

// PluginFiles returns the files of the Python plugin, relative path to content:
// a package and the dist-info folder beside it, whose entry_points.txt (group
// dstack.plugins) is how dstack finds it.
func PluginFiles() map[string]string {
	files := map[string]string{}
	err := fs.WalkDir(pluginFS, "plugin", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := pluginFS.ReadFile(path)
		files[strings.TrimPrefix(path, "plugin/")] = string(content)
		return err
	})
	if err != nil {
		panic("read embedded plugin: " + err.Error()) // files of the binary itself
	}
	return files
}

// BuildPluginConfigMap returns the same files as the content of a ConfigMap.
func BuildPluginConfigMap() PluginConfigMap {
	result := PluginConfigMap{Data: map[string]string{}}
	for path, content := range PluginFiles() {
		key := strings.ReplaceAll(path, "/", ".")
		result.Data[key] = content
		result.Items = append(result.Items, PluginItem{Key: key, Path: path})
	}
	slices.SortFunc(result.Items, func(a, b PluginItem) int { return strings.Compare(a.Key, b.Key) })
	digest := sha256.New()
	for _, item := range result.Items {
		// NUL stands in no path and in none of these texts, so no two sets of files
		// run together to the same bytes.
		digest.Write([]byte(item.Path + "\x00" + result.Data[item.Key] + "\x00"))
	}
	result.Hash = hex.EncodeToString(digest.Sum(nil))[:10]
	return result
}
