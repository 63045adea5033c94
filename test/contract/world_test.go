package contract_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"

	"github.com/dstack-isolation/operator/config/crd"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/objects"
)

// The dstack servers.
const (
	// withoutPolicy is a stock server; what the others accept must look as there.
	withoutPolicy = "dstack-open"
	// withPython and withREST have one delivery of the plugin each, and dstack's
	// own network mode, which is 2.
	withPython = "dstack-python"
	withREST   = "dstack-rest"
	// withPythonOnBridge runs with network mode 3, and is told to refuse what all
	// policies deny.
	withPythonOnBridge = "dstack-python-bridge"
	// withoutSSHToken is told of an SSH proxy whose token is empty.
	withoutSSHToken = "dstack-python-empty-ssh-token"
)

var (
	// allServers are those of the newest release, on which all is tried.
	allServers = []string{withoutPolicy, withPython, withREST, withPythonOnBridge}
	// deliveries are the servers on which all must be refused and accepted alike.
	deliveries = []string{withPython, withREST}
)

// Users and projects, on every server. The profiles of the projects stand in
// testdata/policy; of "fresh" there is none.
var (
	users    = []string{member, excepted}
	projects = []string{research, researchInCapitals, base, data, watched, open, ruled, fresh}
)

const (
	member   = "ada"
	excepted = "grace"

	research           = "research-nlp"
	researchInCapitals = "Research-Vision"
	base               = "base-camp"
	data               = "data-team"
	watched            = "watched"
	open               = "open-lab"
	ruled              = "ruled"
	fresh              = "fresh"
)

const (
	policyToken = "token-of-the-policy-server"
	userConfig  = `# Settings of this server; read at its start.
projects: []
default_permissions:
  allow_non_admins_create_projects: false # ask us for one
`
)

// world is all processes: policy servers, one for each delivery, and dstack
// servers.
type world struct {
	dir string
	// policy is a link to the folder with the policy that both serve: it is
	// changed at one stroke, as a mounted ConfigMap is.
	policy             string
	forPython, forREST *policyServer
	dstack             map[string]*dstackServer
	// projects that each dstack server has.
	projects []string
	// recorded says that what dstack servers ask goes through recorders.
	recorded bool
}

// newWorld is a world of these dstack servers, none of which runs yet.
func newWorld(dir, venv string, names ...string) *world {
	secrets := []string{adminToken, policyToken}
	w := &world{dir: dir, policy: filepath.Join(dir, "policy"), dstack: map[string]*dstackServer{}, projects: projects}
	w.forPython = &policyServer{
		name: "policy-server-for-python", folder: w.policy, out: &transcript{secrets: secrets},
		token: policyToken, tokenFile: filepath.Join(dir, "token"),
	}
	w.forREST = &policyServer{name: "policy-server-for-rest", folder: w.policy, out: &transcript{secrets: secrets}}
	for _, s := range []*dstackServer{
		{name: withoutPolicy, config: userConfig},
		{name: withPython, plugin: dstack.PluginPython, policy: w.forPython, config: userConfig},
		{name: withREST, plugin: dstack.PluginREST, policy: w.forREST, permissions: []string{dstack.PermissionCreateProjects + "=false", dstack.PermissionManageSecrets + "=true"}},
		{name: withPythonOnBridge, plugin: dstack.PluginPython, policy: w.forPython, networkMode: "3", forbids: true},
		{name: withoutSSHToken, plugin: dstack.PluginPython, policy: w.forPython, config: userConfig, sshProxy: &toldOfSSHProxy{"", sshAddress}},
	} {
		if !slices.Contains(names, s.name) {
			continue
		}
		s.dir, s.venv = filepath.Join(dir, s.name), venv
		s.out, s.inject = &transcript{secrets: secrets}, &transcript{secrets: secrets}
		w.dstack[s.name] = s
	}
	return w
}

func (w *world) start(ctx context.Context) error {
	if _, err := w.serve("policy"); err != nil {
		return err
	}
	for _, p := range w.policyServers() {
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range w.dstack {
		if w.recorded {
			s.recorder = newRecorder(s.policy.url())
		}
		group.Go(func() error {
			if err := s.start(ctx); err != nil {
				return err
			}
			return s.addMembers(users, w.projects)
		})
	}
	return group.Wait()
}

func (w *world) policyServers() []*policyServer { return []*policyServer{w.forPython, w.forREST} }

// stop ends all that runs. The error is of a policy server that did not end as
// it should, such as with a race that the detector found.
func (w *world) stop() error {
	var errs []error
	for _, s := range w.dstack {
		if s.process != nil {
			s.process.kill() // it would take its time, and nothing of it is kept
		}
		if s.recorder != nil {
			s.recorder.server.Close()
		}
	}
	for _, p := range w.policyServers() {
		if p.process != nil {
			if err := p.process.terminate(); err != nil {
				errs = append(errs, fmt.Errorf("%s ended: %w; its output is:\n%s", p.name, err, p.out.printable(0)))
			}
		}
	}
	return errors.Join(errs...)
}

// serve makes a folder, of testdata unless its path is absolute, the policy, and
// returns what both policy servers have to make of it.
func (w *world) serve(folder string) (*isolation.Effective, error) {
	source := folder
	if !filepath.IsAbs(source) {
		var err error
		if source, err = filepath.Abs(filepath.Join("testdata", folder)); err != nil {
			return nil, err
		}
	}
	next := w.policy + ".next"
	if err := errors.Join(os.Symlink(source, next), os.Rename(next, w.policy)); err != nil {
		return nil, err
	}
	return resolve(os.DirFS(source))
}

// serves makes a folder the policy, as serve does, and waits until both policy
// servers decide by it.
func (w *world) serves(ctx context.Context, folder string) *isolation.Effective {
	GinkgoHelper()
	want, err := w.serve(folder)
	Expect(err).NotTo(HaveOccurred())
	for _, p := range w.policyServers() {
		Expect(eventually(ctx, p.process, func() error {
			got, err := p.revision()
			if err == nil && got != want.Revision {
				err = fmt.Errorf("serves revision %s, want %s", got, want.Revision)
			}
			return err
		})).To(Succeed())
	}
	return want
}

// resolve reads and resolves a policy, without a policy server.
func resolve(folder fs.FS) (*isolation.Effective, error) {
	reader, err := objects.NewReader(crd.FS)
	if err != nil {
		return nil, err
	}
	set, err := reader.ReadFolder(folder)
	if err != nil {
		return nil, err
	}
	if len(set.Servers) != 1 {
		return nil, fmt.Errorf("%d DstackServers, want 1", len(set.Servers))
	}
	return isolation.Resolve(isolation.Input{Server: &set.Servers[0], Profiles: set.Profiles, Now: time.Now()}), nil
}

// outputSizes and printOutputs show what the processes said in the meantime.
func (w *world) outputSizes() map[string]int {
	sizes := map[string]int{}
	for name, out := range w.outputs() {
		sizes[name] = out.size()
	}
	return sizes
}

func (w *world) printOutputs(to io.Writer, after map[string]int) {
	for name, out := range w.outputs() {
		if text := out.printable(after[name]); text != "" {
			fmt.Fprintf(to, "--- %s:\n%s\n", name, text)
		}
	}
}

func (w *world) outputs() map[string]*transcript {
	all := map[string]*transcript{}
	for _, p := range w.policyServers() {
		all[p.name] = p.out
	}
	for _, s := range w.dstack {
		all[s.name], all[s.name+" init container"] = s.out, s.inject
	}
	return all
}
