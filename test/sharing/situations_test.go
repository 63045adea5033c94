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

	"github.com/google/go-cmp/cmp"
)

// situation is what can happen to a workload that the operator and other tools
// share, what Kubernetes makes of it, and the tests that hold it: FILE: NAME OF THE
// SPEC, and for an entry of a table FILE: NAME OF THE TABLE: NAME OF THE ENTRY.
type situation struct {
	// id is how documents and commits call it.
	id    string
	about string
	specs []string
}

const (
	applied    = "test/sharing/apply_test.go: "
	commands   = "test/sharing/commands_test.go: "
	rolledBack = "test/sharing/rollback_test.go: "
	chart      = "test/helm/chart_test.go: "
	settings   = "internal/apply/settings_test.go: "
	conflicts  = "internal/apply/conflict_test.go: "
	reasons    = "internal/apply/reasons_test.go: "
	release    = "internal/apply/release_test.go: "
	removal    = "controllers/removal_test.go: "
	e2e        = "test/e2e/"

	same        = "shows no difference, and changes nothing when it is applied again"
	own         = "changes what is the user's own and leaves our items alone"
	sharedValue = "may set one of our variables to our value, and drop it again"
	otherValue  = "that sets … to another value is refused, or wins and is reported"
	rename      = "that renames the server's container is refused by server-side apply until the release, and taken by "
	volume      = "that renames the volume of the server's directory is refused until the release"
	missed      = "are put back at once, and missed until every pod has them again: "
)

// ids are the situations that must stand in the table.
var ids = []string{
	"R1", "R1b", "R2", "R3", "R3b", "R3c", "R4", "R5", "R6", "R6b", "R7", "R8", "R9/E5", "R10", "R11", "R12", "R13", "RB",
	"Z1", "Z2", "Z3", "E1", "E5b", "E8", "E12", "D1", "D2", "D4", "D6", "D8", "S1", "G1", "M1", "U1",
	"A1", "A2", "A3", "A4",
}

var situations = []situation{
	{"R1", "the user applies from the client's side: our items come after the user's, and we own those alone", []string{
		settings + "gets our items after the user's own, and we own those alone",
	}},
	{"R1b", "we apply the same again: nothing is written", []string{settings + "is not written when nothing changes"}},
	{"R2", "the user applies a changed manifest: our items stay", []string{
		applied + own, settings + "stays when the user applies another image", e2e + "workload_test.go: stays in a workload that the user changes",
	}},
	{"R3", "the user has one of our variables already, with another value: a conflict that names the field and the manager", []string{
		conflicts + "leaves out exactly that variable", conflicts + "names every manager, and leaves out only that variable, when several set it",
		conflicts + "keeps all of the plugin out of a server that has none of it, and sets what works alone",
		"internal/apply/sshproxy_test.go: are left out together when one clashes, and the rest is set",
	}},
	{"R3b", "the user has one of our variables already, with our value: both own it", []string{
		applied + sharedValue, settings + "shares a variable that the user sets to the same value, and leaves it at the release",
	}},
	{"R3c", "the user's client-side apply drops a variable that both own: it goes until our next pass", []string{applied + sharedValue}},
	{"R4", "somebody sets one of our variables to another value after us: that wins, unless it is a server-side apply without force, and we report it", []string{
		commands + "kubectl set env over one of our variables wins, and is reported until it is taken back",
		applied + otherValue, chart + otherValue, conflicts + "gives way to a value that somebody sets over ours",
		conflicts + "writes nothing to a server that has the plugin, since leaving it out would open the server",
		"internal/apply/sshproxy_test.go: stay together when somebody sets one over ours: to leave them out would open the server",
	}},
	{"R5", "we give everything back, by an apply of nothing: exactly our items go", []string{
		settings + "has exactly the user's spec again after a release", release + "keeps what the user has changed since",
	}},
	{"R6", "the object that we read is gone, or another one has its name: nothing is made or changed", []string{
		settings + "makes nothing when the object is gone", settings + "leaves another object of its name alone",
		release + "is done when the workload is gone, and makes none",
		release + "is done when another workload of the name has come, and leaves that alone",
	}},
	{"R6b", "the object has changed since we read it: we lose the race, which is no conflict of fields", []string{
		settings + "fails to be tried again when the object has changed meanwhile",
	}},
	{"R7", "the user's server-side apply drops a variable that both own: it stays, ours", []string{applied + sharedValue}},
	{"R8", "one sets a value where the other has a reference: invalid, also by force", []string{
		reasons + "force puts no value over a reference",
		conflicts + "is seen where one sets a value and the other a reference, which force would not solve",
		conflicts + "names who put a literal value over a reference of ours",
		applied + "that puts a reference where we have a value, or a value where we have a reference, is refused until the release",
		chart + "that puts a reference where we have a value is refused until the release",
	}},
	{"R9/E5", "the user renames or removes the server's container by server-side apply: the user's apply is refused", []string{
		applied + rename + "client-side apply", chart + rename + "Helm's own merge",
		settings + "cannot have its container renamed by server-side apply until it is released",
	}},
	{"R10", "the user renames the volume that our init container mounts: the user's apply is refused until the release", []string{applied + volume, chart + volume}},
	{"R11", "two DstackServers name one workload: they would drop each other's items for ever, so only the oldest has it", []string{
		reasons + "two intents of one manager drop each other's items, and each time all pods are replaced",
		"controllers/claim_test.go: belongs to the oldest, and to the next when that is gone",
	}},
	{"R12", "one of our variables is in conflict: the API server refuses the whole apply, so exactly that one is left out", []string{
		reasons + "an apply with one conflict in it is refused as a whole", conflicts + "leaves out exactly that variable",
	}},
	{"R13", "a name stands twice in the user's list: force would make one of it, so it is left alone", []string{
		reasons + "force makes one of a name that stands twice in the user's list", conflicts + "is seen where the name stands twice",
		settings + "is added beside names that stand twice in the user's list",
	}},
	{"RB", "somebody rolls the workload back, to earlier settings of ours or to none: ours of now come back", []string{
		rolledBack + "by kubectl rollout undo is undone by the next pass, and is no conflict", rolledBack + "does not excuse what somebody sets after it",
		rolledBack + "leaves nothing that only the earlier settings had", rolledBack + "to settings of before a release is given back too",
		rolledBack + "that is given back at once leaves nothing either", rolledBack + "takes nothing out that is wanted and that somebody else sets",
		rolledBack + "does not excuse what the user's manifest declares",
		removal + missed + "as kubectl rollout undo does", removal + missed + "as kubectl rollout undo does to an older image",
		removal + "are remembered by a manager that dies before it has put them back",
	}},
	{"Z1", "the user renames the container after the release: it works", []string{
		applied + rename + "client-side apply", settings + "cannot have its container renamed by server-side apply until it is released",
	}},
	{"Z2", "items written by a strategic merge patch go with a renamed container, and see no conflict: so we do not write that way", []string{
		reasons + "a strategic merge patch sees no conflict, and what it has written goes with a renamed container",
	}},
	{"Z3", "the user removes another container: it works", []string{applied + own, chart + "is upgraded and rolled back, and leaves our items alone"}},
	{"E1", "the user goes over from client-side to server-side apply, with the whole manifest or with a part of it", []string{
		commands + "kubectl apply --server-side takes over from client-side apply what is the user's, and not what is ours",
		commands + "kubectl apply --server-side of a part of the manifest is refused the second time, which is why nobody is told to use it",
	}},
	{"E5b", "the user renames the server's container from the client's side: it goes with our items, and we wait to be told its new name", []string{
		applied + rename + "client-side apply", chart + rename + "Helm's own merge",
		"controllers/refusal_test.go: is missed, and served under its new name once the spec names that",
	}},
	{"E8", "we apply to a workload that is not there: refused, and none is made", []string{
		reasons + "an apply to a workload that is not there is refused, also where it names no uid", settings + "makes nothing when the object is gone",
	}},
	{"E12", "somebody replaces the object: our items are gone until the next pass", []string{
		commands + "kubectl replace takes our items out until the next pass", commands + "kubectl replace --force makes another object, which gets our items too",
		chart + "takes our items out by a forced replacement, until the next pass", settings + "comes back after the user has replaced the object",
		removal + missed + "by kubectl replace", removal + missed + "by kubectl replace --force",
	}},
	{"D1", "kubectl diff of the user's manifest, from the client's side: no difference", []string{applied + same}},
	{"D2", "the same from the server's side, as Argo CD does it: no difference", []string{applied + same}},
	{"D4", "annotations of ours in the pod template: no difference either", []string{applied + same}},
	{"D6", "a conflict is asked about by a dry run: nothing is written", []string{
		conflicts + "writes nothing when that is all there is",
		conflicts + "writes nothing to a server that has the plugin, since leaving it out would open the server",
	}},
	{"D8", "we may read and patch workloads, and not make or update one: that is enough", []string{
		commands + "leaves get and patch enough for settings, which cannot make a workload",
		commands + "leaves the operator enough with the rights of its role, which cannot make a workload",
	}},
	{"S1", "the workload is a StatefulSet: R1, R5 and R9/E5 are as of a Deployment; these specs run for both, as those of kubectl and Helm do", []string{
		settings + "gets our items after the user's own, and we own those alone", settings + "has exactly the user's spec again after a release",
		settings + "cannot have its container renamed by server-side apply until it is released",
	}},
	{"G1", "a DstackServer is deleted in the foreground, as Argo CD does it: what it owned would go before its finalizer has run, so it owns nothing", []string{
		"internal/manifests/manifests_test.go: TestNothingHasAnOwner",
		"controllers/bringup_test.go: makes objects of its own without owner references, which a foreground deletion would collect too early",
		e2e + "release_test.go: changes the delivery, and gives the server back when its DstackServer is deleted in the foreground",
	}},
	{"M1", "our copy of config.yml lies over the user's file: the server sees the copy, and file and directory stay the user's", []string{
		e2e + "config_test.go: shows the server a merged copy of config.yml, and leaves the user's file and directory alone",
		e2e + "release_test.go: makes a config.yml where there is none, and leaves all others alone",
	}},
	{"U1", "only the server's own user may read config.yml: the init container runs as that user", []string{
		e2e + "config_test.go: reads a config.yml that only the server's own user may read",
	}},
	{"A1", "the user applies the same manifest again: nothing changes", []string{applied + same}},
	{"A2", "somebody scales or restarts the workload, or sets its image", []string{commands + "kubectl scale, set image and rollout restart change what they are for"}},
	{"A3", "the user's chart is upgraded and rolled back", []string{chart + "is upgraded and rolled back, and leaves our items alone"}},
	{"A4", "another tool strips or takes over managers by their names", []string{commands + "are none that other tools strip or take over"}},
}

// TestSituationsHaveTheirSpecs keeps the table in step with the specs: each that
// it names exists, and each of this folder and of test/helm is named.
func TestSituationsHaveTheirSpecs(t *testing.T) {
	found := map[string][]string{}
	named := map[string]bool{}
	for _, s := range situations {
		if len(s.specs) == 0 {
			t.Errorf("%s: no spec", s.id)
		}
		for _, spec := range s.specs {
			named[spec] = true
			file, name, _ := strings.Cut(spec, ": ")
			if found[file] == nil {
				found[file] = specsOf(t, file)
			}
			if !slices.Contains(found[file], name) {
				t.Errorf("%s: no spec %q in %s", s.id, name, file)
			}
		}
	}
	for _, prefix := range []string{applied, commands, rolledBack, reasons, chart} {
		file := strings.TrimSuffix(prefix, ": ")
		for _, name := range found[file] {
			if !named[prefix+name] {
				t.Errorf("the table has no situation for %q of %s", name, file)
			}
		}
	}
}

// TestEachSituationStandsOnce holds the table against the list of ids.
func TestEachSituationStandsOnce(t *testing.T) {
	var got []string
	for _, s := range situations {
		got = append(got, s.id)
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("situations (-want +got):\n%s", diff)
	}
}

// specsOf are the specs, entries of tables and tests of a file, whatever its build
// tags. What a loop puts into a name is shown as an ellipsis.
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
			switch called(n) {
			case "It":
				names = append(names, text(n.Args[0]))
			case "DescribeTable":
				names = append(names, entriesOf(n)...)
			}
		}
		return true
	})
	return names
}

// entriesOf are the entries of a table, behind its name.
func entriesOf(table *ast.CallExpr) []string {
	var names []string
	for _, arg := range table.Args {
		if entry, ok := arg.(*ast.CallExpr); ok && called(entry) == "Entry" {
			names = append(names, text(table.Args[0])+": "+text(entry.Args[0]))
		}
	}
	return names
}

// called is the name of a function that is called without a package.
func called(call *ast.CallExpr) string {
	if f, ok := call.Fun.(*ast.Ident); ok {
		return f.Name
	}
	return ""
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
