package policyserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

const serverYAML = `apiVersion: isolation.dstack.ai/v1alpha1
kind: DstackServer
metadata: {name: %s, namespace: dstack, generation: 7}
spec:
  workload: {kind: Deployment, name: dstack-server}
  unmatchedProjects: {level: Restricted, enforcement: Enforce}
`

const profileYAML = `apiVersion: isolation.dstack.ai/v1alpha1
kind: IsolationProfile
metadata: {name: research, namespace: dstack, generation: 2}
spec:
  serverRef: {name: main}
  projects: {include: ["research-*"]}
  level: Restricted
`

type folder string

func newFolder(t testing.TB, pairs ...string) folder {
	t.Helper()
	dir := folder(t.TempDir())
	for i := 0; i < len(pairs); i += 2 {
		dir.write(t, pairs[i], pairs[i+1])
	}
	return dir
}

func (f folder) write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(string(f), name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f folder) source(t testing.TB, chosen string) (*FileSource, *syncBuffer) {
	t.Helper()
	var name types.NamespacedName
	name.Namespace, name.Name, _ = strings.Cut(chosen, "/")
	log, out := newLog(0)
	source, err := NewFileSource(string(f), name, log)
	if err != nil {
		t.Fatal(err)
	}
	return source, out
}

func TestFileSource(t *testing.T) {
	source, _ := newFolder(t, "all.yaml", fmt.Sprintf(serverYAML, "main")+"---\n"+profileYAML).source(t, "")
	snapshot, err := source.load()
	if err != nil {
		t.Fatal(err)
	}
	if snapshot.Server != serverName || snapshot.ServerGeneration != 7 || !snapshot.TokenRequired || snapshot.Stale != "" ||
		len(snapshot.Effective.Profiles) != 1 || snapshot.Effective.Profiles[0].Generation != 2 {
		t.Errorf("got %+v", snapshot)
	}
	// Nothing is left to apply settings, so the planned mode is the running one.
	if got := snapshot.Running.NetworkMode; got != v1alpha1.NetworkModeBridge {
		t.Errorf("got network mode %d", got)
	}
}

func TestFileSourceChoosesOneServer(t *testing.T) {
	main, second := fmt.Sprintf(serverYAML, "main"), fmt.Sprintf(serverYAML, "second")
	for name, tc := range map[string]struct {
		files  []string
		chosen string
		want   string
	}{
		"the only one":       {files: []string{"a.yaml", main}},
		"the chosen one":     {files: []string{"a.yaml", main, "b.yaml", second}, chosen: "dstack/main"},
		"one of several":     {files: []string{"a.yaml", main, "b.yaml", second}, want: "holds 2 DstackServers: choose one of dstack/main, dstack/second"},
		"none":               {files: []string{"a.txt", main}, want: "holds no DstackServer: add one, in a file *.yaml, *.yml or *.json"},
		"not the chosen one": {files: []string{"a.yaml", main, "b.yaml", second}, chosen: "other/main", want: "holds no DstackServer other/main, only: dstack/main, dstack/second"},
		"wrong":              {files: []string{"a.yaml", main + "  levle: x\n", "b.yaml", "["}, want: "a.yaml, document 1, DstackServer main: spec.levle: unknown field: mend its name or remove it\nb.yaml, document 1: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newFolder(t, tc.files...)
			source, _ := dir.source(t, tc.chosen)
			err := source.Run(canceled(), func(*Snapshot) {})
			if tc.want == "" {
				if err != nil {
					t.Errorf("got error %v", err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "folder "+string(dir)+": ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v", err)
			}
		})
	}
	source, _ := folder("/nonexistent").source(t, "")
	if _, err := source.load(); err == nil || !strings.Contains(err.Error(), "folder /nonexistent: read folder: ") {
		t.Errorf("got error %v", err)
	}
}

// recorder keeps what a source publishes.
type recorder struct {
	mu        sync.Mutex
	snapshots []*Snapshot
}

func (r *recorder) publish(s *Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshots = append(r.snapshots, s)
}

// last is the last snapshot, and how many there are.
func (r *recorder) last() (*Snapshot, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshots[len(r.snapshots)-1], len(r.snapshots)
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestFileSourceFollowsChanges(t *testing.T) {
	dir := newFolder(t, "server.yaml", fmt.Sprintf(serverYAML, "main"), "profile.yaml", profileYAML)
	source, out := dir.source(t, "")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var published recorder
		done := make(chan error)
		go func() { done <- source.Run(ctx, published.publish) }()
		// expect waits less than the second that a change may take.
		expect := func(count int, stale Stale, profiles int) {
			t.Helper()
			time.Sleep(900 * time.Millisecond)
			synctest.Wait()
			last, got := published.last()
			if got != count || last.Stale != stale || len(last.Effective.Profiles) != profiles {
				t.Fatalf("got %d snapshots, the last one kept for %q with %d profiles", got, last.Stale, len(last.Effective.Profiles))
			}
		}
		expect(1, "", 1)
		expect(1, "", 1)
		dir.write(t, "second.yaml", strings.Replace(profileYAML, "name: research", "name: second", 1))
		expect(2, "", 2)
		dir.write(t, "notes.txt", "not an object")
		expect(2, "", 2)
		// What is wrong is said once, and the last valid policy stays.
		dir.write(t, "second.yaml", "kind: [")
		expect(3, StaleFolderInvalid, 2)
		expect(3, StaleFolderInvalid, 2)
		dir.write(t, "second.yaml", "# emptied\n")
		expect(4, "", 1)
		// A file that is still being written is not read.
		for i := range 8 {
			dir.write(t, "third.yaml", strings.Replace(profileYAML, "name: research", "name: third", 1)+strings.Repeat("#", i))
			time.Sleep(folderInterval * 9 / 10)
		}
		synctest.Wait()
		if _, got := published.last(); got != 4 {
			t.Errorf("got %d snapshots while a file was being written", got)
		}
		expect(5, "", 2)
		if err := os.Remove(filepath.Join(string(dir), "server.yaml")); err != nil {
			t.Fatal(err)
		}
		expect(6, StaleFolderInvalid, 2)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got error %v", err)
		}
	})
	if got := strings.Count(out.String(), "Kept the last valid policy"); got != 2 {
		t.Errorf("logged %d times:\n%s", got, out)
	}
}

// A mounted ConfigMap changes by a link that is swapped.
func TestFileSourceFollowsMountedConfigMaps(t *testing.T) {
	dir := newFolder(t)
	link := func(version, yaml string) {
		t.Helper()
		versioned := filepath.Join(string(dir), version)
		if err := os.Mkdir(versioned, 0o700); err != nil {
			t.Fatal(err)
		}
		folder(versioned).write(t, "all.yaml", yaml)
		fresh := filepath.Join(string(dir), "..data_tmp")
		if err := os.Symlink(version, fresh); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(fresh, filepath.Join(string(dir), "..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", fmt.Sprintf(serverYAML, "main"))
	if err := os.Symlink("..data/all.yaml", filepath.Join(string(dir), "all.yaml")); err != nil {
		t.Fatal(err)
	}
	source, _ := dir.source(t, "")
	before := source.fingerprint()
	if snapshot, err := source.load(); err != nil || len(snapshot.Effective.Profiles) != 0 {
		t.Fatalf("got error %v", err)
	}
	link("..2", fmt.Sprintf(serverYAML, "main")+"---\n"+profileYAML)
	if source.fingerprint() == before {
		t.Error("the change is not seen")
	}
	if snapshot, err := source.load(); err != nil || len(snapshot.Effective.Profiles) != 1 {
		t.Errorf("got error %v", err)
	}
}

// An exception that ends may change the plan, which counts as running here.
func TestFileSourceFollowsTheEndOfExceptions(t *testing.T) {
	dir := newFolder(t, "server.yaml", fmt.Sprintf(serverYAML, "main"))
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		dir.write(t, "profile.yaml", profileYAML+"  exceptions: [{name: x, users: [ada], controls: [hostNetwork], reason: r, expiresAt: \""+ends+"\"}]\n")
		source, _ := dir.source(t, "")
		ctx, cancel := context.WithCancel(t.Context())
		var published recorder
		done := make(chan error)
		go func() { done <- source.Run(ctx, published.publish) }()
		expect := func(after time.Duration, mode v1alpha1.NetworkMode, count int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if last, got := published.last(); last.Running.NetworkMode != mode || got != count {
				t.Errorf("got mode %d in %d snapshots", last.Running.NetworkMode, got)
			}
		}
		expect(59*time.Minute, v1alpha1.NetworkModeHostForDistributed, 1)
		expect(2*time.Minute, v1alpha1.NetworkModeBridge, 2)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got error %v", err)
		}
	})
}

// What an API server stores and a condition then calls wrong, a folder does not
// hold: nobody looks at conditions there.
func TestFileSourceRefusesWhatWouldNotBeAccepted(t *testing.T) {
	server := fmt.Sprintf(serverYAML, "main")
	second := strings.Replace(profileYAML, "name: research", "name: second", 1)
	for name, tc := range map[string]struct{ yaml, want string }{
		"a rule that does not compile": {
			profileYAML + "  rules: [{name: typo, kind: Run, expression: objct.x, message: m}]\n",
			"profile dstack/research: spec.rules[0].expression: the expression of rule typo does not compile, so every run of its projects is refused: " +
				"line 1, column 1: undeclared reference to 'objct'",
		},
		"one in audit mode": {
			profileYAML + "  enforcement: Audit\n  rules: [{name: typo, kind: Run, expression: objct.x, message: m}]\n",
			"profile dstack/research: spec.rules[0].expression: the expression of rule typo does not compile, so every run of its projects counts as refused: " +
				"line 1, column 1: undeclared reference to 'objct'",
		},
		"an exception that cannot work": {
			profileYAML + "  exceptions: [{name: x, users: [ada], controls: [hostSSH], reason: r}]\n",
			"profile dstack/research: spec.exceptions[0].controls[0]: hostSSH cannot be lifted for single users, because dstack enforces it for the whole server: " +
				"remove it, or set controls.hostSSH to Allowed",
		},
		"several": {
			profileYAML + "  rules: [{name: typo, kind: Run, expression: objct.x, message: m}]\n---\n" +
				second + "  rules: [{name: number, kind: Fleet, expression: '1', message: m}]\n",
			"undeclared reference to 'objct'\nprofile dstack/second: spec.rules[0].expression: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newFolder(t, "all.yaml", server+"---\n"+tc.yaml)
			source, _ := dir.source(t, "")
			err := source.Run(canceled(), func(*Snapshot) { t.Error("it is served") })
			if err == nil || !strings.HasPrefix(err.Error(), "folder "+string(dir)+": profile ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v", err)
			}
		})
	}
}

// A rule that comes later and does not compile changes nothing.
func TestFileSourceKeepsThePolicyWhenARuleDoesNotCompile(t *testing.T) {
	dir := newFolder(t, "server.yaml", fmt.Sprintf(serverYAML, "main"), "profile.yaml", profileYAML)
	source, out := dir.source(t, "")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		published := &counting{end: cancel}
		go func() { _ = source.Run(ctx, published.publish) }()
		time.Sleep(time.Second)
		published.expect(t, 1, "")
		before, _ := published.last()
		dir.write(t, "profile.yaml", profileYAML+"  rules: [{name: typo, kind: Run, expression: objct.x, message: m}]\n")
		time.Sleep(time.Minute)
		published.expect(t, 2, StaleFolderInvalid)
		if last, _ := published.last(); last.Effective != before.Effective {
			t.Error("it is another policy")
		}
		dir.write(t, "profile.yaml", profileYAML)
		time.Sleep(time.Minute)
		published.expect(t, 3, "")
	})
	if got := out.String(); strings.Count(got, "Kept the last valid policy") != 1 || !strings.Contains(got, "rule typo does not compile") {
		t.Errorf("got log %s", got)
	}
}

// The whole way: a folder that turns invalid refuses nothing more and nothing
// less than before.
func TestServeFolder(t *testing.T) {
	dir := newFolder(t, "all.yaml", fmt.Sprintf(serverYAML, "main")+"---\n"+profileYAML)
	source, _ := dir.source(t, "")
	r := startServer(t, nil, Options{Source: source})
	privileged := string(capturedCase(t, "0.22.5/task-privileged").Request)
	eventually(t, func() bool { return r.current.Load() != nil })
	dir.write(t, "all.yaml", "[")
	eventually(t, func() bool { return r.current.Load().Stale == StaleFolderInvalid })
	if a := decoded(t, r.post(runPath, privileged)); a.Error == nil || !strings.Contains(*a.Error, "dstack/research") {
		t.Errorf("got error %v", a.Error)
	}
	if w := r.get(r.decisionHandler(), dstack.PathReady); w.Code != 200 {
		t.Errorf("/readyz: got %d", w.Code)
	}
	if w := r.get(r.decisionHandler(), dstack.PathRevision); !strings.Contains(w.Body.String(), `"kept":"FolderInvalid"`) {
		t.Errorf("got %s", w.Body)
	}
}
