package controllers_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// plainly is a server elsewhere whose API the tests can play, which is http.
func plainly() *testkit.Server {
	return testkit.MakeServer("main").Elsewhere().With(func(s *v1alpha1.DstackServerSpec) { s.API.URL = "http://dstack.example.com" })
}

// answersElsewhere lets a process answer at the URL.
func (w *world) answersElsewhere() *dstackServer {
	process := &dstackServer{release: "0.22.5", token: "admin-token", role: "admin"}
	w.network.at("dstack.example.com:80", w.network.listen(process))
	return process
}

// shown is what the ConfigMap shows.
func (w *world) shown() map[string]string {
	GinkgoHelper()
	return get(w, manifests.ManualName("main"), &corev1.ConfigMap{}).Data
}

var _ = Describe("A dstack server elsewhere", func() {
	ctx := context.Background()

	It("is asked at its URL and told what it needs, and what it runs with is never said to be seen", func() {
		w := newWorld(plainly().AdminToken("dstack-admin", "token").Obj(),
			secretOf("dstack-admin", "admin-token"),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())

		By("no policy server is ready, and nobody answers at the URL")
		w.pass()
		w.expectStatus("elsewhere-starting")
		Expect(w.result.RequeueAfter).To(Equal(10 * time.Second))

		By("they are, and one does")
		w.policyServersUp()
		process := w.answersElsewhere()
		w.settle()
		w.expectStatus("elsewhere")
		w.expectProfile(w.profile("research"), "elsewhere-profile")
		Expect(w.result.RequeueAfter).To(Equal(time.Minute), "nothing else tells of a change there")
		writes := w.countWrites()
		w.pass()
		*writes = 0
		w.pass()
		Expect(*writes).To(BeZero(), "an idle pass writes nothing")

		By("no plugin is kept for pods, and the policy server's port is open")
		Expect(w.gone(named(w, manifests.PluginConfigMapName("main", plugin), &corev1.ConfigMap{}))).To(BeTrue())

		By("its token is another one")
		process.mu.Lock()
		process.token = "other"
		process.mu.Unlock()
		w.pass()
		Expect(w.condition("Connected")).To(Equal("Connected=False TokenRejected: the dstack server at spec.api.url does not take the admin token for that of a global administrator: mend the Secret that spec.api.adminTokenSecretRef names"))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=False TokenRejected: "))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True TokenRejected: "))

		By("its release is too old")
		w.network.at("dstack.example.com:80", w.network.listen(&dstackServer{release: "0.18.0", token: "admin-token", role: "admin"}))
		w.pass()
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False UnsupportedRelease: "))
	})

	It("gets another revision when profiles ask for other settings", func() {
		w := newWorld(plainly().Obj())
		w.pass()
		w.policyServersUp()
		w.answersElsewhere()
		w.settle()
		before := w.shown()
		Expect(before[manifests.EnvKey]).NotTo(ContainSubstring(dstack.EnvJobNetworkMode))
		Expect(w.condition("SettingsApplied")).To(ContainSubstring("put settings revision " + before[manifests.RevisionKey] + " in place"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.UnmatchedProjects.Level = v1alpha1.LevelRestricted })
		w.pass()
		after := w.shown()
		Expect(after[manifests.EnvKey]).To(ContainSubstring("\n" + dstack.EnvServer))
		Expect(after[manifests.EnvKey]).To(HavePrefix(dstack.EnvJobNetworkMode + "=3\n"))
		Expect(after[manifests.RevisionKey]).NotTo(Equal(before[manifests.RevisionKey]))
		Expect(w.condition("SettingsApplied")).To(ContainSubstring("put settings revision " + after[manifests.RevisionKey] + " in place"))
	})

	It("has what it needs after the commands of the README, as they stand", func() {
		w := newWorld(plainly().SSHProxy(v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{
			Address: "ssh.example.com:2222", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "dstack-ssh", Key: "token"},
		}}).Obj(),
			secretOf("dstack-ssh", `a$b"c'd\e`))
		w.network.at("ssh.example.com:2222", w.network.greet(sshBanner))
		w.pass()
		w.policyServersUp()
		w.settle()

		dir := GinkgoT().TempDir()
		out := w.follow(dir, w.shown()[manifests.ReadmeKey], "docker run", "while IFS", "dstack server")
		Expect(out).To(Equal("plugins: [dstack_isolation]\n"))
		Expect(os.ReadFile(filepath.Join(dir, "opt", "dstack_isolation", "__init__.py"))).To(Equal([]byte("# plugin")))
		env, err := os.ReadFile(filepath.Join(dir, "server.env"))
		Expect(err).NotTo(HaveOccurred())
		var lines []string
		for line := range strings.Lines(string(env)) {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, strings.TrimSuffix(line, "\n"))
			}
		}
		Expect(lines).To(ConsistOf(
			"DSTACK_SERVER_SSHPROXY_ADDRESS=ssh.example.com:2222", `DSTACK_SSHPROXY_API_TOKEN=a$b"c'd\e`,
			"DSTACK_ISOLATION_POLICY_URL=https://policy.example.com", "DSTACK_ISOLATION_SERVER="+w.ns+"/main",
			"DSTACK_ISOLATION_TOKEN="+w.token(), "PYTHONPATH=/opt/dstack-isolation"))
		info, err := os.Stat(filepath.Join(dir, "server.env"))
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
		for key, text := range w.shown() {
			Expect(text).NotTo(ContainSubstring(w.token()), key)
			Expect(text).NotTo(ContainSubstring(`a$b"c'd\e`), key)
		}
	})

	It("is told of the SSH proxy once that answers, and no less when it does not", func() {
		w := newWorld(plainly().SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}}).Obj(), testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())
		w.pass()
		w.policyServersUp()
		process := w.answersElsewhere()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False RollingOut: "))
		Expect(w.shown()[manifests.EnvKey]).NotTo(ContainSubstring(dstack.EnvServerSSHProxyAddress + "="))
		proxy := get(w, sshProxyName, &appsv1.Deployment{})
		Expect(proxy.Spec.Template.Spec.Containers[0].Env).To(ContainElement(corev1.EnvVar{Name: dstack.EnvSSHProxyAPIURL, Value: "http://dstack.example.com"}))
		Expect(w.gone(named(w, manifests.ServerServiceName("main"), &corev1.Service{}))).To(BeTrue(), "there are no pods to lead to")

		By("it answers, and the server does not know of it yet")
		w.sshProxiesUp()
		w.settle()
		told := w.shown()
		Expect(told[manifests.EnvKey]).To(ContainSubstring(dstack.EnvServerSSHProxyAddress + "=ssh.example.com:22\n" + dstack.EnvServerSSHProxyEnforced + "=1\n"))
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False NotEnforced: a process of the dstack server knows of no SSH proxy, so it lets users in past it: put in place what ConfigMap isolation-manual-main shows, on every process"))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True NotEnforced: "))

		By("the server has another token")
		process.setSSHToken("other")
		w.pass()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False TokenMismatch: a process of the dstack server has another token than the SSH proxy, so that it lets nobody in: put in place what ConfigMap isolation-manual-main shows, on every process"))

		By("the server has its token")
		process.setSSHToken(w.sshToken("isolation-ssh-main-token"))
		w.settle()
		w.expectStatus("elsewhere-with-ssh-proxy")
		w.expectProfile(w.profile("research"), "elsewhere-profile-with-ssh-proxy")

		By("the proxy is gone")
		w.sshProxiesDown()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False RollingOut: "))
		Expect(w.shown()).To(Equal(told))

		By("its host keys cannot be read")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.SSHProxy.Managed.HostKeysSecretRef = &v1alpha1.SecretKeyReference{Name: "nowhere", Key: "keys"}
		})
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False SecretInvalid: "))
		Expect(w.shown()).To(Equal(told))
		Expect(w.condition("SettingsApplied")).To(ContainSubstring("put settings revision " + told[manifests.RevisionKey] + " in place"))

		By("it is not wanted any more")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy = nil })
		w.settle()
		Expect(w.shown()[manifests.EnvKey]).NotTo(ContainSubstring("SSHPROXY"))
		Expect(w.gone(named(w, sshProxyName, &appsv1.Deployment{}))).To(BeTrue())
	})

	It("belongs to the oldest DstackServer that names its URL, however it is written", func() {
		w := newWorld(plainly().Obj())
		youngerThan(w.server())
		w.create(testkit.MakeServer("another").Elsewhere().With(func(s *v1alpha1.DstackServerSpec) { s.API.URL = "http://DSTACK.example.com:80" }).Obj(),
			testkit.MakeServer("third").Elsewhere().With(func(s *v1alpha1.DstackServerSpec) { s.API.URL = "https://dstack.example.com:80" }).Obj())
		w.pass()
		Expect(w.condition("Accepted")).To(Equal("Accepted=True Accepted: the dstack server runs elsewhere, at http://dstack.example.com"))
		Expect(w.try("another")).To(Succeed())
		Expect(w.conditionOf(w.serverNamed("another"), "Accepted")).To(Equal("Accepted=False WorkloadClaimed: the dstack server at http://DSTACK.example.com:80 belongs to DstackServer main, which is older: delete one of the two"))
		Expect(w.try("third")).To(Succeed())
		Expect(w.conditionOf(w.serverNamed("third"), "Accepted")).To(HavePrefix("Accepted=True "))
	})

	It("keeps nothing when its DstackServer is deleted, and an event says what that means there", func() {
		w := newWorld(plainly().SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}}).Obj())
		w.pass()
		w.policyServersUp()
		w.answersElsewhere()
		w.settle()
		w.events()
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(apierrors.IsNotFound(api.Client.Get(ctx, w.key("main"), &v1alpha1.DstackServer{}))).To(BeTrue())
		w.nothingLeft()
		Expect(w.gone(named(w, sshProxyName, &appsv1.Deployment{}))).To(BeTrue())
		Expect(w.gone(named(w, manifests.ManualName("main"), &corev1.ConfigMap{}))).To(BeTrue())
		Expect(w.events()).To(Equal([]string{"Warning Releasing the policy servers are deleted: a process of the dstack server at http://dstack.example.com that still has the plugin refuses every run until it is taken out there"}))
	})

	It("is left behind by a cleanup, whose status says what that means there", func() {
		w := newWorld(plainly().Obj(), testkit.MakeProfile("research").Obj())
		w.pass()
		w.policyServersUp()
		w.settle()
		Expect(w.cleanup(10*time.Second, "")).To(Succeed())
		w.nothingLeft()
		Expect(w.server().Finalizers).To(BeEmpty())
		const left = "waiting for an operator: the last one was uninstalled with its policy servers, so a process of the dstack server at http://dstack.example.com that still has the plugin refuses every run, and any other refuses nothing"
		Expect(w.condition("Ready")).To(Equal("Ready=Unknown Pending: " + left))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HaveSuffix(left))
	})

	It("gets no token by a redirect", func() {
		w := newWorld(plainly().AdminToken("dstack-admin", "token").Obj(),
			secretOf("dstack-admin", "admin-token"))
		w.network.at("dstack.example.com:80", w.network.listen(http.RedirectHandler("http://evil.example.com", http.StatusTemporaryRedirect)))
		asked := false
		w.network.at("evil.example.com:80", w.network.listen(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true })))
		w.pass()
		Expect(w.condition("Connected")).To(Equal("Connected=False Unreachable: the dstack server at spec.api.url does not answer its API: answered with status 307"))
		Expect(asked).To(BeFalse())
	})
})

// follow runs the commands of a README with the real kubectl, in a folder in
// place of the machine's, but for those that begin otherwise, and returns what they
// print.
func (w *world) follow(dir, readme string, but ...string) string {
	GinkgoHelper()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	Expect(clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: "https://" + strings.TrimPrefix(api.Config.Host, "https://"), CertificateAuthorityData: api.Config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: api.Config.CertData, ClientKeyData: api.Config.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "c",
	}, kubeconfig)).To(Succeed())
	script := "set -eu\n"
	for line := range strings.Lines(readme) {
		command, isCommand := strings.CutPrefix(line, "    ")
		for _, other := range but {
			isCommand = isCommand && !strings.HasPrefix(command, other)
		}
		if isCommand {
			script += strings.ReplaceAll(command, manifests.PluginDir, filepath.Join(dir, "opt"))
		}
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("KUBEBUILDER_ASSETS") + ":/usr/bin:/bin", "HOME=" + dir, "KUBECONFIG=" + kubeconfig}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	Expect(err).NotTo(HaveOccurred(), script+stderr.String())
	return string(out)
}
