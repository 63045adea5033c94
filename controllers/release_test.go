package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// gone tells whether an object is not there.
func (w *world) gone(o client.Object) bool {
	GinkgoHelper()
	err := api.Client.Get(context.Background(), client.ObjectKeyFromObject(o), o)
	Expect(client.IgnoreNotFound(err)).To(Succeed())
	return apierrors.IsNotFound(err)
}

func (w *world) serverGone() bool {
	GinkgoHelper()
	s := &v1alpha1.DstackServer{}
	s.Namespace, s.Name = w.ns, "main"
	return w.gone(s)
}

// nothingLeft expects that no own object is there.
func (w *world) nothingLeft() {
	GinkgoHelper()
	for _, o := range w.ownObjects() {
		Expect(w.gone(o)).To(BeTrue(), kindOf(o)+" "+o.GetName())
	}
	Expect(w.pluginMaps()).To(BeEmpty())
}

// allThere expects that every own object is there.
func (w *world) allThere() {
	GinkgoHelper()
	for _, o := range w.ownObjects() {
		Expect(w.gone(o)).To(BeFalse(), kindOf(o)+" "+o.GetName())
	}
}

// endNamespace plays what Kubernetes does first with a namespace that is
// deleted: it is marked.
func (w *world) endNamespace() {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	Expect(api.Client.Delete(context.Background(), ns)).To(Succeed())
}

var _ = Describe("A DstackServer that is deleted", func() {
	ctx := context.Background()

	for name, policy := range map[string]metav1.DeletionPropagation{
		"in the background": metav1.DeletePropagationBackground, "in the foreground": metav1.DeletePropagationForeground,
	} {
		It("gives back what was set, keeps the policy server while a pod asks it, and goes, "+name, func() {
			w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
			before := specOf(w.deployment())
			w.bringUp()
			Expect(api.Client.Delete(ctx, w.server(), client.PropagationPolicy(policy))).To(Succeed())
			w.pass()
			Expect(specOf(w.deployment())).To(Equal(before))
			w.allThere()
			w.expectStatus("releasing")
			w.expectProfile(w.profile("research"), "profile-releasing")

			By("the pod is told to end, and still asks")
			w.terminate("dstack-server-0")
			w.pass()
			w.allThere()
			settled := w.versions()
			w.pass()
			Expect(w.versions()).To(Equal(settled))

			By("the pod is gone")
			w.end("dstack-server-0")
			w.startPod("dstack-server-0")
			Expect(w.try("main")).To(Succeed())
			w.nothingLeft()
			if policy == metav1.DeletePropagationForeground {
				Expect(w.server().Finalizers).To(Equal([]string{metav1.FinalizerDeleteDependents}), "the rest is the garbage collector's")
				Expect(w.try("main")).To(Succeed())
				return
			}
			w.passProfiles()
			Expect(w.conditionOf(w.profile("research"), "Accepted")).To(HavePrefix("Accepted=False ServerNotFound: "))
			Expect(w.serverGone()).To(BeTrue())
		})
	}

	It("waits for a pod of another workload that asks its policy server", func() {
		w := usual()
		w.bringUp()
		copied := testkit.PodOf(w.ns, "copied", w.template())
		copied.Labels = map[string]string{"app": "debug"}
		w.create(copied)
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		w.end("dstack-server-0")
		w.pass()
		w.allThere()
		w.end("copied")
		Expect(w.try("main")).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
	})

	It("says what keeps its pods", func() {
		w := usual()
		w.bringUp()
		change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Paused = true })
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False Releasing: the settings were taken back; waiting for the last server pod that asks the policy server to go; Deployment NS/dstack-server is paused: resume its rollout (kubectl -n NS rollout resume deployment/dstack-server)"))
	})

	It("waits for nothing at replicas 0", func() {
		w := usual()
		w.bringUp()
		change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) })
		w.end("dstack-server-0")
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(w.result.RequeueAfter).To(Equal(2*time.Second), "no pod's event will wake it")
		Expect(w.try("main")).To(Succeed())
		Expect(isInjected(w.deployment())).To(BeFalse())
		w.nothingLeft()
		Expect(w.serverGone()).To(BeTrue())
	})

	It("goes when its workload is gone", func() {
		w := usual()
		w.bringUp()
		Expect(api.Client.Delete(ctx, w.deployment())).To(Succeed())
		w.end("dstack-server-0")
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		w.nothingLeft()
		Expect(w.serverGone()).To(BeTrue())
	})

	It("goes when it never got anywhere", func() {
		w := newWorld(testkit.MakeServer("main").Obj())
		w.pass()
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
	})

	It("waits for nothing in a namespace that is being deleted", func() {
		w := usual()
		w.bringUp()
		w.endNamespace()
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(isInjected(w.deployment())).To(BeFalse())
		Expect(w.serverGone()).To(BeTrue())
	})

	It("takes back settings that the cache does not know of yet", func() {
		w := usual()
		stale := w.deployment()
		w.inject()
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		w.withFaults(interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if d, ok := o.(*appsv1.Deployment); ok && key.Name == testkit.WorkloadName {
					stale.DeepCopyInto(d)
					return nil
				}
				return c.Get(ctx, key, o, opts...)
			},
		})
		Expect(w.try("main")).To(Succeed())
		Expect(isInjected(w.deployment())).To(BeFalse())
	})

	It("lets servers that ask without a token do so to the end", func() {
		w := stock(testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST), testkit.MakeServerPod().Data())
		w.bringUp()
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.PolicyPlugin.Delivery = v1alpha1.DeliveryPython })
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		w.pass()
		Expect(w.server().Status.Running.Deliveries).To(Equal([]v1alpha1.Delivery{v1alpha1.DeliveryREST}),
			"by this the policy server knows that it must not ask for the token")
	})

	It("leaves alone what it does not own", func() {
		w := usual()
		w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "mine", Labels: map[string]string{"app": "x"}}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mine"}})
		w.bringUp()
		w.end("dstack-server-0")
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		get(w, "mine", &corev1.ConfigMap{})
		get(w, "mine", &corev1.Secret{})
		get(w, testkit.WorkloadName, &appsv1.Deployment{})
	})
})

var _ = Describe("Injection Disabled", func() {
	disable := func(w *world) {
		GinkgoHelper()
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
	}

	It("gives back what was set, then deletes the policy server, and Enabled begins anew", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		before := specOf(w.deployment())
		w.bringUp()
		disable(w)
		w.pass()
		Expect(specOf(w.deployment())).To(Equal(before))
		w.allThere()
		w.expectStatus("disabling")
		w.roll("dstack-server-0")
		w.pass()
		w.nothingLeft()
		w.expectStatus("disabled")
		w.passProfiles()
		w.expectProfile(w.profile("research"), "profile-disabled")

		By("an idle pass sends nothing")
		settled := w.versions()
		writes := w.countWrites()
		w.pass()
		Expect(w.versions()).To(Equal(settled))
		Expect(*writes).To(BeZero())
		w.withoutFaults()

		By("it is enabled again, and the first pod counts as a first one")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionEnabled })
		w.inject()
		Expect(w.server().Status.SettingsRevision.Proven).To(BeEmpty())
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("sets nothing in a server that never had anything", func() {
		w := stock(testkit.MakeServer("main").Injection(v1alpha1.InjectionDisabled), testkit.MakeServerPod().Data())
		before := w.deployment().ResourceVersion
		w.settle()
		Expect(w.deployment().ResourceVersion).To(Equal(before))
		w.nothingLeft()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=False Disabled: "))
	})
})
