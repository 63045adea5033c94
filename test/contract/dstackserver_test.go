package contract_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/inject"
)

// dstackServer is an unmodified dstack server, as a process.
type dstackServer struct {
	name string
	// plugin is what the init container adds to config.yml; empty for a server
	// without policy.
	plugin string
	// networkMode of the server; empty leaves the variable away.
	networkMode string
	// forbids sets the variables with which dstack itself refuses.
	forbids bool
	// sshProxy is what it is told of an SSH proxy, as the only way in; nil for
	// nothing.
	sshProxy *toldOfSSHProxy
	// permissions are what the operator says of default_permissions.
	permissions []string
	// config is the user's own config.yml; empty when there is none yet.
	config string
	policy *policyServer
	// recorder passes on what it asks of the policy server; nil when it asks by
	// itself.
	recorder *recorder

	dir, venv   string
	out, inject *transcript
	process     *process
	admin       account
	members     map[string]account
}

const (
	// serverEntry is the DstackServer of testdata, for the plugin's messages.
	serverEntry = "dstack/main"
	adminToken  = "the-administrators-own-token"
)

// policyURL is what the plugin asks.
func (s *dstackServer) policyURL() string {
	if s.recorder != nil {
		return s.recorder.server.URL
	}
	return s.policy.url()
}

func (s *dstackServer) serverDir() string { return filepath.Join(s.dir, "server") }

// userConfig is the user's config.yml. In a pod the merged copy is mounted over
// it; here the server gets the copy's folder.
func (s *dstackServer) userConfig() string { return filepath.Join(s.dir, "user", dstack.ConfigFile) }

func (s *dstackServer) start(ctx context.Context) error {
	for _, dir := range []string{"home", "user", "server"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := s.prepareConfig(ctx); err != nil {
		return err
	}
	if err := s.layOutDatabase(ctx); err != nil {
		return err
	}
	if err := layOutPlugin(filepath.Join(s.dir, "plugin")); err != nil {
		return err
	}
	for {
		before := s.out.size()
		err := s.startOnce(ctx)
		// Nobody holds a port between the choice and the server's own listening.
		if err == nil || !strings.Contains(s.out.raw(before), "address already in use") {
			return err
		}
	}
}

// prepareConfig does what the init container does before the server starts.
func (s *dstackServer) prepareConfig(ctx context.Context) error {
	if s.config != "" {
		if err := os.WriteFile(s.userConfig(), []byte(s.config), 0o600); err != nil {
			return err
		}
	}
	if s.plugin == "" {
		return nil
	}
	args := []string{
		"--source", s.userConfig(), "--target", filepath.Join(s.serverDir(), dstack.ConfigFile),
		"--plugin", s.plugin, "--policy-url", s.policyURL(),
	}
	for _, permission := range s.permissions {
		args = append(args, "--default-permission", permission)
	}
	out, err := runInject(ctx, s.policy.token, args...)
	_, _ = s.inject.Write([]byte(out))
	if err != nil {
		return fmt.Errorf("init container of %s: %w: %s", s.name, err, out)
	}
	return nil
}

// runInject runs the init container's command, as a process.
func runInject(ctx context.Context, token string, args ...string) (out string, err error) {
	executable, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, executable, append([]string{"inject"}, args...)...)
	cmd.Env = []string{asOperator + "=1", dstack.EnvToken + "=" + token}
	content, err := cmd.CombinedOutput()
	return string(content), err
}

func (s *dstackServer) startOnce(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	s.admin = account{url: "http://127.0.0.1:" + port, token: adminToken}
	s.process, err = startProcess(s.name, s.out, s.environment(),
		filepath.Join(s.venv, "bin", "dstack"), "server", "--host", "127.0.0.1", "--port", port, "--no")
	if err != nil {
		return err
	}
	return eventually(ctx, s.process, func() error {
		// Answers once plugins are loaded.
		response, err := direct.Get(s.admin.url + "/healthcheck")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("/healthcheck answers HTTP %d", response.StatusCode)
		}
		return nil
	})
}

// environment of the server's container, as the operator sets it, and what keeps
// a server within its folder and its loopback.
func (s *dstackServer) environment() []string {
	env := []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"LANG=C.UTF-8",
		"HOME=" + filepath.Join(s.dir, "home"),
		dstack.EnvServerDir + "=" + s.serverDir(),
		"DSTACK_SERVER_ADMIN_TOKEN=" + adminToken,
		"DSTACK_SERVER_LOG_FORMAT=standard", // whole lines
		// Jobs, instances and the price lists of clouds, which it would download.
		"DSTACK_SERVER_BACKGROUND_PROCESSING_DISABLED=1",
	}
	switch s.plugin {
	case dstack.PluginPython:
		env = append(env,
			dstack.EnvPythonPath+"="+filepath.Join(s.dir, "plugin"),
			dstack.EnvPolicyURL+"="+s.policyURL(),
			dstack.EnvToken+"="+s.policy.token,
			dstack.EnvServer+"="+serverEntry)
	case dstack.PluginREST:
		env = append(env, dstack.EnvPluginServiceURI+"="+s.policyURL())
	}
	if s.networkMode != "" {
		env = append(env, dstack.EnvJobNetworkMode+"="+s.networkMode)
	}
	if s.forbids {
		env = append(env, dstack.EnvForbidDstackInRuns+"=1", dstack.EnvForbidServicesWithoutGateway+"=1")
	}
	if s.sshProxy != nil {
		env = append(env,
			dstack.EnvSSHProxyAPIToken+"="+s.sshProxy.token,
			dstack.EnvServerSSHProxyAddress+"="+s.sshProxy.address,
			dstack.EnvServerSSHProxyEnforced+"=1")
	}
	return env
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), nil
}

// layOutPlugin writes the plugin's ConfigMap as the kubelet mounts it: behind
// links, which is how Python has to find it.
func layOutPlugin(dir string) error {
	const version = "..2026_01_01_00_00_00.0"
	tops := map[string]bool{}
	for path, content := range inject.PluginFiles() {
		file := filepath.Join(dir, version, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
		top, _, _ := strings.Cut(path, "/")
		tops[top] = true
	}
	err := os.Symlink(version, filepath.Join(dir, "..data"))
	for top := range tops {
		err = errors.Join(err, os.Symlink(filepath.Join("..data", top), filepath.Join(dir, top)))
	}
	return err
}

// addMembers makes the users, and makes them ordinary members of the projects.
func (s *dstackServer) addMembers(users, projects []string) error {
	s.members = map[string]account{}
	type member struct {
		Username string `json:"username"`
		Role     string `json:"project_role"`
	}
	var all []member
	for _, name := range users {
		err := s.admin.read("/api/users/create", map[string]string{"username": name, "global_role": "user"}, nil)
		if err != nil {
			return err
		}
		var user struct{ Creds struct{ Token string } }
		if err := s.admin.read("/api/users/get_user", map[string]string{"username": name}, &user); err != nil {
			return err
		}
		s.members[name] = account{url: s.admin.url, token: user.Creds.Token}
		all = append(all, member{name, "user"})
	}
	for _, project := range projects {
		err := s.admin.read("/api/projects/create", map[string]string{"project_name": project}, nil)
		if err != nil {
			return err
		}
		// The answer is a project, which names its members.
		err = s.admin.read("/api/projects/"+project+"/add_members", map[string]any{"members": all}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// specification is a run as dstack's client sends it: run_spec of runs/get_plan.
type specification map[string]any

// plainKey is a public key, of which nobody has the private one.
const plainKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9mM0mO3nq9D1a5T8vI6U6wQ6n3nq9D1a5T8vI6U6wA user@laptop"

// run is a run with this configuration, in the form of the user's YAML.
func run(configuration string) specification {
	return specification{"ssh_key_pub": plainKey, "configuration": json.RawMessage(configuration)}
}

func (s specification) with(key string, value any) specification {
	changed := specification{key: value}
	for k, v := range s {
		if k != key {
			changed[k] = v
		}
	}
	return changed
}

// getPlan asks for a plan, which is where dstack asks its plugins first.
func (s *dstackServer) getPlan(user, project string, spec any) (answer, error) {
	return s.members[user].post("/api/project/"+project+"/runs/get_plan", map[string]any{"max_offers": 1, "run_spec": spec})
}
