package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// stateful is a usual server in a StatefulSet.
func stateful() *world {
	GinkgoHelper()
	w := newWorld(
		testkit.MakeServer("main").Workload(v1alpha1.WorkloadStatefulSet, testkit.WorkloadName).Obj(),
		testkit.MakeServerPod().ClaimTemplate("data").
			Mount(corev1.VolumeMount{Name: "data", MountPath: "/root/.dstack/server"}).StatefulSet(testkit.WorkloadName))
	w.startStateful()
	w.ready("dstack-server-0", "10.0.0.1")
	w.rolledOut()
	return w
}

// startStateful starts the StatefulSet's pod with its claim, as its controller
// would.
func (w *world) startStateful() *corev1.Pod {
	GinkgoHelper()
	return w.startOrdinal("dstack-server-0")
}

func (w *world) startOrdinal(name string) *corev1.Pod {
	GinkgoHelper()
	pod := w.made(testkit.PodOf(w.ns, name, w.template()))
	pod.Spec.NodeName = "node"
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-" + name},
	}})
	Expect(api.Client.Create(context.Background(), pod)).To(Succeed())
	return pod
}

// pending replaces the pod by one of the present template that does not become
// ready.
func (w *world) pending(name string, waiting *corev1.ContainerStateWaiting) {
	GinkgoHelper()
	w.end(name)
	pod := w.startPod(name)
	if waiting != nil {
		pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{
			Name: workload.InjectContainer, State: corev1.ContainerState{Waiting: waiting},
		}}
		w.setStatus(pod)
	}
	w.rollingOut()
}

var _ = Describe("A first injection that fails", func() {
	ctx := context.Background()

	It("is taken back, and not tried again until somebody asks for it", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		before := specOf(w.deployment())
		w.inject()
		w.failInit("dstack-server-0")
		w.pass()
		Expect(specOf(w.deployment())).To(Equal(before))
		w.expectStatus("injection-failed")
		w.expectProfile(w.profile("research"), "profile-injection-failed")

		By("a further pass, a restart of the manager and a healthy pod change nothing")
		w.roll("dstack-server-0")
		w.pass()
		w.restart()
		w.pass()
		Expect(w.injected()).To(BeFalse())
		w.expectStatus("injection-failed-later")
		settled := w.versions()
		w.pass()
		Expect(w.versions()).To(Equal(settled))

		By("somebody asks for it")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Annotations = map[string]string{v1alpha1.AnnotationRetry: "1"}
		})
		w.pass()
		Expect(w.injected()).To(BeTrue())

		By("it fails again")
		w.failInit("dstack-server-0")
		w.pass()
		w.pass()
		Expect(w.injected()).To(BeFalse(), "the same wish is granted once")

		By("the spec changes")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.PolicyPlugin.RunAsUser = ptr.To[int64](0) })
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(w.server().Status.SettingsRevision.Rejected).To(BeEmpty())
	})

	It("is tried again when the profiles ask for other settings", func() {
		w := usual()
		w.inject()
		w.failInit("dstack-server-0")
		w.pass()
		Expect(w.injected()).To(BeFalse())
		w.create(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.policyServersUp()
		w.pass()
		Expect(w.injected()).To(BeTrue())
	})

	DescribeTable("because of the init container's image", func(reason string, takenBack bool) {
		w := usual()
		w.inject()
		w.pending("dstack-server-0", &corev1.ContainerStateWaiting{Reason: reason, Message: "no such image"})
		w.pass()
		Expect(w.injected()).To(Equal(!takenBack))
		if takenBack {
			Expect(w.condition("SettingsApplied")).To(HavePrefix(
				"SettingsApplied=False InjectionFailed: the settings were taken back and the server runs without them, because their first pod failed: init container dstack-isolation-inject: " + reason + ": no such image. When it is mended"))
		}
	},
		Entry("a first failed pull is tried again by the kubelet", "ErrImagePull", false),
		Entry("several are not", "ImagePullBackOff", true),
		Entry("a name that is none", "InvalidImageName", true),
	)

	It("is taken back when no pod is ready in time", func() {
		w := usual()
		w.inject()
		w.pending("dstack-server-0", nil)
		w.pass()
		w.expectStatus("injection-pending")
		w.after(deadline - left)
		w.wakesInTime()
		w.after(left + time.Minute)
		w.pass()
		Expect(w.injected()).To(BeFalse())
		w.expectStatus("injection-too-slow")
	})

	Describe("counts the time from when a pod could start", func() {
		// hasTime expects that the settings stay, for a whole deadline from now.
		hasTime := func(w *world) {
			GinkgoHelper()
			w.pass()
			Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
			w.after(deadline - left)
			w.wakesInTime()
			Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
			w.after(left + time.Minute)
			w.pass()
			Expect(w.injected()).To(BeFalse())
		}

		It("after a Deployment was paused", func() {
			w := usual()
			change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Paused = true })
			w.inject()
			w.clock.SetTime(w.clock.Now().Add(2 * deadline))
			w.pass()
			Expect(w.injected()).To(BeTrue())
			w.expectStatus("rollout-paused")
			change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Paused = false })
			hasTime(w)
		})

		It("after a Deployment was scaled to zero", func() {
			w := usual()
			w.end("dstack-server-0")
			change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) })
			w.rolledOut()
			w.inject()
			w.rolledOut()
			w.clock.SetTime(w.clock.Now().Add(2 * deadline))
			w.settle()
			Expect(w.injected()).To(BeTrue())
			w.expectStatus("scaled-to-zero")
			scale := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 1}}
			Expect(api.Client.SubResource("scale").Update(ctx, w.deployment(), client.WithSubResourceBody(scale))).To(Succeed())
			hasTime(w)
		})

		It("after a StatefulSet waited for somebody to delete its pod", func() {
			w := stateful()
			change(w, w.statefulSet(), func(s *appsv1.StatefulSet) {
				s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
			})
			w.rolledOut()
			w.inject()
			w.pass()
			w.clock.SetTime(w.clock.Now().Add(2 * deadline))
			w.pass()
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False RolloutBlocked: "))
			w.rollingOut()
			w.end("dstack-server-0")
			w.startStateful()
			hasTime(w)
		})
	})

	It("in the user's own containers is given the whole time, and then taken back", func() {
		w := usual()
		w.inject()
		w.end("dstack-server-0")
		pod := w.startPod("dstack-server-0")
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "server", State: corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"},
		}, LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 3, Reason: "Error", Message: "a line that may hold a secret",
		}}}}
		w.setStatus(pod)
		w.rollingOut()
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.expectStatus("first-pod-failing")
		w.clock.SetTime(w.clock.Now().Add(deadline + 10*time.Second))
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(specAndStatus(w.server())).NotTo(ContainSubstring("may hold a secret"))
	})

	It("of a StatefulSet leaves no stuck pod behind, which its controller would not replace", func() {
		w := stateful()
		w.inject()
		w.end("dstack-server-0")
		w.startStateful()
		w.setStatus(testkit.SetInitFailed(get(w, "dstack-server-0", &corev1.Pod{}), workload.InjectContainer, 1, "bad config"))
		w.rollingOut()
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(get(w, "dstack-server-0", &corev1.Pod{}).DeletionTimestamp).NotTo(BeNil())
	})

	It("of a StatefulSet deletes the pod too that is only slow", func() {
		w := stateful()
		w.inject()
		w.end("dstack-server-0")
		w.startStateful()
		w.rollingOut()
		w.clock.SetTime(w.clock.Now().Add(deadline + 10*time.Second))
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(get(w, "dstack-server-0", &corev1.Pod{}).DeletionTimestamp).NotTo(BeNil())
	})

	It("of a StatefulSet deletes no pod that is ready", func() {
		w := stateful()
		change(w, w.statefulSet(), func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](2) })
		w.inject()
		w.startOrdinal("dstack-server-1")
		w.rollingOut()
		w.clock.SetTime(w.clock.Now().Add(deadline + 10*time.Second))
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(get(w, "dstack-server-0", &corev1.Pod{}).DeletionTimestamp).To(BeNil())
		Expect(get(w, "dstack-server-1", &corev1.Pod{}).DeletionTimestamp).NotTo(BeNil())
	})

	It("is an outcome that a lost status does not repeat once pods run with the settings", func() {
		w := usual()
		w.bringUp()
		s := w.server()
		s.Status = v1alpha1.DstackServerStatus{}
		Expect(api.Client.Status().Update(ctx, s)).To(Succeed())
		w.restart()
		w.pass()
		Expect(w.server().Status.SettingsRevision.Proven).NotTo(BeEmpty())
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})
})

var _ = Describe("Settings that have worked, of which the status is lost", func() {
	ctx := context.Background()
	wiped := func(w *world) {
		GinkgoHelper()
		s := w.server()
		s.Status = v1alpha1.DstackServerStatus{}
		Expect(api.Client.Status().Update(ctx, s)).To(Succeed())
	}
	// anew is what a restore of a backup does: another object of the same name, and
	// nobody gave the workload back in between.
	anew := func(w *world) {
		GinkgoHelper()
		s := w.server()
		change(w, s, func(s *v1alpha1.DstackServer) { s.Finalizers = nil })
		Expect(api.Client.Delete(ctx, s)).To(Succeed())
		again := testkit.MakeServer("main").Obj()
		w.create(again)
		Expect(w.server().UID).NotTo(Equal(s.UID))
	}
	// unready lets the server's pod not be ready, long after the settings were applied.
	unready := func(w *world) {
		GinkgoHelper()
		pod := get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
		w.setStatus(pod)
		w.rollingOut()
		w.after(2 * deadline)
		w.restart()
	}

	DescribeTable("stay, whatever the pod does at that moment", func(lose func(*world), fail func(*world)) {
		w := usual()
		w.bringUp()
		proven, before := w.server().Status.SettingsRevision.Proven, specOf(w.deployment())
		lose(w)
		fail(w)
		w.pass()
		Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
		Expect(specOf(w.deployment())).To(Equal(before))
		Expect(w.server().Status.SettingsRevision.Proven).To(Equal(proven))
		Expect(w.condition("SettingsApplied")).To(Or(HavePrefix("SettingsApplied=False RolloutInProgress: "), HavePrefix("SettingsApplied=False PodFailing: ")))
		Expect(get(w, manifests.StateName("main"), &corev1.ConfigMap{}).Data).To(HaveKeyWithValue(manifests.ProvenKey, proven))

		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	},
		Entry("the status was wiped, and the pod is not ready", wiped, unready),
		Entry("the status was wiped, and the init container fails", wiped, func(w *world) { w.failInit("dstack-server-0") }),
		Entry("the object was made anew, and the pod is not ready", anew, unready),
	)

	It("are taken back where the note of it is not the operator's", func() {
		w := usual()
		w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: manifests.StateName("main")}, Data: map[string]string{manifests.ProvenKey: "5e771465"}})
		w.inject()
		w.failInit("dstack-server-0")
		w.pass()
		Expect(w.injected()).To(BeFalse())
	})

	It("are not taken back while the note of it cannot be read", func() {
		w := usual()
		w.inject()
		w.failInit("dstack-server-0")
		w.config.Live = interceptor.NewClient(api.Client, failGet[*corev1.ConfigMap](manifests.StateName("main")))
		w.restart()
		Expect(w.try("main")).To(MatchError("read ConfigMap isolation-state-main: away"))
		Expect(w.injected()).To(BeTrue())
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=Unknown ReconcileError: read ConfigMap isolation-state-main: away"))
	})
})

var _ = Describe("A pod that fails later", func() {
	It("leaves the settings where they are", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		w.failInit("dstack-server-0")
		w.clock.SetTime(w.clock.Now().Add(2 * deadline))
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.expectStatus("pod-failing")
		w.expectProfile(w.profile("research"), "profile-pod-failing")
	})

	It("leaves changed settings where they are too", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.HostNetwork = v1alpha1.HostNetworkAllowed })
		w.policyServersUp()
		w.pass()
		w.pass()
		w.failInit("dstack-server-0")
		w.clock.SetTime(w.clock.Now().Add(2 * deadline))
		w.pass()
		Expect(w.injected()).To(BeTrue())
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False PodFailing: "))
	})
})

var _ = Describe("A StatefulSet", func() {
	It("is brought up like a Deployment", func() {
		w := stateful()
		w.inject()
		w.end("dstack-server-0")
		w.startStateful()
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.settle()
		w.expectStatus("ready-stateful")
	})

	DescribeTable("that does not replace its pods says so", func(golden string, edit func(*appsv1.StatefulSet)) {
		w := stateful()
		change(w, w.statefulSet(), edit)
		w.rolledOut()
		w.inject()
		w.rollingOut()
		w.clock.SetTime(w.clock.Now().Add(2 * deadline))
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.expectStatus(golden)
	},
		Entry("OnDelete", "rollout-on-delete", func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
		}),
		Entry("a partition", "rollout-partition", func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](1)}
		}),
	)
})
