package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// setOf lets a Deployment of the operator's own have a ReplicaSet of its present template.
func (w *world) setOf(name string) {
	GinkgoHelper()
	set := testkit.ReplicaSetOf(get(w, name, &appsv1.Deployment{}))
	set.UID = ""
	Expect(api.Client.Create(context.Background(), set)).To(Succeed())
}

var _ = Describe("Copies of Secrets whose note is gone with the seal", func() {
	ctx := context.Background()
	const token, proxys = "isolation-policy-main-token", "isolation-ssh-main-token"
	all := func(w *world) {
		GinkgoHelper()
		for range 3 {
			w.settle()
			w.policyServersUp()
			w.sshProxiesUp()
			w.settle()
			w.rollSSH(proxys)
		}
	}
	dropSeal := func(w *world) {
		GinkgoHelper()
		Expect(api.Client.Delete(ctx, secretIn(w, manifests.SealSecretName("main")))).To(Succeed())
	}

	It("are deleted by a manager that knew of them, although nothing names them", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		change(w, w.server(), onApproval)
		w.settle()
		Expect(api.Client.Delete(ctx, secretIn(w, proxys))).To(Succeed())
		w.settle()
		Expect(w.copies(proxys)).To(HaveLen(2), "one waits for approval, and nothing names it")
		dropSeal(w)
		w.settle()
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Rollout = v1alpha1.RolloutAutomatic })
		all(w)
		Expect(w.copies(proxys)).To(HaveLen(1))
		Expect(w.copies(token)).To(HaveLen(1))
	})

	It("are found in earlier templates by a manager that starts anew", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		w.setOf(manifests.PolicyServerName("main"))
		former := w.onlyCopy(token)
		Expect(api.Client.Delete(ctx, secretIn(w, token))).To(Succeed())
		all(w)
		Expect(w.copies(token)).NotTo(ContainElement(former))
		w.create(secretOf(former, "left over"))
		dropSeal(w)
		w.restart()
		all(w)
		Expect(w.copies(token)).To(Equal([]string{w.serversToken()}))
	})

	It("go with a DstackServer that is deleted before anybody has seen that", func() {
		w := usual()
		w.pass()
		w.setOf(manifests.PolicyServerName("main"))
		Expect(w.copies(token)).To(HaveLen(1))
		dropSeal(w)
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
		Expect(w.copies(token)).To(BeEmpty())
	})
})

var _ = Describe("A copy of a Secret that somebody else has changed", func() {
	// tamper puts an immutable Secret with another value in the place of a copy.
	tamper := func(w *world, name, key string) {
		GinkgoHelper()
		Expect(api.Client.Delete(context.Background(), secretIn(w, name))).To(Succeed())
		theirs := &corev1.Secret{Immutable: ptr.To(true), Data: map[string][]byte{key: []byte("theirs")}}
		theirs.Name = name
		w.create(theirs)
	}
	warning := func(name string) string {
		return "somebody changed Secret " + name + ", a copy that the operator made: the operator has restored it, and moves the pods that read it to another copy"
	}

	It("is restored, and pods get the policy server's token from another one", func() {
		w := usual()
		w.bringUp()
		former := w.serversToken()
		for range 2 {
			tampered := w.serversToken()
			tamper(w, tampered, "token")
			w.pass()
			Expect(w.sshToken(tampered)).To(Equal(w.token()), "pods that start now read it")
			Expect(w.result.RequeueAfter).To(Equal(200 * time.Millisecond))
			w.pass()
			Expect(w.policyTokens()).To(HaveLen(1), "what was in it is never accepted")
			Expect(w.policyTokens()).NotTo(ContainElement(tampered))
			Expect(w.serversToken()).To(Equal(tampered), "not before every policy server has the other one")
			Expect(w.server().Status.Warnings).To(ContainElement(warning(tampered)))
			w.policyServersUp()
			w.settle()
			w.roll("dstack-server-0")
			w.settle()
			Expect(w.policyTokens()).To(Equal([]string{w.serversToken()}))
			Expect(w.copies("isolation-policy-main-token")).To(Equal([]string{w.serversToken()}))
			Expect(w.sshToken(w.serversToken())).To(Equal(w.token()))
			Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("somebody changed")))
		}
		Expect(w.serversToken()).NotTo(Equal(former))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("is restored, and pods get the SSH proxy's token and host keys from others", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		token, keys := w.onlyCopy("isolation-ssh-main-token"), w.onlyCopy("isolation-ssh-main-host-keys")
		said := w.server().Status.SSHProxy
		tamper(w, token, "token")
		tamper(w, keys, "host-keys")
		w.settle()
		w.rollSSH("isolation-ssh-main-token")
		w.sshProxiesUp()
		w.settle()
		Expect(w.onlyCopy("isolation-ssh-main-token")).NotTo(Equal(token))
		Expect(w.onlyCopy("isolation-ssh-main-host-keys")).NotTo(Equal(keys))
		Expect(w.proxysSecrets()).To(ConsistOf(w.onlyCopy("isolation-ssh-main-token"), w.onlyCopy("isolation-ssh-main-host-keys")))
		Expect(w.server().Status.SSHProxy).To(Equal(said))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})
})
