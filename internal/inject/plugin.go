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
	"embed"
	"io/fs"
	"strings"
)

//go:embed plugin/dstack_isolation/*.py plugin/*.dist-info/METADATA plugin/*.dist-info/entry_points.txt
var pluginFS embed.FS

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
