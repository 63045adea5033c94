package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/internal/testkit"
)

// scale sets the number of replicas as an autoscaler does.
func (w *world) scale(o client.Object, replicas int32) {
	GinkgoHelper()
	scale := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
	Expect(api.Client.SubResource("scale").Update(context.Background(), o, client.WithSubResourceBody(scale), client.FieldOwner("autoscaler"))).To(Succeed())
}

// startReady starts a pod of the workload's present template, which gets ready.
func (w *world) startReady(name, ip string) {
	GinkgoHelper()
	w.startPod(name)
	w.ready(name, ip)
}

var _ = Describe("A rollout of the settings", func() {
	deployment := func(strategy appsv1.DeploymentStrategyType) func() *world {
		return func() *world {
			w := usual()
			change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Strategy = appsv1.DeploymentStrategy{Type: strategy} })
			return w
		}
	}
	rolling := func(w *world) {
		w.startReady("dstack-server-1", "10.0.0.2")
		w.terminate("dstack-server-0")
		w.pass()
		w.end("dstack-server-0")
		w.rolledOut()
	}
	inPlace := func(w *world) { w.roll("dstack-server-0") }
	ordinal := func(w *world) {
		w.end("dstack-server-0")
		w.startStateful()
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
	}
	statefulWith := func(strategy appsv1.StatefulSetUpdateStrategy) func() *world {
		return func() *world {
			w := stateful()
			change(w, w.statefulSet(), func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy = strategy })
			w.rolledOut()
			return w
		}
	}

	DescribeTable("ends with the settings in every pod, or says what blocks it",
		func(start func() *world, blocked string, goOn func(*world)) {
			w := start()
			w.inject()
			w.rollingOut()
			w.pass()
			if blocked == "" {
				Expect(w.condition("SettingsApplied")).To(MatchRegexp("^SettingsApplied=False RolloutInProgress: waiting for the pods of .* NS/dstack-server to be replaced and ready$"))
			} else {
				Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False RolloutBlocked: " + blocked))
				Expect(w.condition("Stalled")).To(Equal("Stalled=True RolloutBlocked: " + blocked))
			}
			goOn(w)
			w.settle()
			Expect(w.condition("SettingsApplied")).To(MatchRegexp("^SettingsApplied=True Applied: all settings are in .* NS/dstack-server and in its 1 pods$"))
			Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		},
		Entry("Recreate", deployment(appsv1.RecreateDeploymentStrategyType), "", inPlace),
		Entry("RollingUpdate", deployment(appsv1.RollingUpdateDeploymentStrategyType), "", rolling),
		Entry("paused", func() *world {
			w := usual()
			change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Paused = true })
			return w
		}, "Deployment NS/dstack-server is paused: resume its rollout (kubectl -n NS rollout resume deployment/dstack-server)", func(w *world) {
			change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Paused = false })
			inPlace(w)
		}),
		Entry("of a StatefulSet", statefulWith(appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType}), "", ordinal),
		Entry("OnDelete", statefulWith(appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}),
			"StatefulSet NS/dstack-server has update strategy OnDelete: delete its pods to let them start with the new settings", ordinal),
		Entry("a partition", statefulWith(appsv1.StatefulSetUpdateStrategy{
			Type:          appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](1)},
		}), "StatefulSet NS/dstack-server updates only pods from ordinal 1 on (partition): lower the partition to 0", func(w *world) {
			change(w, w.statefulSet(), func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0) })
			ordinal(w)
		}),
	)

	DescribeTable("that does not end names the pod's own reason",
		func(fail func(*corev1.Pod), want string) {
			w := usual()
			w.bringUp()
			w.end("dstack-server-0")
			pod := w.startPod("dstack-server-0")
			fail(pod)
			w.setStatus(pod)
			w.rollingOut()
			w.pass()
			Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False PodFailing: a pod with the settings fails, in " + want))
			Expect(w.injected()).To(BeTrue())
		},
		Entry("no node takes it", func(pod *corev1.Pod) {
			pod.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available",
			}}
		}, "scheduling: 0/3 nodes are available"),
		Entry("its image is not there", func(pod *corev1.Pod) {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: testkit.ServerContainer, State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: `Back-off pulling image "dstack-server:0.22.5"`},
			}}}
		}, `container server: ImagePullBackOff: Back-off pulling image "dstack-server:0.22.5"`),
		Entry("a Secret is missing", func(pod *corev1.Pod) {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: testkit.ServerContainer, State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: `secret "isolation-policy-main-token" not found`},
			}}}
		}, `container server: CreateContainerConfigError: secret "isolation-policy-main-token" not found`),
	)
})

var _ = Describe("A workload that somebody else scales", func() {
	It("keeps the number of replicas, and status follows its pods", func() {
		w := usual()
		w.bringUp()
		template := w.template()

		By("an autoscaler wants three")
		w.scale(w.deployment(), 3)
		w.startReady("dstack-server-1", "10.0.0.2")
		w.startPod("dstack-server-2")
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False RolloutInProgress: waiting for the pods of Deployment NS/dstack-server to be replaced and ready"))
		w.ready("dstack-server-2", "10.0.0.3")
		w.rolledOut()
		w.settle()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=True Applied: all settings are in Deployment NS/dstack-server and in its 3 pods"))
		Expect(*w.deployment().Spec.Replicas).To(BeEquivalentTo(3))

		By("none")
		w.scale(w.deployment(), 0)
		for _, name := range []string{"dstack-server-0", "dstack-server-1", "dstack-server-2"} {
			w.end(name)
		}
		w.rolledOut()
		w.settle()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=True Applied: all settings are in Deployment NS/dstack-server and in its 0 pods"))
		Expect(w.condition("Ready")).To(Equal("Ready=Unknown NoServerPods: no pod of Deployment NS/dstack-server is ready"))

		By("and one again")
		w.scale(w.deployment(), 1)
		w.startReady("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(w.template()).To(Equal(template), "nothing was written to it")
		for _, entry := range w.deployment().ManagedFields {
			if entry.Manager == "dstack-isolation" {
				Expect(entry.FieldsV1.GetRawString()).NotTo(ContainSubstring("replicas"))
			}
		}
	})
})
