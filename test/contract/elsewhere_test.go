package contract_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/inject"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// elsewhere is a stock dstack server whose administrator follows the README of
// ConfigMap isolation-manual-main.
type elsewhere struct {
	*dstackServer
	// data is what the ConfigMap shows, with this server's folders in it.
	data map[string]string
	// env is the environment before that.
	env []string
}

func newElsewhere() *elsewhere {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	shared := servers.dstack[withPython]
	e := &elsewhere{dstackServer: &dstackServer{
		name: "dstack-elsewhere", dir: dir, venv: shared.venv, policy: servers.forPython,
		out: &transcript{secrets: []string{adminToken, policyToken}},
	}}
	for _, folder := range []string{"home", "server", "bin"} {
		Expect(os.MkdirAll(filepath.Join(dir, folder), 0o755)).To(Succeed())
	}
	object := testkit.MakeServer("main").Elsewhere().ServerDir(e.serverDir()).With(func(s *v1alpha1.DstackServerSpec) {
		s.PolicyPlugin.URL = servers.forPython.url()
	}).Obj()
	shown, err := json.Marshal(manifests.ForElsewhere(manifests.SettingsInput{
		Permissions: map[string]bool{dstack.PermissionCreateProjects: false},
		Server:      object, NetworkMode: v1alpha1.NetworkModeBridge, Files: inject.PluginFiles(),
	}).ConfigMap().Config)
	Expect(err).NotTo(HaveOccurred())
	var config corev1.ConfigMap
	Expect(json.Unmarshal(shown, &config)).To(Succeed())
	e.data = map[string]string{}
	for key, text := range config.Data {
		e.data[key] = strings.ReplaceAll(text, manifests.PluginDir, filepath.Join(dir, "plugin"))
	}
	e.data[manifests.ArchiveKey] = base64.StdEncoding.EncodeToString(config.BinaryData[manifests.ArchiveKey])
	e.standInForKubectl()
	e.env = []string{
		"PATH=" + filepath.Join(dir, "bin") + ":" + filepath.Join(e.venv, "bin") + ":/usr/local/bin:/usr/bin:/bin",
		"LANG=C.UTF-8", "HOME=" + filepath.Join(dir, "home"),
		dstack.EnvServerDir + "=" + e.serverDir(),
		"DSTACK_SERVER_ADMIN_TOKEN=" + adminToken,
		"DSTACK_SERVER_LOG_FORMAT=standard",
		"DSTACK_SERVER_BACKGROUND_PROCESSING_DISABLED=1",
	}
	return e
}

// standInForKubectl answers the commands of the README, which a test with the real
// kubectl tries too, and no other.
func (e *elsewhere) standInForKubectl() {
	GinkgoHelper()
	script := "#!/bin/sh\ncase \"$*\" in\n"
	for key, path := range map[string]string{
		manifests.ArchiveKey: `{.binaryData.plugin\.tar\.gz}`, manifests.EnvKey: `{.data.server\.env}`, manifests.ConfigKey: `{.data.config\.yml}`,
	} {
		file := filepath.Join(e.dir, "bin", key)
		Expect(os.WriteFile(file, []byte(e.data[key]), 0o600)).To(Succeed())
		script += fmt.Sprintf("'-n dstack get configmap isolation-manual-main -o jsonpath=%s') cat '%s' ;;\n", path, file)
	}
	script += fmt.Sprintf(`'-n dstack get secret isolation-policy-main-token -o go-template=%[1]s={{index .data "token" | base64decode}}{{"\n"}}') echo %[1]s=%[2]s ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
`, dstack.EnvToken, policyToken)
	Expect(os.WriteFile(filepath.Join(e.dir, "bin", "kubectl"), []byte(script), 0o755)).To(Succeed())
}

// commands are the lines of the README's steps that are commands.
func (e *elsewhere) commands(steps ...string) string {
	var out strings.Builder
	step := ""
	for line := range strings.Lines(e.data[manifests.ReadmeKey]) {
		if n, _, found := strings.Cut(line, ". "); found && len(n) == 1 {
			step = n
		}
		for _, wanted := range steps {
			if command, found := strings.CutPrefix(line, "    "); found && step == wanted {
				out.WriteString(command)
			}
		}
	}
	return out.String()
}

// prepare does steps 1 to 3; there is no config.yml yet.
func (e *elsewhere) prepare(ctx context.Context) {
	GinkgoHelper()
	cmd := exec.CommandContext(ctx, "sh", "-euc", e.commands("1", "2", "3"))
	cmd.Dir, cmd.Env = e.dir, e.env
	lines, err := cmd.Output()
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(e.serverDir(), dstack.ConfigFile), append([]byte("projects: []\n"), lines...), 0o600)).To(Succeed())
}

// restart does step 4 in a shell, on a port that the test chooses.
func (e *elsewhere) restart(ctx context.Context) {
	GinkgoHelper()
	port, err := freePort()
	Expect(err).NotTo(HaveOccurred())
	e.admin = account{url: "http://127.0.0.1:" + port, token: adminToken}
	var script strings.Builder
	for command := range strings.Lines(e.commands("4")) {
		switch {
		case strings.HasPrefix(command, "docker run "):
		case command == "dstack server\n":
			script.WriteString("exec dstack server --host 127.0.0.1 --port " + port + " --no\n")
		default:
			script.WriteString(command)
		}
	}
	Expect(script.String()).To(And(ContainSubstring("server.env"), HaveSuffix("--no\n")))
	e.process, err = startProcess(e.name, e.out, e.env, "sh", "-euc", "cd '"+e.dir+"'\n"+script.String())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(e.process.kill)
	Expect(eventually(ctx, e.process, func() error {
		response, err := direct.Get(e.admin.url + "/healthcheck")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("/healthcheck answers HTTP %d", response.StatusCode)
		}
		return nil
	})).To(Succeed())
}

var _ = Describe("A dstack server elsewhere", func() {
	It("refuses what the policy denies once its administrator did what the README says", func(ctx context.Context) {
		e := newElsewhere()
		e.prepare(ctx)
		e.restart(ctx)
		Expect(e.addMembers([]string{member}, []string{research, open})).To(Succeed())
		Expect(e.out.raw(0)).To(And(
			ContainSubstring("Loaded plugin dstack_isolation"),
			ContainSubstring("asks the policy server at "+servers.forPython.address)))

		spec := run(demoRun("privileged-task"))
		got, err := e.getPlan(member, research, spec)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.status).To(Equal(http.StatusBadRequest), got.String())
		Expect(got.message()).To(HavePrefix(privileged + researchHint + " [isolation rev="))
		got, err = e.getPlan(member, open, spec)
		Expect(err).NotTo(HaveOccurred())
		expectAccepted(got)

		got, err = e.members[member].post("/api/projects/create", map[string]string{"project_name": "own"})
		Expect(err).NotTo(HaveOccurred())
		Expect(got.status).To(Equal(http.StatusForbidden), got.String())
	})
})
