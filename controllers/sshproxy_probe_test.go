package controllers_test

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/sshproxy"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// proxysSecrets are the Secrets that new pods of the SSH proxy read.
func (w *world) proxysSecrets() []string {
	GinkgoHelper()
	return workload.Secrets(&get(w, sshProxyName, &appsv1.Deployment{}).Spec.Template.Spec)
}

// closedByTheirs is a server that lets users in by its managed SSH proxy alone, with
// a token of the user's, and the process of the server.
func closedByTheirs(more ...func(*v1alpha1.ManagedSSHProxy)) (*world, *dstackServer) {
	GinkgoHelper()
	proxy := managedAt("ssh.example.com")
	proxy.Managed.TokenSecretRef = &v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"}
	for _, change := range more {
		change(proxy.Managed)
	}
	w, _, _ := closed(proxy, secretOf("ssh", "tok-old"), secretOf("ssh-2", "tok-new"))
	return w, w.processOf("tok-old")
}

// processOf replaces the process in the server's pod by one that has this token for
// its SSH proxy; "" for none.
func (w *world) processOf(sshToken string) *dstackServer {
	process := &dstackServer{release: "0.22.5", token: "admin-token", role: "admin", sshToken: sshToken}
	w.network.at("10.0.0.1:3000", w.network.listen(process))
	return process
}

// containerRestarts lets the server's container start anew in its pod.
func (w *world) containerRestarts() {
	GinkgoHelper()
	pod := get(w, "dstack-server-0", &corev1.Pod{})
	pod.Status.ContainerStatuses[0].RestartCount++
	w.setStatus(pod)
}

// patience is the reconciler's ProxyPatience where a spec is about it.
const patience = time.Minute

const open = "SSHProxyReady=False NotEnforced: a server pod knows of no SSH proxy although it was told of one, so it lets users in past it: " +
	"see that the token in its Secret was not empty when the pod started, and restart the pod"

var _ = Describe("A server process that ignores its SSH proxy", func() {
	It("is found out also while the proxy's own Secret is empty", func() {
		w, _ := closedByTheirs()
		change(w, secretIn(w, "ssh"), func(s *corev1.Secret) { s.Data["token"] = nil })
		w.containerRestarts()
		w.processOf("")
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal(open))
		Expect(w.standing("hostSSH")).To(Equal("Pending"))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=False SettingsNotRunning: "))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
	})

	It("is found out without an admin token, and when that cannot be read", func() {
		w, _ := closedByTheirs()
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.API.AdminTokenSecretRef = &v1alpha1.SecretKeyReference{Name: "missing", Key: "token"}
		})
		w.containerRestarts()
		w.processOf("")
		w.settle()
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False TokenNotFound: "))
		Expect(w.condition("SSHProxyReady")).To(Equal(open))
		Expect(w.standing("hostSSH")).To(Equal("Pending"))
	})

	It("is not forgotten while it does not answer", func() {
		w, _ := closedByTheirs()
		w.containerRestarts()
		w.processOf("")
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal(open))
		w.network.gone("10.0.0.1:3000")
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal(open))
		Expect(w.standing("hostSSH")).To(Equal("Pending"))

		By("a process that has not said anything yet enforces nothing either")
		w.restart()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False Unreachable: "))
		Expect(w.standing("hostSSH")).To(Equal("Pending"))

		By("one that has the token does")
		w.containerRestarts()
		w.processOf("tok-old")
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
		Expect(w.standing("hostSSH")).To(Equal("Enforced"))
		w.network.gone("10.0.0.1:3000")
		w.settle()
		Expect(w.standing("hostSSH")).To(Equal("Enforced"), "one that does not answer for once has not changed")
	})
})

var _ = Describe("A new token for the SSH proxy", func() {
	proxysToken := func(w *world) string {
		GinkgoHelper()
		return get(w, sshProxyName, &appsv1.Deployment{}).Spec.Template.Annotations["isolation.dstack.ai/token-id"]
	}
	changeInPlace := func(w *world) {
		GinkgoHelper()
		change(w, secretIn(w, "ssh"), func(s *corev1.Secret) { s.Data["token"] = []byte("tok-new") })
	}

	It("in the same Secret, as ExternalSecrets writes it, reaches the server first", func() {
		w, process := closedByTheirs()
		before := proxysToken(w)
		changeInPlace(w)
		w.settle()
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(proxysToken(w)).To(Equal(before))
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False TokenMismatch: the token was changed: running SSH proxies keep the earlier one " +
			"until every server pod has the new one; those pods that have it refuse logins until then"))
		process.setSSHToken("tok-old")
		w.rollSSH("ssh")
		Expect(proxysToken(w)).NotTo(Equal(before))
		w.sshProxiesUp()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	})

	It("of the operator's own is made when its Secret is deleted, and reaches the server first", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		const name = "isolation-ssh-main-token"
		policy := specOf(get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}))
		before, token, former := proxysToken(w), w.sshToken(name), w.onlyCopy(name)
		Expect(api.Client.Delete(GinkgoT().Context(), secretIn(w, name))).To(Succeed())
		w.settle()
		Expect(w.sshToken(name)).NotTo(Equal(token))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(proxysToken(w)).To(Equal(before))
		Expect(w.proxysSecrets()).To(ContainElement(former), "a proxy that starts now has the former one too")
		Expect(w.copies(name)).To(HaveLen(2))
		w.rollSSH(name)
		Expect(proxysToken(w)).NotTo(Equal(before))
		w.sshProxiesUp()
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(w.copies(name)).NotTo(ContainElement(former))
		Expect(w.proxysSecrets()).To(ContainElement(w.onlyCopy(name)))
		template := w.template()
		Expect(workload.Secrets(&template.Spec)).To(ContainElement(w.onlyCopy(name)))
		Expect(specOf(get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}))).To(MatchJSON(policy), "policy servers do not use it")
	})

	It("in an immutable Secret that replaces another under its name needs another name", func() {
		proxy := managedAt("ssh.example.com")
		proxy.Managed.TokenSecretRef = &v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"}
		frozen := func(name, token string) *corev1.Secret {
			s := secretOf(name, token)
			s.Immutable = ptr.To(true)
			return s
		}
		w, _, _ := closed(proxy, frozen("ssh", "tok-old"))
		said := w.server().Status.SSHProxy
		before, told := proxysToken(w), specOf(w.deployment())
		Expect(api.Client.Delete(GinkgoT().Context(), secretIn(w, "ssh"))).To(Succeed())
		w.create(frozen("ssh", "tok-new"))
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False TokenMismatch: Secret ssh was immutable and has been replaced: a node that runs an SSH proxy may serve the former token under this name. " +
			"Running pods keep the former token: put the new one into a Secret with another name, and set spec.sshProxy.managed.tokenSecretRef to it"))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True TokenMismatch: "))
		Expect(proxysToken(w)).To(Equal(before))
		Expect(specOf(w.deployment())).To(MatchJSON(told), "the server stays closed, and keeps the former token")
		Expect(w.server().Status.SSHProxy).To(Equal(said), "what users were told stays right")

		By("under another name")
		w.create(frozen("ssh-3", "tok-new"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy.Managed.TokenSecretRef.Name = "ssh-3" })
		w.settle()
		w.rollSSH("ssh-3")
		Expect(proxysToken(w)).NotTo(Equal(before))
		w.sshProxiesUp()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	})

	It("that a pod has not, although it was made with it, needs a restart of that pod", func() {
		w, process := closedByTheirs()
		process.setSSHToken("tok-of-before")
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False TokenMismatch: server pod dstack-server-0 has another token than Secret ssh and accepts no login. No rollout replaces it: run " +
			"kubectl -n NS rollout restart deployment/dstack-server. If it stays, put the token into a Secret with another name and set spec.sshProxy.managed.tokenSecretRef to that"))
	})

	It("of the user's lets the operator's own be forgotten, once no pod has it", func() {
		w, _, _ := closed(managedAt("ssh.example.com"), secretOf("ssh", "tok-user"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.SSHProxy.Managed.TokenSecretRef = &v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"}
		})
		former := w.sshToken("isolation-ssh-main-token")
		w.settle()
		Expect(w.proxyObjects()).To(ContainElement("Secret isolation-ssh-main-token"), "a server pod has it still")
		w.rollSSH("ssh")
		w.sshProxiesUp()
		w.settle()
		Expect(w.proxyObjects()).NotTo(ContainElement("Secret isolation-ssh-main-token"))

		By("the user's is named no more")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy.Managed.TokenSecretRef = nil })
		w.settle()
		Expect(w.sshToken("isolation-ssh-main-token")).NotTo(Equal(former))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
	})

	It("waits for approval, and the proxies follow a server that has it all the same", func() {
		w, _ := closedByTheirs()
		change(w, w.server(), onApproval)
		w.settle()
		before, told := proxysToken(w), specOf(w.deployment())
		changeInPlace(w)
		w.settle()
		Expect(specOf(w.deployment())).To(MatchJSON(told), "the change waits")
		Expect(w.pendingChange().Items).To(ContainElement(HaveField("Name", "annotation isolation.dstack.ai/ssh-token-id")))
		Expect(proxysToken(w)).To(Equal(before))

		By("the server's container starts anew, and reads the new token")
		w.containerRestarts()
		w.processOf("tok-new")
		w.pass()
		Expect(w.result.RequeueAfter).To(Equal(200 * time.Millisecond))
		w.pass()
		Expect(proxysToken(w)).NotTo(Equal(before), "nobody could log in by the earlier one any more")
		w.sshProxiesUp()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	})

	It("for a proxy elsewhere is told to the server at once", func() {
		theirs := v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{
			Address: "theirs.example.com:2222", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "theirs", Key: "token"},
		}}
		w := withSSHProxy(theirs, secretOf("theirs", "tok-theirs"), secretOf("theirs-2", "tok-more"))
		w.network.at("theirs.example.com:2222", w.network.greet(sshBanner))
		w.settle()
		w.rollSSH("theirs")

		By("it waits for approval")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			onApproval(s)
			s.Spec.SSHProxy.External.TokenSecretRef.Name = "theirs-2"
		})
		w.settle()
		const mismatch = "SSHProxyReady=False TokenMismatch: server pod dstack-server-0 has another token than Secret theirs-2 and accepts no login: waiting for its replacement"
		Expect(w.condition("SSHProxyReady")).To(Equal(mismatch + "; approve the restart in status.pendingChange"))

		By("it is told at once")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.Rollout = v1alpha1.RolloutAutomatic
			s.Spec.SSHProxy.External.TokenSecretRef.Name = "theirs"
		})
		w.settle()
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy.External.TokenSecretRef.Name = "theirs-2" })
		w.settle()
		Expect(w.template().Spec.Containers[0].Env).To(ContainElement(HaveField("ValueFrom.SecretKeyRef.Name", "theirs-2")))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(w.condition("SSHProxyReady")).To(Equal(mismatch))
		w.rollSSH("theirs-2")
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	})
})

var _ = Describe("New host keys of the SSH proxy", func() {
	const name = "isolation-ssh-main-host-keys"

	It("change what users must trust once every proxy presents them, and restart the proxies and not the server", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		said, server := w.server().Status.SSHProxy, specOf(w.deployment())
		policy := specOf(get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}))
		proxies, former := specOf(get(w, sshProxyName, &appsv1.Deployment{})), w.onlyCopy(name)
		Expect(api.Client.Delete(GinkgoT().Context(), secretIn(w, name))).To(Succeed())
		w.settle()
		Expect(specOf(get(w, sshProxyName, &appsv1.Deployment{}))).NotTo(MatchJSON(proxies))
		Expect(w.server().Status.SSHProxy).To(Equal(said), "the proxies still present it")
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False RollingOut: "))
		Expect(w.copies(name)).To(HaveLen(2))

		By("all are replaced, but one still presents the former key")
		w.sshProxiesUp()
		w.network.at("10.0.2.2:30022", w.network.sshServer(sshBanner, get(w, former, &corev1.Secret{}).Data["host-keys"]))
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(MatchRegexp(
			`^SSHProxyReady=False HostKeyMismatch: an SSH proxy presents host key SHA256:\S+ instead of SHA256:\S+ of Secret isolation-ssh-main-host-keys: run kubectl -n NS rollout restart deployment/isolation-ssh-main$`))
		Expect(w.server().Status.SSHProxy).To(Equal(said))
		Expect(w.events()).To(ContainElement(HavePrefix("Warning HostKeyMismatch SSHProxyReady is False: ")))

		By("all present the new one")
		w.sshProxiesUp()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
		Expect(w.server().Status.SSHProxy.Fingerprints).NotTo(Equal(said.Fingerprints))
		Expect(w.server().Status.SSHProxy.KnownHosts).To(HaveLen(1))
		Expect(w.copies(name)).NotTo(ContainElement(former))
		Expect(specOf(w.deployment())).To(MatchJSON(server))
		Expect(specOf(get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}))).To(MatchJSON(policy))
		for _, text := range append(w.events(), specAndStatus(w.server())) {
			Expect(text).NotTo(ContainSubstring("PRIVATE KEY"))
		}
	})

	It("that no proxy presents are not published, nor are former ones that none does", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		told := specOf(w.deployment())
		for i := range sshReplicas {
			w.network.at(fmt.Sprintf("10.0.2.%d:30022", i+1), w.network.greet(sshBanner))
		}
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False HostKeyMismatch: "))
		Expect(w.server().Status.SSHProxy).To(Equal(&v1alpha1.SSHProxyStatus{Address: "ssh.example.com:22"}))
		Expect(specOf(w.deployment())).To(MatchJSON(told), "the server stays closed")
		w.sshProxiesUp()
		w.settle()
		Expect(w.server().Status.SSHProxy.KnownHosts).To(HaveLen(1))
	})

	It("of the user's that a proxy does not present may need another name", func() {
		key, err := sshproxy.NewHostKey()
		Expect(err).NotTo(HaveOccurred())
		theirs := &corev1.Secret{Data: map[string][]byte{"keys": key}}
		theirs.Name = "theirs"
		proxy := managedAt("ssh.example.com")
		proxy.Managed.HostKeysSecretRef = &v1alpha1.SecretKeyReference{Name: "theirs", Key: "keys"}
		w, _, _ := closed(proxy, theirs)
		w.network.at("10.0.2.2:30022", w.network.greet(sshBanner))
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HaveSuffix(" of Secret theirs: run kubectl -n NS rollout restart deployment/isolation-ssh-main. " +
			"If it stays, put the keys into a Secret with another name and set spec.sshProxy.managed.hostKeysSecretRef to that"))
	})
})

var _ = Describe("The first injection", func() {
	withPatience := func() *world {
		GinkgoHelper()
		w := stock(testkit.MakeServer("main").SSHProxy(managedAt("ssh.example.com")), testkit.MakeServerPod().Data(),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())
		w.config.ProxyPatience = patience
		w.restart()
		w.pass()
		w.policyServersUp()
		w.pass()
		w.pass()
		return w
	}

	It("tells the server of the policy server and of the SSH proxy in one restart", func() {
		w := withPatience()
		before := w.deployment().Generation
		Expect(w.injected()).To(BeFalse())
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False WaitingForSSHProxy: the server is told of the policy server and of the SSH proxy in one restart; " +
			"if the proxy does not answer within 1m0s, of the policy server first"))
		w.after(patience - left)
		w.wakesInTime()
		Expect(w.injected()).To(BeFalse())
		w.sshProxiesUp()
		w.settle()
		Expect(w.injected()).To(BeTrue())
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(w.deployment().Generation).To(Equal(before + 1))
	})

	It("does not wait longer than that, because the plugin must not be kept out", func() {
		w := withPatience()
		w.clock.SetTime(w.clock.Now().Add(patience))
		w.pass()
		Expect(w.injected()).To(BeTrue())
		Expect(w.toldOfSSH()).To(BeEmpty())
	})

	It("does not wait for a proxy that somebody must mend first", func() {
		w := stock(testkit.MakeServer("main").SSHProxy(v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{
			Address: "ssh.example.com", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "missing", Key: "token"},
		}}), testkit.MakeServerPod().Data(), testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())
		w.config.ProxyPatience = patience
		w.restart()
		w.pass()
		w.policyServersUp()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False SecretInvalid: "))
		Expect(w.injected()).To(BeTrue())
	})

	It("is to be approved together with the proxy", func() {
		w := stock(testkit.MakeServer("main").SSHProxy(managedAt("ssh.example.com")), testkit.MakeServerPod().Data(),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())
		w.config.ProxyPatience = patience
		w.restart()
		change(w, w.server(), onApproval)
		w.pass()
		w.policyServersUp()
		w.settle()
		Expect(w.pendingChange()).To(BeNil())
		w.sshProxiesUp()
		w.settle()
		Expect(w.pendingChange().Items).To(ContainElements(HaveField("Name", sshVariables[2]), HaveField("Name", "volume dstack-isolation-plugin")))
	})
})
