package controllers_test

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// copies are the copies of a Secret that there are.
func (w *world) copies(of string) (names []string) {
	GinkgoHelper()
	var all corev1.SecretList
	Expect(api.Client.List(context.Background(), &all, client.InNamespace(w.ns))).To(Succeed())
	for i := range all.Items {
		if workload.IsSecretCopy(all.Items[i].Name, of) {
			names = append(names, all.Items[i].Name)
		}
	}
	return names
}

// onlyCopy is the one copy of a Secret.
func (w *world) onlyCopy(of string) string {
	GinkgoHelper()
	Expect(w.copies(of)).To(HaveLen(1))
	return w.copies(of)[0]
}

// policyTokens are the Secrets whose tokens the policy servers accept, the current one
// first.
func (w *world) policyTokens() []string {
	GinkgoHelper()
	pod := get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}).Spec.Template.Spec
	current := pod.Volumes[0].Secret.SecretName
	return append([]string{current}, slices.DeleteFunc(workload.Secrets(&pod), func(name string) bool { return name == current })...)
}

// serversToken is the Secret from which new server pods take the policy server's token.
func (w *world) serversToken() string {
	GinkgoHelper()
	template := w.template()
	return workload.Item(&template.Spec.Containers[0], dstack.EnvToken).ValueFrom.SecretKeyRef.Name
}

var _ = Describe("The policy server's token", func() {
	ctx := context.Background()
	secret := func(w *world) *corev1.Secret {
		GinkgoHelper()
		return get(w, manifests.TokenSecretName("main"), &corev1.Secret{})
	}

	It("is made once, and pods read a copy of it", func() {
		w := usual()
		w.pass()
		made := secret(w)
		Expect(len(made.Data[manifests.TokenKey])).To(BeNumerically(">=", 26))
		Expect(made.Immutable).To(BeNil(), "it may be changed")
		copied := get(w, w.onlyCopy(manifests.TokenSecretName("main")), &corev1.Secret{})
		Expect(copied.Data).To(Equal(made.Data))
		Expect(copied.Immutable).To(HaveValue(BeTrue()), "its name says what is in it")
		w.pass()
		w.restart()
		w.pass()
		Expect(secret(w)).To(Equal(made))

		other := usual()
		other.pass()
		Expect(secret(other).Data).NotTo(Equal(made.Data), "no two servers share one")
	})

	It("that is deleted is made anew, and reaches every process with none refused in between", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		name, proxies := manifests.TokenSecretName("main"), specOf(get(w, sshProxyName, &appsv1.Deployment{}))
		before, former := w.token(), w.onlyCopy(name)
		Expect(w.policyTokens()).To(Equal([]string{former}))
		Expect(w.serversToken()).To(Equal(former))

		Expect(api.Client.Delete(ctx, secret(w))).To(Succeed())
		w.settle()
		Expect(w.token()).NotTo(Equal(before))
		Expect(w.copies(name)).To(HaveLen(2), "server pods still read the former one")
		Expect(w.policyTokens()).To(HaveLen(2))
		Expect(w.policyTokens()[1]).To(Equal(former), "policy servers accept both")
		Expect(w.serversToken()).To(Equal(former), "not before every policy server accepts the new one")

		By("every policy server accepts it")
		w.policyServersUp()
		w.settle()
		Expect(w.serversToken()).To(Equal(w.policyTokens()[0]))
		Expect(w.template().Annotations[manifests.AnnotationTokenID]).To(Equal(strings.TrimPrefix(w.serversToken(), name+"-")))
		Expect(w.template().Annotations[manifests.AnnotationTokenID]).NotTo(ContainSubstring(w.token()[:8]))
		Expect(w.policyTokens()).To(HaveLen(2), "a server pod still presents the former one")

		By("every server pod has it")
		w.rollSSH("isolation-ssh-main-token")
		w.settle()
		Expect(w.policyTokens()).To(Equal([]string{w.serversToken()}), "the former one is refused from now on")
		Expect(w.copies(name)).To(HaveLen(2), "a policy server may still be there that reads the former one")
		w.policyServersUp()
		w.settle()
		Expect(w.copies(name)).To(Equal([]string{w.serversToken()}))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(specOf(get(w, sshProxyName, &appsv1.Deployment{}))).To(MatchJSON(proxies), "the SSH proxy does not use it")
		Expect(get(w, manifests.SealSecretName("main"), &corev1.Secret{}).Annotations[manifests.AnnotationCopies]).NotTo(ContainSubstring(former))
	})

	It("that is changed in place, or was made by an earlier build, is followed too", func() {
		w := usual()
		w.bringUp()
		name, former := manifests.TokenSecretName("main"), w.serversToken()
		frozen := secret(w)
		change(w, frozen, func(s *corev1.Secret) { s.Immutable = ptr.To(true) })
		Expect(api.Client.Delete(ctx, frozen)).To(Succeed())
		w.settle()
		w.policyServersUp()
		w.settle()
		Expect(w.serversToken()).NotTo(Equal(former))

		change(w, secret(w), func(s *corev1.Secret) { s.Data[manifests.TokenKey] = []byte("by-hand") })
		w.settle()
		w.policyServersUp()
		w.settle()
		w.roll("dstack-server-0")
		w.settle()
		w.policyServersUp()
		w.settle()
		Expect(get(w, w.onlyCopy(name), &corev1.Secret{}).Data).To(Equal(secret(w).Data))
		Expect(w.policyTokens()).To(Equal([]string{w.serversToken()}))

		By("one that cannot travel in a header")
		change(w, secret(w), func(s *corev1.Secret) { s.Data[manifests.TokenKey] = []byte("by-hand\n") })
		w.pass()
		Expect(w.condition("PolicyPluginReady")).To(Equal("PolicyPluginReady=False TokenInvalid: the Secret is not usable: the token in key token of Secret isolation-policy-main-token " +
			"has a character that is no printable ASCII, such as a space or a newline at its end: put another there, or delete it, and the operator makes another"))
	})

	It("lets no other change wait for it", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())
		w.bringUp()
		former := w.serversToken()
		Expect(api.Client.Delete(ctx, secret(w))).To(Succeed())
		w.pass()
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(false)}
		})
		w.settle()
		Expect(w.template().Spec.InitContainers[0].Args).To(ContainElement(ContainSubstring("allow_non_admins_create_projects=false")))
		Expect(w.serversToken()).To(Equal(former))
	})

	It("waits for approval where a restart does, and is accepted beside the former one meanwhile", func() {
		w := usual()
		w.bringUp()
		change(w, w.server(), onApproval)
		w.settle()
		name, former := manifests.TokenSecretName("main"), w.serversToken()
		Expect(api.Client.Delete(ctx, secret(w))).To(Succeed())
		w.settle()
		w.policyServersUp()
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False WaitingForApproval: "))
		Expect(w.pendingChange().Items).To(ContainElement(HaveField("Name", "annotation isolation.dstack.ai/token-id")))
		Expect(w.condition("PolicyPluginReady")).To(HavePrefix("PolicyPluginReady=True "))
		Expect(w.serversToken()).To(Equal(former))

		By("the settings that were approved are repaired, the token that they name with them")
		w.rollBack(testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName))
		w.settle()
		Expect(w.serversToken()).To(Equal(former))
		Expect(w.copies(name)).To(HaveLen(2))

		By("it is approved")
		change(w, w.server(), approves(w.pendingChange().Revision))
		w.settle()
		Expect(w.serversToken()).NotTo(Equal(former))
	})

	It("is copied again when somebody has deleted the copy", func() {
		w := usual()
		w.bringUp()
		name, settings := w.serversToken(), specOf(w.deployment())
		Expect(api.Client.Delete(ctx, secretIn(w, name))).To(Succeed())
		w.settle()
		Expect(w.sshToken(name)).To(Equal(w.token()))
		Expect(specOf(w.deployment())).To(MatchJSON(settings))
	})

	It("and all others are copied under other names when the seal is deleted, and nothing is left of the former", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		all := []string{manifests.TokenSecretName("main"), "isolation-ssh-main-token", "isolation-ssh-main-host-keys"}
		var former []string
		for _, name := range all {
			former = append(former, w.onlyCopy(name))
		}
		Expect(api.Client.Delete(ctx, secretIn(w, manifests.SealSecretName("main")))).To(Succeed())
		for range 3 {
			w.settle()
			w.policyServersUp()
			w.sshProxiesUp()
			w.settle()
			w.rollSSH("isolation-ssh-main-token")
		}
		for i, name := range all {
			Expect(w.onlyCopy(name)).NotTo(Equal(former[i]))
		}
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	DescribeTable("that is not usable is reported, and nothing is overwritten",
		func(golden string, theirs corev1.Secret) {
			w := usual()
			theirs.Name = manifests.TokenSecretName("main")
			w.create(&theirs)
			before := w.deployment().Generation
			w.pass()
			w.expectStatus(golden)
			Expect(w.result.RequeueAfter).To(Equal(10*time.Second), "Secrets are not watched")
			Expect(secret(w).Data).To(Equal(theirs.Data))
			Expect(w.deployment().Generation).To(Equal(before))
			settled := w.versions()
			w.pass()
			Expect(w.versions()).To(Equal(settled))

			By("it is deleted")
			Expect(api.Client.Delete(ctx, &theirs)).To(Succeed())
			w.pass()
			Expect(w.condition("PolicyPluginReady")).To(HavePrefix("PolicyPluginReady=False RollingOut: "))
		},
		Entry("somebody else's", "token-foreign", corev1.Secret{Data: map[string][]byte{"token": []byte("theirs")}}),
		Entry("an empty one", "token-empty", corev1.Secret{
			Data: map[string][]byte{"token": {}}, Immutable: ptr.To(false),
		}),
	)
})

var _ = Describe("The admin token", func() {
	admin := func(data map[string][]byte) *corev1.Secret {
		s := &corev1.Secret{Data: data}
		s.Name = "dstack-admin"
		return s
	}
	with := func() *world {
		GinkgoHelper()
		w := stock(testkit.MakeServer("main").AdminToken("dstack-admin", "token"), testkit.MakeServerPod().Data())
		return w
	}

	DescribeTable("that cannot be read is reported, and looked for again",
		func(golden string, secret *corev1.Secret) {
			w := with()
			if secret != nil {
				w.create(secret)
			}
			w.bringUp()
			w.expectStatus(golden)
			Expect(w.result.RequeueAfter).To(Equal(10 * time.Second))
			if secret != nil {
				Expect(api.Client.Delete(context.Background(), secret)).To(Succeed())
			}
			w.create(admin(map[string][]byte{"token": []byte("admin-token")}))
			w.pass()
			Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		},
		Entry("no Secret", "admin-token-missing", nil),
		Entry("no key", "admin-token-without-key", admin(map[string][]byte{"other": []byte("x")})),
		Entry("an empty key", "admin-token-empty", admin(map[string][]byte{"token": {}})),
	)

	It("that the server does not take is reported", func() {
		w := with()
		w.create(admin(map[string][]byte{"token": []byte("wrong")}))
		w.bringUp()
		w.expectStatus("admin-token-rejected")
	})

	It("of somebody who is no global administrator is reported", func() {
		w := with()
		w.create(admin(map[string][]byte{"token": []byte("admin-token")}))
		w.bringUp()
		w.ready("dstack-server-0", "10.0.0.1").role = "user"
		w.pass()
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False TokenRejected: "))
	})

	It("never reaches the status", func() {
		w := with()
		w.create(admin(map[string][]byte{"token": []byte("admin-token")}))
		w.bringUp()
		raw := specAndStatus(w.server())
		Expect(raw).NotTo(ContainSubstring("admin-token\""))
		Expect(raw).NotTo(ContainSubstring(w.token()))
	})
})

var _ = Describe("A dstack server", func() {
	It("that does not answer is reported and asked again", func() {
		w := usual()
		w.bringUp()
		w.network.gone("10.0.0.1:3000")
		w.pass()
		w.expectStatus("unreachable")
		Expect(w.result.RequeueAfter).To(Equal(10 * time.Second))
	})

	It("of a release that is too old is reported", func() {
		w := usual()
		w.bringUp()
		w.ready("dstack-server-0", "10.0.0.1").release = "0.19.0"
		w.pass()
		w.expectStatus("release-unsupported")
	})

	It("of a release that creates runs without asking is warned of", func() {
		w := usual()
		w.bringUp()
		w.ready("dstack-server-0", "10.0.0.1").release = "0.20.28"
		w.pass()
		w.expectStatus("release-unguarded")
	})

	It("of such a release stays so for its profiles, whatever becomes of the admin token and of the connection", func() {
		w := stock(testkit.MakeServer("main").AdminToken("dstack-admin", "token"), testkit.MakeServerPod().Data(), testkit.MakeProfile("research").AllowHostSSH().Obj(),
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "dstack-admin"}, Data: map[string][]byte{"token": []byte("wrong")}})
		w.bringUp()
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False TokenRejected: "))
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(HavePrefix("Programmed=True "))
		const why = "dstack 0.20.28 creates runs by POST /api/project/NAME/runs/submit without asking any plugin: upgrade to 0.21.0 or later"
		doubted := func(connected string) {
			GinkgoHelper()
			w.settle()
			Expect(w.condition("Connected")).To(HavePrefix(connected))
			Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal("Programmed=False SettingsNotRunning: " + why + ": see Connected of DstackServer main"))
			Expect(w.condition("UnmatchedProjectsCovered")).To(HavePrefix("UnmatchedProjectsCovered=False SettingsNotRunning: " + why))
		}
		process := w.ready("dstack-server-0", "10.0.0.1")
		process.release = "0.20.28"
		doubted("Connected=False UnsupportedRelease: " + why)

		By("the Secret is gone")
		Expect(api.Client.Delete(context.Background(), secretIn(w, "dstack-admin"))).To(Succeed())
		doubted("Connected=False UnsupportedRelease: " + why)

		By("the process does not answer")
		w.network.gone("10.0.0.1:3000")
		doubted("Connected=False TokenNotFound: ")
		w.restart()
		doubted("Connected=False TokenNotFound: ")

		By("no pod is ready")
		pod := get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.Conditions = nil
		w.setStatus(pod)
		doubted("Connected=False TokenNotFound: ")

		By("it is upgraded, still without a token")
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False TokenNotFound: "))
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(HavePrefix("Programmed=True "))
	})

	It("of such a release counts until its pod is gone, although another pod runs a later one", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		w.ready("dstack-server-0", "10.0.0.1").release = "0.20.28"
		w.settle()
		pod := get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.Conditions = nil
		w.setStatus(pod)
		w.startPod("dstack-server-1")
		w.ready("dstack-server-1", "10.0.0.2")
		w.settle()
		Expect(w.server().Status.Release).To(Equal("0.20.28"))
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(HavePrefix("Programmed=False SettingsNotRunning: dstack 0.20.28 creates runs "))

		w.end("dstack-server-0")
		w.settle()
		Expect(w.server().Status.Release).To(Equal("0.22.5"))
	})

	It("of a development build stays one while it does not answer", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.ready("dstack-server-0", "10.0.0.1").release = ""
		w.inject()
		w.roll("dstack-server-0")
		w.ready("dstack-server-0", "10.0.0.1").release = ""
		w.settle()
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(HavePrefix("Programmed=True "))
		Expect(w.server().Status.Build).To(Equal(v1alpha1.BuildDevelopment))
		w.network.gone("10.0.0.1:3000")
		w.settle()
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False Unreachable: "))
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(HavePrefix("Programmed=True "))
	})

	It("whose version nobody has seen counts as enforcing nothing", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.network.gone("10.0.0.1:3000")
		w.inject()
		w.roll("dstack-server-0")
		w.network.gone("10.0.0.1:3000")
		w.settle()
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal(
			"Programmed=False SettingsNotRunning: no server pod has reported its dstack version yet: see Connected of DstackServer main"))
	})

	It("of several pods shows the oldest release", func() {
		w := usual()
		w.bringUp()
		w.startPod("dstack-server-1")
		w.ready("dstack-server-1", "10.0.0.2").release = "0.21.2"
		w.pass()
		Expect(w.server().Status.Release).To(Equal("0.21.2"))
	})
})
