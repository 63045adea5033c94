package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"

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
