package sharing_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// situation is what can happen to a workload that the operator and other tools
// share, and the tests that hold what comes of it: FILE: NAME OF THE SPEC.
type situation struct {
	about string
	specs []string
}

const (
	applied    = "test/sharing/apply_test.go: "
	commands   = "test/sharing/commands_test.go: "
	chart      = "test/helm/chart_test.go: "
	settings   = "internal/apply/settings_test.go: "
	conflicts  = "internal/apply/conflict_test.go: "
	rename     = "that renames the server's container is refused by server-side apply until the release, and taken by "
	otherValue = "that sets … to another value is refused, or wins and is reported"
	volume     = "that renames the volume of the server's directory is refused until the release"
)

var situations = []situation{
	{"our items come beside the user's, and we own those alone", []string{settings + "gets our items after the user's own, and we own those alone"}},
	{"we apply the same again", []string{settings + "is not written when nothing changes"}},
	{"the user applies the same manifest, and looks at its difference", []string{applied + "shows no difference, and changes nothing when it is applied again"}},
	{"the user changes the manifest, or drops another container", []string{
		applied + "changes what is the user's own and leaves our items alone", settings + "stays when the user applies another image",
		"test/e2e/workload_test.go: stays in a workload that the user changes",
	}},
	{"the user sets one of our variables to the same value, and drops it", []string{
		applied + "may set one of our variables to our value, and drop it again",
		settings + "shares a variable that the user sets to the same value, and leaves it at the release",
	}},
	{"the user sets one of our variables to another value before we do", []string{
		conflicts + "leaves out exactly that variable", conflicts + "names every manager, and leaves out only that variable, when several set it",
		conflicts + "keeps all of the plugin out of a server that has none of it, and sets what works alone",
		"internal/apply/sshproxy_test.go: are left out together when one clashes, and the rest is set",
		"internal/apply/sshproxy_test.go: stay together when somebody sets one over ours: to leave them out would open the server",
	}},
	{"the user sets one of our variables to another value after we did", []string{
		applied + otherValue, chart + otherValue,
		commands + "kubectl set env over one of our variables wins, and is reported until it is taken back",
		conflicts + "writes nothing to a server that has the plugin, since leaving it out would open the server",
	}},
	{"one sets a value where the other has a reference", []string{
		conflicts + "is seen where one sets a value and the other a reference, which force would not solve",
		conflicts + "names who put a literal value over a reference of ours",
		applied + "that puts a reference where we have a value, or a value where we have a reference, is refused until the release",
		chart + "that puts a reference where we have a value is refused until the release",
	}},
	{"a name stands twice in the user's list", []string{
		conflicts + "is seen where the name stands twice", settings + "is added beside names that stand twice in the user's list",
	}},
	{"a conflict is asked about without a write", []string{conflicts + "writes nothing when that is all there is"}},
	{"the user renames or removes the server's container", []string{
		applied + rename + "client-side apply", chart + rename + "Helm's own merge",
		settings + "cannot have its container renamed by server-side apply until it is released",
		"controllers/refusal_test.go: is missed, and served under its new name once the spec names that",
	}},
	{"the user renames the volume that our init container mounts", []string{applied + volume, chart + volume}},
	{"we give everything back", []string{
		settings + "has exactly the user's spec again after a release", "internal/apply/release_test.go: keeps what the user has changed since",
	}},
	{"the object is gone, another one, or newer than the one that was read", []string{
		settings + "makes nothing when the object is gone", settings + "leaves another object of its name alone",
		settings + "fails to be tried again when the object has changed meanwhile",
		"internal/apply/release_test.go: is done when another workload of the name has come, and leaves that alone",
	}},
	{"somebody replaces the object, or rolls it back", []string{
		commands + "kubectl replace takes our items out until the next pass", chart + "takes our items out by a forced replacement, until the next pass",
		commands + "kubectl replace --force makes another object, which gets our items too",
		"controllers/removal_test.go: are remembered by a manager that dies before it has put them back",
	}},
	{"somebody scales or restarts it, or sets its image", []string{commands + "kubectl scale, set image and rollout restart change what they are for"}},
	{"the user's chart is upgraded and rolled back", []string{chart + "is upgraded and rolled back, and leaves our items alone"}},
	{"the user goes over from client-side to server-side apply", []string{
		commands + "kubectl apply --server-side takes over from client-side apply what is the user's, and not what is ours",
		commands + "kubectl apply --server-side of a part of the manifest is refused the second time, which is why nobody is told to use it",
	}},
	{"another tool strips or takes over managers by their names", []string{commands + "are none that other tools strip or take over"}},
	{"we have no right to make or to update a workload", []string{commands + "leaves the operator enough with the rights of its role, which cannot make a workload"}},
	{"two DstackServers name one workload", []string{"controllers/claim_test.go: belongs to the oldest, and to the next when that is gone"}},
	{"a DstackServer is deleted in the foreground, as Argo CD does it", []string{
		"internal/manifests/manifests_test.go: TestNothingHasAnOwner",
		"controllers/bringup_test.go: makes objects of its own without owner references, which a foreground deletion would collect too early",
		"test/e2e/release_test.go: changes the delivery, and gives the server back when its DstackServer is deleted in the foreground",
	}},
	{"our copy of config.yml lies over the user's file", []string{
		"test/e2e/config_test.go: shows the server a merged copy of config.yml, and leaves the user's file and directory alone",
		"test/e2e/release_test.go: makes a config.yml where there is none, and leaves all others alone",
	}},
	{"only the server's own user may read config.yml", []string{"test/e2e/config_test.go: reads a config.yml that only the server's own user may read"}},
}

// TestSituationsHaveTheirSpecs keeps the table in step with the specs: each that
// it names exists, and each of this folder and of test/helm is named.
func TestSituationsHaveTheirSpecs(t *testing.T) {
	found := map[string][]string{}
	named := map[string]bool{}
	for _, s := range situations {
		for _, spec := range s.specs {
			named[spec] = true
			file, name, _ := strings.Cut(spec, ": ")
			if found[file] == nil {
				found[file] = specsOf(t, file)
			}
			if !slices.Contains(found[file], name) {
				t.Errorf("%s: no spec %q in %s", s.about, name, file)
			}
		}
	}
	for _, prefix := range []string{applied, commands, chart} {
		file := strings.TrimSuffix(prefix, ": ")
		for _, name := range found[file] {
			if !named[prefix+name] {
				t.Errorf("the table has no situation for %q of %s", name, file)
			}
		}
	}
}

// specsOf are the specs and tests of a file. What a loop puts into a name is
// shown as an ellipsis.
func specsOf(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", filepath.FromSlash(file)), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if strings.HasPrefix(n.Name.Name, "Test") {
				names = append(names, n.Name.Name)
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "It" {
				names = append(names, text(n.Args[0]))
			}
		}
		return true
	})
	return names
}

func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil {
			return s
		}
	case *ast.BinaryExpr:
		return text(e.X) + text(e.Y)
	}
	return "…"
}
