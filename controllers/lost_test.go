package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// lose lets the node of the server's pod be gone: the pod was told to end, its time is
// over, and nobody says that it has. Another one of the present template is in its place.
func (w *world) lose() {
	GinkgoHelper()
	w.terminate("dstack-server-0")
	pod := get(w, "dstack-server-0", &corev1.Pod{})
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "NodeNotReady"}}
	w.setStatus(pod)
	w.network.gone("10.0.0.1:3000")
	w.startPod("dstack-server-1")
	w.setStatus(testkit.SetReady(get(w, "dstack-server-1", &corev1.Pod{}), "10.0.0.2"))
	w.rolledOut()
}

// overdue lets the time of the pods that were told to end be over.
func (w *world) overdue() { w.clock.SetTime(time.Now().Add(10 * time.Minute)) }

var _ = Describe("A server pod that does not end, as on a node that is gone,", func() {
	ctx := context.Background()

	It("keeps no former policy token accepted, and until its time is over a warning says that it does", func() {
		w := usual()
		w.bringUp()
		former := w.serversToken()
		Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("earlier token")))
		Expect(api.Client.Delete(ctx, secretIn(w, manifests.TokenSecretName("main")))).To(Succeed())
		w.settle()
		w.policyServersUp()
		w.pass()
		Expect(w.plain(w.server().Status.Warnings[0])).To(Equal("the policy servers also accept 1 earlier token until the following have the current one: " +
			"pod dstack-server-0, the pod template of Deployment NS/dstack-server"))
		w.settle()
		w.lose()
		w.ready("dstack-server-1", "10.0.0.2")
		w.settle()
		Expect(w.policyTokens()).To(ContainElement(former), "it may still run")
		Expect(w.server().Status.Warnings).To(ContainElement(
			"the policy servers also accept 1 earlier token until the following have the current one: pod dstack-server-0"))

		w.overdue()
		w.settle()
		Expect(w.policyTokens()).To(Equal([]string{w.serversToken()}))
		Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("earlier token")))
	})

	It("is not waited for by SSH proxies that follow a new token", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		const name = "isolation-ssh-main-token"
		proxys := func() string {
			GinkgoHelper()
			return get(w, sshProxyName, &appsv1.Deployment{}).Spec.Template.Annotations[manifests.AnnotationTokenID]
		}
		before := proxys()
		Expect(api.Client.Delete(ctx, secretIn(w, name))).To(Succeed())
		w.settle()
		w.lose()
		w.ready("dstack-server-1", "10.0.0.2").setSSHToken(w.sshToken(name))
		w.settle()
		Expect(proxys()).To(Equal(before), "it may still run")

		w.overdue()
		w.settle()
		Expect(proxys()).NotTo(Equal(before))
		w.sshProxiesUp()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	})
})
