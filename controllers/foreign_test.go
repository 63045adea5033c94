package controllers_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// collector is a process that answers as a dstack server does and keeps what it is
// sent.
type collector struct {
	dstackServer
	lock     sync.Mutex
	requests []string
}

func (c *collector) ServeHTTP(out http.ResponseWriter, req *http.Request) {
	c.lock.Lock()
	c.requests = append(c.requests, req.URL.Path+" "+req.Header.Get("Authorization"))
	c.lock.Unlock()
	c.dstackServer.ServeHTTP(out, req)
}

func (c *collector) got() []string {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.requests
}

// jobPod starts a pod as a job of dstack's is one, with labels of its user's choice:
// the workload's, and what change adds. It listens, and is ready.
func (w *world) jobPod(name string, change func(*corev1.Pod)) *collector {
	GinkgoHelper()
	pod := testkit.MakeServerPod().WithServer(func(c *corev1.Container) { c.Name = name + "-container" }).Pod(name)
	pod.Namespace, pod.Spec.NodeName = w.ns, "node"
	if change != nil {
		change(pod)
	}
	Expect(api.Client.Create(context.Background(), pod)).To(Succeed())
	w.setStatus(testkit.SetReady(get(w, name, &corev1.Pod{}), "10.0.0.66"))
	c := &collector{dstackServer: dstackServer{release: "0.22.5", token: "admin-token", role: "admin"}}
	w.network.at("10.0.0.66:3000", w.network.listen(c))
	return c
}

// adopted lets a pod be as one that has been adopted for its labels.
func adopted(pod *corev1.Pod, by metav1.Object, kind string) {
	if set, ok := by.(*appsv1.ReplicaSet); ok {
		pod.Labels[testkit.HashLabel] = set.Labels[testkit.HashLabel]
	}
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(by, appsv1.SchemeGroupVersion.WithKind(kind))}
}

const foreignRemedy = ". Services that select by these labels send it users' requests and tokens: delete it. For a pod of a dstack job, deny controls.tags or run jobs in another namespace"

var _ = Describe("A pod with the labels of the server", func() {
	ctx := context.Background()
	withToken := func() *testkit.Server { return testkit.MakeServer("main").AdminToken("dstack-admin", "token") }
	secret := func() client.Object { return secretOf("dstack-admin", "admin-token") }

	It("gets no token when it is not the server's, and status says so until it is gone", func() {
		w := stock(withToken(), testkit.MakeServerPod().Data(), secret(), testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		Expect(w.condition("PodsOwned")).To(Equal("PodsOwned=True Owned: all pods with the labels of Deployment NS/dstack-server are its own"))
		w.events()

		job := w.jobPod("train-0-0", nil)
		w.settle()
		Expect(job.got()).To(BeEmpty())
		Expect(w.server().Status.Running.Pods).To(BeEquivalentTo(1))
		Expect(w.condition("Connected")).To(Equal("Connected=True Connected: all 1 server pods answer; dstack 0.22.5"))
		const foreign = "1 pod with the labels of Deployment NS/dstack-server is not its own: train-0-0 (no controller)" + foreignRemedy
		Expect(w.condition("PodsOwned")).To(Equal("PodsOwned=False ForeignPods: " + foreign))
		Expect(w.condition("Ready")).To(Equal("Ready=False ForeignPods: " + foreign))
		Expect(w.condition("Stalled")).To(Equal("Stalled=True ForeignPods: " + foreign))
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		Expect(w.events()).To(Equal([]string{"Warning ForeignPods PodsOwned is False: " + foreign}))

		w.end("train-0-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(job.got()).To(BeEmpty())
	})

	It("gets none when its ReplicaSet has adopted it for its labels", func() {
		w := stock(withToken(), testkit.MakeServerPod().Data(), secret())
		w.bringUp()
		set := w.replicaSet()
		job := w.jobPod("train-0-0", func(pod *corev1.Pod) { adopted(pod, set, "ReplicaSet") })
		w.settle()
		Expect(job.got()).To(BeEmpty())
		Expect(w.server().Status.Running.Pods).To(BeEquivalentTo(1))
		Expect(w.condition("PodsOwned")).To(Equal("PodsOwned=False ForeignPods: 1 pod with the labels of Deployment NS/dstack-server is not its own: train-0-0 (adopted by ReplicaSet " + set.Name + ", which did not make it)" + foreignRemedy))
	})

	It("gets none when its StatefulSet has adopted and labelled it", func() {
		server := withToken().Workload(v1alpha1.WorkloadStatefulSet, testkit.WorkloadName)
		w := newWorld(server.Obj(), testkit.MakeServerPod().Data().StatefulSet(testkit.WorkloadName), secret())
		w.startPod("dstack-server-0")
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		set := w.statefulSet()
		job := w.jobPod("dstack-server-1", func(pod *corev1.Pod) {
			adopted(pod, set, "StatefulSet")
			pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
		})
		w.settle()
		Expect(job.got()).To(BeEmpty())
		Expect(w.server().Status.Running.Pods).To(BeEquivalentTo(1))
		Expect(w.condition("PodsOwned")).To(Equal("PodsOwned=False ForeignPods: 1 pod with the labels of StatefulSet NS/dstack-server is not its own: dstack-server-1 (adopted by StatefulSet dstack-server, which did not make it)" + foreignRemedy))
	})

	It("gets neither the SSH proxy's token nor a way to the policy server", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		job := w.jobPod("train-0-0", func(pod *corev1.Pod) { adopted(pod, w.replicaSet(), "ReplicaSet") })
		w.settle()
		Expect(job.got()).To(BeEmpty())
		own := map[string]string{"isolation.dstack.ai/server-pod": "main"}
		Expect(get(w, manifests.ServerServiceName("main"), &corev1.Service{}).Spec.Selector).To(Equal(own))
		peers := get(w, manifests.PolicyServerName("main"), &networkingv1.NetworkPolicy{}).Spec.Ingress[0].From
		Expect(peers).To(HaveLen(2))
		Expect(peers[0].PodSelector.MatchLabels).To(Equal(own))
		Expect(get(w, "dstack-server-0", &corev1.Pod{}).Labels).To(HaveKeyWithValue("isolation.dstack.ai/server-pod", "main"))
		Expect(w.standing("hostSSH")).To(Equal("Enforced"))
	})

	It("blocks no release", func() {
		w := stock(withToken(), testkit.MakeServerPod().Data(), secret())
		w.bringUp()
		job := w.jobPod("train-0-0", nil)
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		w.pass()
		w.roll("dstack-server-0")
		Expect(w.try("main")).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
		Expect(job.got()).To(BeEmpty())
	})

	It("keeps its policy server when an earlier workload has left it behind", func() {
		w := usual()
		w.bringUp()
		change(w, get(w, "dstack-server-0", &corev1.Pod{}), func(pod *corev1.Pod) { pod.OwnerReferences = nil })
		w.settle()
		Expect(w.condition("PodsOwned")).To(ContainSubstring("dstack-server-0 (no controller)"))
		Expect(w.condition("Connected")).To(HavePrefix("Connected=Unknown NoServerPods: "))
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		w.pass()
		w.pass()
		w.allThere()
		w.end("dstack-server-0")
		Expect(w.try("main")).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
	})

	It("is the server's own although the cache has not seen its ReplicaSet", func() {
		w := stock(withToken(), testkit.MakeServerPod().Data(), secret())
		w.withFaults(interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*appsv1.ReplicaSetList); ok {
				return nil
			}
			return c.List(ctx, list, opts...)
		}})
		w.pass()
		Expect(w.condition("PodsOwned")).To(HavePrefix("PodsOwned=True "))
		Expect(w.condition("Connected")).To(HavePrefix("Connected=True "))
	})

	It("is sent nothing, and counts as the weakest, while its ReplicaSet cannot be read", func() {
		w := stock(withToken(), testkit.MakeServerPod().Data(), secret())
		w.bringUp()
		set := w.replicaSet()
		w.config.Live = interceptor.NewClient(api.Client, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, ok := o.(*appsv1.ReplicaSet); ok {
				return errors.New("the API server is away")
			}
			return c.Get(ctx, key, o, opts...)
		}})
		w.withFaults(interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*appsv1.ReplicaSetList); ok {
				return nil
			}
			return c.List(ctx, list, opts...)
		}})
		w.pass()
		Expect(w.condition("PodsOwned")).To(Equal("PodsOwned=Unknown PodsUnknown: the owner of pods with the labels of Deployment NS/dstack-server is not known, and they get no token until it is: dstack-server-0 (its ReplicaSet " + set.Name + " cannot be read or is gone)"))
		Expect(w.condition("Connected")).To(HavePrefix("Connected=Unknown NoServerPods: "))
		Expect(w.server().Status.Running).To(Equal(&v1alpha1.RunningSettings{Pods: 1, NetworkMode: 2}))
		Expect(w.condition("Ready")).NotTo(HavePrefix("Ready=True"))
		w.config.Live = api.Client
		w.withoutFaults()
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("stays the server's own when its ReplicaSet is gone before it", func() {
		w := usual()
		w.bringUp()
		w.terminate("dstack-server-0")
		w.pass()
		Expect(api.Client.Delete(ctx, w.replicaSet())).To(Succeed())
		w.pass()
		Expect(w.condition("PodsOwned")).To(HavePrefix("PodsOwned=True "))
		Expect(w.server().Status.Running.PolicyPods).To(BeEquivalentTo(1))
	})

	It("is let in by the workload's labels, and gets no SSH proxy's token by them, while it has the settings of an earlier version", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		change(w, get(w, "dstack-server-0", &corev1.Pod{}), func(pod *corev1.Pod) { delete(pod.Labels, "isolation.dstack.ai/server-pod") })
		w.settle()
		own := map[string]string{"isolation.dstack.ai/server-pod": "main"}
		Expect(get(w, manifests.ServerServiceName("main"), &corev1.Service{}).Spec.Selector).To(Equal(own), "the proxies send it their token")
		peers := get(w, manifests.PolicyServerName("main"), &networkingv1.NetworkPolicy{}).Spec.Ingress[0].From
		Expect(peers).To(HaveLen(3))
		Expect(peers[2].PodSelector.MatchLabels).To(Equal(testkit.ServerLabels()))
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False Unreachable: no server pod has label isolation.dstack.ai/server-pod," +
			" so the SSH proxy cannot reach the server and nobody can log in: see SettingsApplied"))

		change(w, get(w, "dstack-server-0", &corev1.Pod{}), func(pod *corev1.Pod) { pod.Labels["isolation.dstack.ai/server-pod"] = "main" })
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	})

	It("loses its label with the settings", func() {
		w := usual()
		w.bringUp()
		Expect(w.template().Labels).To(HaveKeyWithValue("isolation.dstack.ai/server-pod", "main"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
		w.pass()
		Expect(w.template().Labels).To(Equal(testkit.ServerLabels()))
	})

	It("has it shown to who keeps the manifest", func() {
		w := stock(testkit.MakeServer("main").Injection(v1alpha1.InjectionManual), testkit.MakeServerPod().Data())
		w.pass()
		w.policyServersUp()
		w.pass()
		Expect(w.server().Status.ManualPatch).To(ContainSubstring("      labels:\n        isolation.dstack.ai/server-pod: main\n"))
		Expect(strings.Join(injectedNames(w), " ")).To(ContainSubstring("label isolation.dstack.ai/server-pod"))
	})
})

func injectedNames(w *world) []string {
	GinkgoHelper()
	var names []string
	for _, item := range w.server().Status.Injected {
		names = append(names, item.Name)
	}
	return names
}
