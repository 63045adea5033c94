package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// stock is a dstack server as a user has it, with one running pod.
func stock(server *testkit.Server, pod *testkit.ServerPod, more ...client.Object) *world {
	GinkgoHelper()
	d := pod.Deployment(testkit.WorkloadName)
	w := newWorld(append([]client.Object{server.Obj(), d}, more...)...)
	w.startPod("dstack-server-0")
	w.ready("dstack-server-0", "10.0.0.1")
	w.rolledOut()
	return w
}

// usual is the usual one: the database on a volume.
func usual(more ...client.Object) *world {
	GinkgoHelper()
	return stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data(), more...)
}

// ownObjects are the operator's own objects of DstackServer main.
func (w *world) ownObjects() []client.Object {
	name := manifests.PolicyServerName("main")
	objects := []client.Object{
		&appsv1.Deployment{}, &corev1.Service{}, &policyv1.PodDisruptionBudget{}, &networkingv1.NetworkPolicy{},
		&corev1.Secret{}, &corev1.ConfigMap{}, &corev1.ConfigMap{},
	}
	names := []string{name, name, name, name, manifests.TokenSecretName("main"), manifests.PluginConfigMapName("main", plugin), manifests.StateName("main")}
	for i, o := range objects {
		o.SetNamespace(w.ns)
		o.SetName(names[i])
	}
	return objects
}

func (w *world) env(name string) workload.Variable {
	GinkgoHelper()
	template := w.template()
	return workload.Lookup(&template.Spec.Containers[0], name)
}

// injected tells whether the workload has the plugin.
func (w *world) injected() bool {
	GinkgoHelper()
	return len(w.template().Spec.InitContainers) > 0
}

var _ = Describe("Bringing a server up", func() {
	It("tells the server to ask the policy servers once all of them are ready and decide by the policy", func() {
		w := usual()
		before := w.deployment().Generation
		untouched := func() {
			GinkgoHelper()
			Expect(w.deployment().Generation).To(Equal(before), "nothing is written to the workload yet")
		}

		By("no policy server is ready")
		w.pass()
		untouched()
		w.expectStatus("policy-servers-starting")

		By("one of two is ready")
		servers := w.policyServersUp()
		w.policyServersReady(1)
		w.pass()
		untouched()
		w.expectStatus("policy-servers-half-ready")

		By("both are ready, and one decides by an older revision")
		servers[1].set("00000000", "v1")
		w.policyServersReady(2)
		w.pass()
		untouched()
		w.expectStatus("policy-server-behind")
		Expect(w.result.RequeueAfter).To(Equal(500 * time.Millisecond))

		By("that one is of another build")
		servers[1].set("00000000", "v0")
		w.pass()
		untouched()
		w.expectStatus("policy-server-upgrading")
		Expect(w.result.RequeueAfter).To(Equal(500 * time.Millisecond))

		By("one does not answer")
		w.network.gone("10.0.1.2:8080")
		w.pass()
		untouched()
		w.expectStatus("policy-server-silent")
		Expect(w.result.RequeueAfter).To(Equal(10 * time.Second))

		By("one does not know the token")
		w.network.at("10.0.1.2:8080", w.network.listen(&policyServer{token: "another", revision: w.revision()}))
		w.pass()
		untouched()
		w.expectStatus("policy-server-of-another-token")

		By("all are ready, but the Service sends nothing to one of them yet")
		w.policyServersUp()
		w.endpoints(1)
		w.pass()
		untouched()
		w.expectStatus("policy-server-without-address")

		By("all decide by the policy")
		w.endpoints(2)
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before + 1))
		w.expectStatus("settings-applied")

		By("the pod is replaced")
		w.rollingOut()
		w.terminate("dstack-server-0")
		w.pass()
		w.expectStatus("settings-rolling-out")
		w.roll("dstack-server-0")
		w.settle()
		w.expectStatus("ready")
		Expect(w.result.RequeueAfter).To(Equal(time.Minute), "nothing is waited for, but Secrets are not watched")
	})

	It("makes objects of its own without owner references, which a foreground deletion would collect too early", func() {
		w := usual()
		w.bringUp()
		for _, o := range w.ownObjects() {
			Expect(api.Client.Get(context.Background(), client.ObjectKeyFromObject(o), o)).To(Succeed())
			Expect(o.GetOwnerReferences()).To(BeEmpty())
			Expect(o.GetLabels()).To(HaveKeyWithValue(manifests.LabelServer, "main"))
			Expect(o.GetLabels()).To(HaveKeyWithValue(manifests.LabelServerUID, string(w.server().UID)))
		}
		Expect(w.server().Finalizers).To(Equal([]string{v1alpha1.Finalizer}))
	})

	It("writes nothing in a further pass, nor after a restart of the manager", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		before := w.versions()
		w.pass()
		Expect(w.versions()).To(Equal(before))
		w.restart()
		w.pass()
		Expect(w.versions()).To(Equal(before))
	})

	It("works for a server of several pods, of which the weakest counts", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelDedicated).Fleets("a100").AllowHostSSH().Obj())
		w.bringUp()
		w.startPod("dstack-server-1")
		w.pass()
		Expect(w.server().Status.Running).To(Equal(&v1alpha1.RunningSettings{
			Pods: 2, PolicyPods: 2, NetworkMode: 1, Deliveries: []v1alpha1.Delivery{v1alpha1.DeliveryPython},
		}))

		By("one that was made before the settings")
		pod := w.made(testkit.MakeServerPod().Namespace(w.ns).Pod("from-before"))
		w.create(pod)
		w.pass()
		Expect(w.server().Status.Running).To(Equal(&v1alpha1.RunningSettings{
			Pods: 3, PolicyPods: 2, NetworkMode: 2, Deliveries: []v1alpha1.Delivery{v1alpha1.DeliveryPython},
		}))
		w.expectStatus("pod-without-settings")
		w.expectProfile(w.profile("research"), "profile-pod-without-settings")

		By("it ends")
		pod.Status.Phase = corev1.PodSucceeded
		w.setStatus(pod)
		w.pass()
		Expect(w.server().Status.Running.Pods).To(BeEquivalentTo(2))
	})

	It("works by dstack's own rest_plugin", func() {
		w := stock(testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST), testkit.MakeServerPod().Data())
		w.bringUp()
		w.expectStatus("ready-rest")
		Expect(w.env(dstack.EnvPluginServiceURI).Value).To(Equal("http://isolation-policy-main." + w.ns + ".svc:8080"))
		Expect(w.env(dstack.EnvToken).Set).To(BeFalse())
	})
})

var _ = Describe("Drift", func() {
	ctx := context.Background()

	It("of each own object is repaired, with no other object touched", func() {
		w := usual()
		w.bringUp()
		drift := map[string]func(client.Object){
			"Deployment":          func(o client.Object) { o.(*appsv1.Deployment).Spec.Template.Spec.Containers[0].Image = "evil:1" },
			"Service":             func(o client.Object) { o.(*corev1.Service).Spec.Selector = map[string]string{"app": "evil"} },
			"PodDisruptionBudget": func(o client.Object) { o.(*policyv1.PodDisruptionBudget).Spec.MaxUnavailable = nil },
			"NetworkPolicy":       func(o client.Object) { o.(*networkingv1.NetworkPolicy).Spec.Ingress = nil },
		}
		for _, o := range w.ownObjects()[:4] {
			kind := kindOf(o)
			By(kind)
			Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
			right := specOf(o)
			change(w, o, drift[kind])
			Expect(specOf(o)).NotTo(Equal(right))
			w.pass()
			Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
			Expect(specOf(o)).To(Equal(right))
		}
	})

	It("that is a deletion is repaired", func() {
		w := usual()
		w.bringUp()
		for _, o := range w.ownObjects() {
			if _, isToken := o.(*corev1.Secret); isToken {
				continue // see the specs of the token
			}
			By(kindOf(o) + " " + o.GetName())
			Expect(api.Client.Delete(ctx, o)).To(Succeed())
			w.pass()
			Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
		}
		Expect(get(w, manifests.StateName("main"), &corev1.ConfigMap{}).Data).To(Equal(
			map[string]string{manifests.ProvenKey: w.server().Status.SettingsRevision.Applied}))
	})
})
