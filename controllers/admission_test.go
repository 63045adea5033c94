package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// enforce makes the namespace hold its pods to a Pod Security Standard.
func (w *world) enforce(standard string) {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	change(w, ns, func(n *corev1.Namespace) {
		metav1.SetMetaDataLabel(&n.ObjectMeta, "pod-security.kubernetes.io/enforce", standard)
	})
}

// admit asks the API server whether it would make a pod of a template.
func (w *world) admit(t corev1.PodTemplateSpec) error {
	return api.Client.Create(context.Background(), testkit.PodOf(w.ns, "asked-for", t), client.DryRunAll)
}

// refusePods plays the workload's controllers: the API server refuses what they
// make of the present template, with its own words.
func (w *world) refusePods(message string) {
	GinkgoHelper()
	d := testkit.SetRolledOut(w.deployment())
	d.Status.ReadyReplicas, d.Status.AvailableReplicas, d.Status.UpdatedReplicas = 0, 0, 0
	d.Status.Conditions = []appsv1.DeploymentCondition{{
		Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: message,
		LastTransitionTime: metav1.NewTime(w.clock.Now()), LastUpdateTime: metav1.NewTime(w.clock.Now()),
	}}
	Expect(api.Client.Status().Update(context.Background(), d)).To(Succeed())
}

// restricted is a server that the strictest standard admits.
func restricted() *testkit.ServerPod {
	return testkit.MakeServerPod().Data().Env(dstack.EnvServerDir, "/root/.dstack/server").With(func(t *corev1.PodTemplateSpec) {
		t.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](1000), FSGroup: ptr.To[int64](1000),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
	}).WithServer(func(c *corev1.Container) {
		c.SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	})
}

func quantities(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

var _ = Describe("A namespace that is strict about pods", func() {
	ctx := context.Background()

	DescribeTable("admits the pod with the settings where it admits the user's own", func(standard string, pod func() *testkit.ServerPod) {
		w := stock(testkit.MakeServer("main"), pod())
		w.enforce(standard)
		Expect(w.admit(w.template())).To(Succeed(), "the user's own pod")
		w.inject()
		Expect(w.admit(w.template())).To(Succeed())
		worse := w.template()
		worse.Spec.HostNetwork = true
		Expect(w.admit(worse)).To(MatchError(ContainSubstring("violates PodSecurity")), "the API server enforces the standard")
	},
		Entry("baseline, as root", "baseline", func() *testkit.ServerPod { return testkit.MakeServerPod().Data() }),
		Entry("restricted, the user in the pod", "restricted", restricted),
		Entry("restricted, the user in the container", "restricted", func() *testkit.ServerPod {
			return restricted().With(func(t *corev1.PodTemplateSpec) {
				pod, c := t.Spec.SecurityContext, t.Spec.Containers[0].SecurityContext
				c.RunAsNonRoot, c.RunAsUser, c.SeccompProfile = pod.RunAsNonRoot, pod.RunAsUser, pod.SeccompProfile
				pod.RunAsNonRoot, pod.RunAsUser, pod.SeccompProfile = nil, nil, nil
			})
		}),
		Entry("restricted, the user in the image", "restricted", func() *testkit.ServerPod {
			return restricted().With(func(t *corev1.PodTemplateSpec) { t.Spec.SecurityContext.RunAsUser = nil })
		}),
	)

	It("counts no more for the settings than for the user's own pod", func() {
		requests, limits := quantities("100m", "64Mi"), quantities("200m", "100Mi")
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().WithServer(func(c *corev1.Container) {
			c.Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
		}))
		hard := corev1.ResourceList{
			"requests.cpu": requests["cpu"], "requests.memory": requests["memory"], "limits.cpu": limits["cpu"], "limits.memory": limits["memory"],
		}
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
		w.create(quota)
		used := corev1.ResourceList{}
		for name := range hard {
			used[name] = resource.MustParse("0")
		}
		quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: used}
		Expect(api.Client.Status().Update(ctx, quota)).To(Succeed())
		w.create(&corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Max: limits},
		}}})
		Eventually(func() error { return w.admit(w.template()) }).Should(Succeed(), "the user's own pod, when the API server has seen the quota")
		more := w.template()
		more.Spec.Containers[0].Resources.Requests = quantities("101m", "64Mi")
		Eventually(func() error { return w.admit(more) }).Should(MatchError(ContainSubstring("exceeded quota")), "the quota is as tight as can be")
		w.inject()
		Expect(w.admit(w.template())).To(Succeed())
	})

	It("that refuses the first pod has the settings taken back with its words", func() {
		w := usual()
		w.inject()
		w.create(&corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Min: quantities("50m", "1Mi"), DefaultRequest: quantities("50m", "1Mi"), Default: quantities("1", "1Gi")},
		}}})
		var refused error
		Eventually(func() error { refused = w.admit(w.template()); return refused }).Should(HaveOccurred())
		w.end("dstack-server-0")
		w.clock.SetTime(w.clock.Now().Add(time.Minute))
		w.refusePods(refused.Error())

		By("a quota may lag behind the pods that are gone")
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.expectStatus("pod-refused-at-first")
		Expect(w.result.RequeueAfter).To(Equal(30 * time.Second))

		By("it stays so")
		w.clock.SetTime(w.clock.Now().Add(30 * time.Second))
		w.pass()
		Expect(w.injected()).To(BeFalse())
		w.expectStatus("pod-refused")
	})

	It("that has refused before is not taken for one that refuses the settings", func() {
		w := usual()
		w.clock.SetTime(w.clock.Now().Add(-time.Hour))
		w.refusePods(`pods "dstack-server-5d-x" is forbidden: exceeded quota: all`)
		w.clock.SetTime(w.clock.Now().Add(time.Hour))
		w.inject()
		d := w.deployment()
		d.Status.ObservedGeneration = d.Generation
		Expect(api.Client.Status().Update(ctx, d)).To(Succeed())
		w.pass()
		Expect(w.injected()).To(BeTrue(), "it has its whole time")
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False PodRefused: "))
		w.clock.SetTime(w.clock.Now().Add(deadline + 10*time.Second))
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(w.condition("SettingsApplied")).To(ContainSubstring("no pod with the settings was ready within 5m0s; the API server refuses it: exceeded quota: all"))
	})

	It("that refuses a later pod leaves the settings where they are, and says why", func() {
		w := usual()
		w.bringUp()
		w.end("dstack-server-0")
		w.refusePods(`pods "dstack-server-5d-x" is forbidden: exceeded quota: all, requested: requests.cpu=100m, used: requests.cpu=1, limited: requests.cpu=1`)
		w.clock.SetTime(w.clock.Now().Add(2 * deadline))
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.expectStatus("pod-refused-later")
	})

	It("leaves a StatefulSet without any pod, and its name tells where to look", func() {
		w := stateful()
		w.inject()
		w.end("dstack-server-0")
		w.rollingOut()
		w.clock.SetTime(w.clock.Now().Add(deadline + 10*time.Second))
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(w.condition("SettingsApplied")).To(ContainSubstring(
			"because their first pod failed: no pod with the settings was ready within 5m0s; there is none at all, and kubectl -n NS describe statefulset dstack-server tells why. When it is mended"))
	})
})
