package controllers_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
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

// startOf starts a pod of the workload, whichever kind it is of.
func (w *world) startOf(name string) *corev1.Pod {
	GinkgoHelper()
	if w.server().Spec.Workload.Kind == v1alpha1.WorkloadStatefulSet {
		return w.startOrdinal(name)
	}
	return w.startPod(name)
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

var _ = Describe("A rollout that neither ends nor fails", func() {
	creating := func(w *world, pod *corev1.Pod) {
		GinkgoHelper()
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: testkit.ServerContainer, State: corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"},
		}}}
		w.setStatus(pod)
		w.rollingOut()
	}
	unready := func(w *world, pod *corev1.Pod) {
		GinkgoHelper()
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady", Message: "containers with unready status: [server]",
		}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: testkit.ServerContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		w.setStatus(pod)
		w.rollingOut()
	}
	progressing := func(w *world, status corev1.ConditionStatus, reason string) {
		GinkgoHelper()
		d := w.deployment()
		d.Status.Conditions = []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentProgressing, Status: status, Reason: reason,
			LastTransitionTime: metav1.NewTime(w.clock.Now()), LastUpdateTime: metav1.NewTime(w.clock.Now()),
		}}
		Expect(api.Client.Status().Update(context.Background(), d)).To(Succeed())
	}
	// exceeded lets the Deployment's controller give its rollout up.
	exceeded := func(w *world) {
		GinkgoHelper()
		progressing(w, corev1.ConditionFalse, "ProgressDeadlineExceeded")
	}
	// statefulUp is a StatefulSet whose pod has the settings.
	statefulUp := func() *world {
		GinkgoHelper()
		w := stateful()
		w.inject()
		w.end("dstack-server-0")
		w.startStateful()
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		return w
	}
	// passes is the time that the operator counts itself.
	passes := func(w *world) {
		GinkgoHelper()
		w.after(deadline - left)
		w.wakesInTime()
		w.after(left + time.Minute)
	}
	deploymentUp := func() *world {
		GinkgoHelper()
		w := usual()
		w.bringUp()
		return w
	}
	const waits = "SettingsApplied=False RolloutInProgress: waiting for the pods of "
	// stuck expects that nothing is awaited any more, and that it is said once.
	stuck := func(w *world, message string) {
		GinkgoHelper()
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False PodFailing: " + message))
		Expect(w.condition("Stalled")).To(Equal("Stalled=True PodFailing: " + message))
		Expect(w.injected()).To(BeTrue())
		settled := w.versions()
		w.after(time.Hour)
		w.pass()
		Expect(w.versions()).To(Equal(settled))
	}

	DescribeTable("is stalled once its time is over",
		func(start func() *world, hang func(*world, *corev1.Pod), over func(*world), want string) {
			w := start()
			w.end("dstack-server-0")
			hang(w, w.startOf("dstack-server-0"))
			w.pass()
			Expect(w.condition("SettingsApplied")).To(HavePrefix(waits))
			Expect(w.condition("Stalled")).To(HavePrefix("Stalled=False "))
			over(w)
			stuck(w, "a pod with the settings does not become ready: "+want+"; kubectl -n NS describe pod dstack-server-0 tells why")

			By("it becomes ready all the same")
			w.ready("dstack-server-0", "10.0.0.1")
			w.rolledOut()
			w.settle()
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		},
		Entry("a Deployment whose pod waits for a volume", deploymentUp, creating, exceeded, "container server: ContainerCreating"),
		Entry("a Deployment whose pod runs", deploymentUp, unready, exceeded, "containers with unready status: [server]"),
		Entry("a Deployment whose pod is replaced after its rollout, as when its node is gone", deploymentUp, func(w *world, pod *corev1.Pod) {
			creating(w, pod)
			progressing(w, corev1.ConditionTrue, "NewReplicaSetAvailable")
		}, passes, "container server: ContainerCreating"),
		Entry("a StatefulSet whose pod waits for a volume", statefulUp, creating, passes, "container server: ContainerCreating"),
		Entry("a StatefulSet whose pod runs", statefulUp, unready, passes, "containers with unready status: [server]"),
	)

	It("of a StatefulSet has its time from when the pod ceased to be ready, however old the settings are", func() {
		w := statefulUp()
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(false)}
		})
		w.pass()
		w.rollingOut()
		w.pass()
		w.after(time.Hour)
		w.end("dstack-server-0")
		pod := w.startStateful()
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionFalse, Message: "containers with unready status: [server]", LastTransitionTime: metav1.NewTime(w.clock.Now()),
		}}
		w.setStatus(pod)
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix(waits))
		w.after(deadline - left)
		w.wakesInTime()
		Expect(w.condition("SettingsApplied")).To(HavePrefix(waits))
		w.after(left + time.Minute)
		stuck(w, "a pod with the settings does not become ready: containers with unready status: [server]; kubectl -n NS describe pod dstack-server-0 tells why")
	})

	It("has no pod at all, and says where to look", func() {
		w := deploymentUp()
		w.end("dstack-server-0")
		w.rollingOut()
		exceeded(w)
		stuck(w, "no pod of Deployment NS/dstack-server becomes ready; kubectl -n NS describe deployment dstack-server tells why")

		w = statefulUp()
		w.end("dstack-server-0")
		w.rollingOut()
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix(waits))
		w.after(deadline + time.Minute)
		stuck(w, "no pod of StatefulSet NS/dstack-server becomes ready; kubectl -n NS describe statefulset dstack-server tells why")
	})

	It("of the first settings is taken back with the pod's own reason", func() {
		for _, start := range []func() *world{func() *world { return usual() }, stateful} {
			w := start()
			w.inject()
			w.end("dstack-server-0")
			creating(w, w.startOf("dstack-server-0"))
			w.pass()
			Expect(w.injected()).To(BeTrue())
			w.after(deadline + time.Minute)
			w.pass()
			Expect(w.injected()).To(BeFalse())
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False InjectionFailed: the settings were taken back and the server runs without them, " +
				"because their first pod failed: no pod with the settings was ready within 5m0s; container server: ContainerCreating. When it is mended"))
		}
	})
})

var _ = Describe("A broken pod that a StatefulSet's controller waits for", func() {
	It("is named, and goes on once somebody deletes it", func() {
		w := stateful()
		w.inject()
		w.end("dstack-server-0")
		w.startStateful()
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.settle()
		pod := get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.Conditions = nil
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: testkit.ServerContainer, State: corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"},
		}}}
		w.setStatus(pod)
		w.rollingOut()
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False PodFailing: a pod with the settings fails, in container server: "))

		By("other settings, of which no pod is made")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(false)}
		})
		w.pass()
		w.rollingOut()
		w.pass()
		held := "SettingsApplied=False PodFailing: pod dstack-server-0 was made before the present settings and is not ready, and a StatefulSet's controller waits for it: " +
			"container server: ImagePullBackOff: no such image; delete it, so that another is made: kubectl -n NS delete pod dstack-server-0"
		Expect(w.condition("SettingsApplied")).To(Equal(held))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True PodFailing: "))

		By("its image is there, and it does not get ready in time")
		pod.Status.ContainerStatuses[0].State.Waiting.Reason = "ContainerCreating"
		w.setStatus(pod)
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False RolloutInProgress: "))
		w.after(deadline + time.Minute)
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal(strings.ReplaceAll(held, "ImagePullBackOff: no such image", "ContainerCreating")))

		By("it is deleted")
		w.end("dstack-server-0")
		w.startStateful()
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
	})

	It("is named when the first settings are taken back", func() {
		w := stateful()
		pod := get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.Conditions = nil
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: testkit.ServerContainer, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Message: "a line that may hold a secret"},
		}}}
		w.setStatus(pod)
		w.rollingOut()
		w.inject()
		w.rollingOut()
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.after(deadline + time.Minute)
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False InjectionFailed: the settings were taken back and the server runs without them, " +
			"because their first pod failed: no pod with the settings was ready within 5m0s; pod dstack-server-0 was made before the present settings and is not ready, and a StatefulSet's controller waits for it: " +
			"container server: ended with exit code 3; delete it, so that another is made: kubectl -n NS delete pod dstack-server-0. When it is mended"))
		Expect(specAndStatus(w.server())).NotTo(ContainSubstring("may hold a secret"))
	})
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
