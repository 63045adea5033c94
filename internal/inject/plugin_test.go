package inject

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// The binary holds every file that Python needs, and none of the tests.
func TestPluginFilesAreThoseOfTheFolder(t *testing.T) {
	want := []string{}
	err := fs.WalkDir(os.DirFS("plugin"), ".", func(path string, entry fs.DirEntry, err error) error {
		if entry.IsDir() && (entry.Name() == "tests" || strings.HasPrefix(entry.Name(), "__") || strings.HasPrefix(entry.Name(), ".ruff")) {
			return fs.SkipDir
		}
		if !entry.IsDir() && path != "pyproject.toml" {
			want = append(want, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for path, content := range PluginFiles() {
		got = append(got, path)
		onDisk, err := os.ReadFile("plugin/" + path)
		if err != nil || string(onDisk) != content {
			t.Errorf("%s differs from the file in the folder (%v)", path, err)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// dstack enables a plugin by the name of its entry point.
func TestPluginEntryPointHasTheNameThatIsMerged(t *testing.T) {
	for path, content := range PluginFiles() {
		if strings.HasSuffix(path, "/entry_points.txt") {
			want := "[dstack.plugins]\n" + dstack.PluginPython + " = dstack_isolation:IsolationPlugin\n"
			if content != want {
				t.Errorf("got %q, want %q", content, want)
			}
			return
		}
	}
	t.Fatal("no entry_points.txt")
}

// The variables that manifests set are those that the plugin reads.
func TestPluginReadsTheVariablesOfTheContract(t *testing.T) {
	all := ""
	for _, content := range PluginFiles() {
		all += content
	}
	for _, name := range []string{dstack.EnvPolicyURL, dstack.EnvToken, dstack.EnvServer} {
		if !strings.Contains(all, `environ.get("`+name+`"`) {
			t.Errorf("the plugin does not read %s", name)
		}
	}
}
