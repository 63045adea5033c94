//go:build e2e

package e2e

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
)

const (
	// standIn is the image that the demo loads in place of dstack's.
	standIn = "dstack-sshproxy-standin:dev"
	// sshName is the name by which users know the proxy.
	sshName = "ssh.example.com"
)

// collector is a pod with the labels of the server's, as a job may have them, that
// answers and tells what tokens it is sent.
const collector = `apiVersion: v1
kind: Pod
metadata:
  name: train-0-0
  labels: {app: dstack-server}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
  - name: train-0-0-container
    image: dstack-server:0.22.5
    imagePullPolicy: IfNotPresent
    command: [python3, -u, -c]
    args:
    - |
      import http.server
      class Collector(http.server.BaseHTTPRequestHandler):
          def answer(self):
              if self.headers.get("Authorization"):
                  print(self.path, "authorization:", self.headers["Authorization"])
              self.send_response(200)
              self.end_headers()
          do_GET = do_POST = answer
      http.server.ThreadingHTTPServer(("", 3000), Collector).serve_forever()
    ports: [{name: http, containerPort: 3000}]
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
`

var _ = Describe("A server with an SSH proxy", Ordered, ContinueOnFailure, Label("settings"), func() {
	s := &site{}
	managed := &v1alpha1.ManagedSSHProxy{
		Image: standIn, Address: sshName, TerminationGracePeriodSeconds: 10,
		Service: v1alpha1.SSHProxyService{Type: v1alpha1.SSHProxyClusterIP},
	}
	BeforeAll(func() {
		*s = *ownSite("e2e-ssh", "config/samples/dstack-server")
		s.sshProxy = &v1alpha1.SSHProxy{Managed: managed}
		s.create()
		s.serve()
	})
	s.watchOver()

	It("is told of the proxy at one stroke, once that answers, and not before", func() {
		held := always(100*time.Millisecond, s.toldOfHalfAProxy)
		broken := *managed
		broken.Image = "dstack-sshproxy-missing:none"
		s.sshProxy = &v1alpha1.SSHProxy{Managed: &broken}
		s.applySamples()
		Eventually(s.serverCondition(v1alpha1.ConditionSettingsApplied)).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).
			Should(HavePrefix("False/WaitingForSSHProxy: "))
		Eventually(func() []corev1.EnvVar { return template(s.workload()).Spec.Containers[0].Env }).WithTimeout(readyTimeout).
			Should(ContainElement(HaveField("Name", dstack.EnvPolicyURL)), "a proxy that does not come must not keep the plugin out")
		s.rolledOut()
		Expect(s.serverCondition(v1alpha1.ConditionSSHProxyReady)()).To(HavePrefix("False/"))
		Expect(s.told()).To(BeEmpty())

		By("mending the image")
		s.sshProxy = &v1alpha1.SSHProxy{Managed: managed}
		s.applySamples()
		By("killing the manager when the server has just been told")
		Eventually(func() []string { return toldOf(&template(s.workload()).Spec) }).WithTimeout(readyTimeout).WithPolling(50 * time.Millisecond).
			Should(ConsistOf(sshVariables))
		s.killManager()
		s.waitReady("main")
		Expect(s.told()).To(ConsistOf(sshVariables))
		held.expectHeld("no server pod is told of half a proxy, or of one that does not answer")
		s.expectIsolated()
		Expect(s.sshStanding()).To(Equal("Enforced"))
	})

	It("lets a user's client in by the same host key before, during and after a rolling restart", func() {
		s.isolate()
		status := s.dstackServer(Default, "main").Status.SSHProxy
		Expect(status.Address).To(Equal(sshName + ":22"))
		Expect(status.Fingerprints).To(HaveLen(1))
		c := newSSHClient(s.service("isolation-ssh-main")+":22", status.Address, status.KnownHosts)
		Expect(c.login()).To(Succeed())
		held := always(200*time.Millisecond, c.wrong)
		server := s.serverPod().UID
		session := openSession(c.at)
		s.kubectl("rollout", "restart", "deployment/isolation-ssh-main")
		var told time.Time
		Eventually(func(g Gomega) {
			pods, err := s.allPods(proxyPods)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })).To(BeTrue())
			told = time.Now()
		}).WithTimeout(time.Minute).WithPolling(50 * time.Millisecond).Should(Succeed())
		s.kubectl("rollout", "status", "deployment/isolation-ssh-main", "--timeout=180s")
		Eventually(func() ([]corev1.Pod, error) { return s.allPods(proxyPods) }).WithTimeout(time.Minute).Should(
			HaveLen(3), "the pods that were replaced must be gone")
		held.expectHeld("a user's client meets the proxy with its one host key at all times")
		Expect(session.ended()).To(BeTemporally(">=", told.Add(4*time.Second)), "sessions have the time that the spec gives them, but for its last five seconds")
		Expect(s.dstackServer(Default, "main").Status.SSHProxy).To(Equal(status))
		Expect(s.serverPod().UID).To(Equal(server), "the server must not restart for it")
	})

	It("sends no token to a pod that only has the server's labels, and says so until that is gone", func() {
		s.isolate()
		status := s.dstackServer(Default, "main").Status.SSHProxy
		c := newSSHClient(s.service("isolation-ssh-main")+":22", status.Address, status.KnownHosts)
		s.apply(collector)
		DeferCleanup(func() { s.kubectl("delete", "pod", "train-0-0", "--ignore-not-found", "--timeout=60s") })
		s.kubectl("wait", "--for=condition=Ready", "pod/train-0-0", "--timeout=60s")
		Eventually(s.serverCondition(v1alpha1.ConditionPodsOwned)).WithTimeout(soon).Should(HavePrefix(
			"False/ForeignPods: 1 pod with the labels of Deployment e2e-ssh/dstack-server is not its own: train-0-0 (no controller)."))

		By("having the manager and the SSH proxy ask the server")
		s.kubectl("annotate", "--overwrite", "dstackserver", "main", "e2e/look=again")
		for range 10 {
			Expect(c.login()).To(Succeed(), "the SSH proxy must ask the server's own pod")
		}
		Eventually(s.serverCondition(v1alpha1.ConditionConnected)).WithTimeout(soon).Should(HavePrefix("True/Connected: all 1 server pods answer"))
		Expect(s.dstackServer(Default, "main").Status.Running.Pods).To(BeEquivalentTo(1))
		Expect(s.serverCondition(v1alpha1.ConditionReady)()).To(HavePrefix("False/ForeignPods: "))

		By("looking at what the pod was sent, with a token of this test's as the last")
		ip := s.kubectl("get", "pod", "train-0-0", "-o", "jsonpath={.status.podIP}")
		code, _ := call("http://"+ip+":3000/api/server/get_info", "of-this-test", "{}")
		Expect(code).To(Equal(200))
		sent := s.kubectl("logs", "train-0-0")
		Expect(sent).To(ContainSubstring("authorization: Bearer of-this-test"))
		Expect(strings.Count(sent, "authorization: ")).To(Equal(1), "it must get no token of anybody else's")

		By("deleting it")
		s.kubectl("delete", "pod", "train-0-0", "--timeout=60s")
		s.waitReady("main")
	})

	It("stays closed when the proxy is lost, and says so", func() {
		s.isolate()
		server := s.serverPod()
		By("letting no pod start any more, and killing those of the proxy")
		s.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: \"0\"}}\n")
		DeferCleanup(func() { s.kubectl("delete", "resourcequota", "none", "--ignore-not-found") })
		Eventually(func() string {
			return s.kubectl("get", "resourcequota", "none", "-o", "jsonpath={.status.hard.pods}")
		}).WithTimeout(soon).Should(Equal("0"))
		s.kubectl("delete", "pods", "-l", "app.kubernetes.io/component=ssh-proxy", "--force", "--grace-period=0")
		Eventually(s.serverCondition(v1alpha1.ConditionSSHProxyReady)).WithTimeout(2 * time.Minute).Should(HavePrefix("False/"))
		Eventually(s.conditionMetrics).WithTimeout(soon).Should(ContainElement(MatchRegexp(
			`^dstack_isolation_condition\{kind="DstackServer",name="main",reason="Unreachable",status="False",type="SSHProxyReady"\} 1$`)))
		Consistently(func(g Gomega) {
			g.Expect(s.told()).To(ConsistOf(sshVariables))
			g.Expect(s.serverPod().UID).To(Equal(server.UID))
		}).WithTimeout(10 * time.Second).WithPolling(time.Second).Should(Succeed())

		By("letting pods start again")
		s.kubectl("delete", "resourcequota", "none")
		s.kubectl("rollout", "restart", "deployment/isolation-ssh-main")
		s.waitReady("main")
		Expect(s.serverPod().UID).To(Equal(server.UID), "the server must not restart for it")
	})

	rotationSpecs(s)

	It("follows a token of the user's, the server first", func() {
		s.isolate()
		s.kubectl("create", "secret", "generic", "users-token", "--from-literal=token="+rand.Text())
		held := always(100*time.Millisecond, func() string { return s.proxyAhead("users-token") })
		answers := always(200*time.Millisecond, s.noProxyAnswers)
		rotated := *managed
		rotated.TokenSecretRef = &v1alpha1.SecretKeyReference{Name: "users-token", Key: "token"}
		s.sshProxy = &v1alpha1.SSHProxy{Managed: &rotated}
		s.applySamples()
		s.waitReady("main")
		held.expectHeld("no proxy has the new token while a server pod has the old one")
		answers.expectHeld("the proxy answers at all times")
		Expect(tokenSecret(&s.serverPod().Spec)).To(Equal("users-token"))
	})

	It("is given back, the proxy last", func() {
		s.sshProxy = &v1alpha1.SSHProxy{Managed: managed} // With a token of the operator's own again.
		s.isolate()
		config := s.configFile()
		held := always(100*time.Millisecond, s.reliesOnNoProxy)
		secrets := always(100*time.Millisecond, s.proxyWithoutSecrets)
		s.kubectl("delete", "dstackserver", "main", "--timeout=180s")
		s.expectGivenBack("main", config)
		held.expectHeld("the proxy is there as long as a server pod relies on it")
		secrets.expectHeld("its Secrets and its Service are there as long as a pod of it is")
	})

	It("uses a proxy that runs elsewhere", func() {
		token := rand.Text()
		s.kubectl("create", "secret", "generic", "theirs", "--from-literal=token="+token)
		s.apply(usersProxy(token, s.service("dstack-server")))
		Eventually(func() bool { return greets(s.service("theirs") + ":2222") }).WithTimeout(time.Minute).Should(BeTrue())
		s.sshProxy = &v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{
			Address:        v1alpha1.SSHProxyAddress(s.service("theirs") + ":2222"),
			TokenSecretRef: v1alpha1.SecretKeyReference{Name: "theirs", Key: "token"},
		}}
		s.isolate()
		Expect(s.told()).To(ConsistOf(sshVariables))
		Expect(s.children("main")).NotTo(ContainElement(ContainSubstring("isolation-ssh")))
		Expect(s.sshStanding()).To(Equal("Enforced"))
		s.releaseAll()
		Expect(s.kubectl("get", "secret", "theirs", "-o", "name")).To(ContainSubstring("theirs"), "what is the user's stays")
	})

	It("follows a manifest that the user keeps, and writes nothing", func() {
		s.sshProxy = &v1alpha1.SSHProxy{Managed: managed}
		s.apply(strings.Replace(s.sample("dstackserver.yaml"), "spec:\n", "spec:\n  injection: Manual\n", 1))
		s.apply(s.sample("isolationprofile.yaml"))
		generation := s.workload().GetGeneration()
		Eventually(func(g Gomega) {
			g.Expect(s.serverCondition(v1alpha1.ConditionSettingsApplied)()).To(HavePrefix("False/ManualStepNeeded: "))
			g.Expect(s.serverCondition(v1alpha1.ConditionSSHProxyReady)()).To(HavePrefix("True/"))
		}).WithTimeout(readyTimeout).Should(Succeed())
		Expect(s.workload().GetGeneration()).To(Equal(generation), "nothing may be written")
		patch := s.kubectl("get", "configmap", manifests.ManualName("main"), "-o", `jsonpath={.data.patch\.yaml}`)
		Expect(patch).To(ContainSubstring(dstack.EnvServerSSHProxyEnforced))
		s.apply(s.patched(patch))
		s.waitReady("main")
		s.expectIsolated()
		Expect(s.told()).To(ConsistOf(sshVariables))
		for _, f := range s.workload().GetManagedFields() {
			Expect(f.Manager).NotTo(HavePrefix("dstack-isolation"), "the operator must own nothing in the workload")
		}

		By("taking it out of the manifest again")
		config := s.configFile()
		s.apply(s.manifest)
		Eventually(s.serverCondition(v1alpha1.ConditionSettingsApplied)).WithTimeout(readyTimeout).Should(HavePrefix("False/ManualStepNeeded: "))
		Eventually(func() string { return condition(s.profile("research").Status.Conditions, v1alpha1.ConditionReady) }).
			WithTimeout(soon).Should(HavePrefix("False/"), "a profile that nothing enforces is not ready")
		s.kubectl("delete", "dstackserver", "main", "--timeout=180s")
		s.expectGivenBack("main", config)
	})

	It("is told of it again at once after a rollback", func() {
		s.sshProxy = &v1alpha1.SSHProxy{Managed: managed}
		s.isolate()
		s.kubectl("rollout", "undo", "deployment/dstack-server")
		Eventually(s.serverCondition(v1alpha1.ConditionSettingsApplied)).WithTimeout(soon).WithPolling(50 * time.Millisecond).
			Should(HavePrefix("False/RemovedBy: "))
		s.waitReady("main")
		Expect(s.told()).To(ConsistOf(sshVariables))
		last := s.dstackServer(Default, "main").Status.LastRemoval
		Expect(last.RestoredAt).NotTo(BeNil())
		Expect(last.Runs).NotTo(BeNil(), "the server must be asked for the runs of the gap")
		s.expectIsolated()
		config := s.configFile()
		s.kubectl("delete", "dstackserver", "main", "--timeout=180s")
		s.expectGivenBack("main", config)
	})

	It("has not made the operator's processes restart, or tell a secret", func() {
		s.sshProxy = &v1alpha1.SSHProxy{Managed: managed}
		s.isolate()
		s.expectNoRestarts()
		secrets := []string{
			string(s.secret("isolation-ssh-main-token", "token")), string(s.secret("isolation-policy-main-token", "token")),
			string(s.secret("isolation-seal-main", "key")), string(s.secret("dstack-admin", "token")), strings.Split(string(s.secret("isolation-ssh-main-host-keys", "host-keys")), "\n")[1],
		}
		log := s.kubectl("logs", "-l", "app.kubernetes.io/name=dstack-isolation", "--tail=-1", "--prefix", "--max-log-requests=20")
		Expect(log).NotTo(BeEmpty())
		texts := []string{log, s.kubectl("get", "events,dstackservers,isolationprofiles,configmaps", "-o", "yaml")}
		for _, secret := range secrets {
			Expect(len(secret)).To(BeNumerically(">", 10))
			for _, text := range texts {
				Expect(strings.Contains(text, secret)).To(BeFalse(), "a secret was told")
			}
		}
	})

	It("is given back by helm uninstall, the proxy with it", func() {
		s.sshProxy = &v1alpha1.SSHProxy{Managed: managed}
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		held := always(100*time.Millisecond, s.reliesOnNoProxy)
		s.helmUninstall()
		s.expectUninstalled(config)
		held.expectHeld("the proxy is there as long as a server pod relies on it")
		p.expectNoRefusal()
	})
})
