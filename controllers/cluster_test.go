package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

type runtimeObject = runtime.Object

// revision is the policy revision of DstackServer main as the objects are now;
// "none" without such a server.
func (w *world) revision() string {
	GinkgoHelper()
	var server v1alpha1.DstackServer
	if err := api.Client.Get(context.Background(), w.key("main"), &server); err != nil {
		Expect(client.IgnoreNotFound(err)).To(Succeed())
		return "none"
	}
	var all v1alpha1.IsolationProfileList
	Expect(api.Client.List(context.Background(), &all, client.InNamespace(w.ns))).To(Succeed())
	return isolation.Resolve(isolation.Input{Server: &server, Profiles: all.Items, Now: w.clock.Now()}).Revision
}

// policyServersUp plays the controllers of the policy server's Deployment and
// of its EndpointSlice, and its pods, which decide by the present revision.
func (w *world) policyServersUp() []*policyServer {
	GinkgoHelper()
	d := get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{})
	n := int(ptr.Deref(d.Spec.Replicas, 1))
	servers := make([]*policyServer, n)
	for i := range servers {
		servers[i] = &policyServer{token: w.token(), revision: w.revision(), version: "v1"}
		w.network.at(fmt.Sprintf("10.0.1.%d:8080", i+1), w.network.listen(servers[i]))
	}
	w.policyServersReady(n)
	return servers
}

// policyServersReady lets n replicas of the policy server be ready.
func (w *world) policyServersReady(n int) {
	GinkgoHelper()
	d := testkit.SetRolledOut(get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}))
	d.Status.ReadyReplicas, d.Status.AvailableReplicas = int32(n), int32(n)
	Expect(api.Client.Status().Update(context.Background(), d)).To(Succeed())
	w.endpoints(n)
}

// endpoints lets n pods of the policy server be in its EndpointSlice.
func (w *world) endpoints(n int) {
	GinkgoHelper()
	w.endpointsOf(manifests.PolicyServerName("main"), "10.0.1.", n)
}

// endpointsOf lets n pods be in the EndpointSlice of a Service.
func (w *world) endpointsOf(name, prefix string, n int) {
	GinkgoHelper()
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Namespace, slice.Name = w.ns, name+"-abcde"
	slice.Labels = manifests.Labels(w.server())
	slice.Labels[discoveryv1.LabelServiceName] = name
	for i := range n {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("%s%d", prefix, i+1)}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		})
	}
	old := &discoveryv1.EndpointSlice{}
	old.Namespace, old.Name = slice.Namespace, slice.Name
	Expect(client.IgnoreNotFound(api.Client.Delete(context.Background(), old))).To(Succeed())
	Expect(api.Client.Create(context.Background(), slice)).To(Succeed())
}

// token is the policy server's token.
func (w *world) token() string {
	GinkgoHelper()
	return string(get(w, manifests.TokenSecretName("main"), &corev1.Secret{}).Data[manifests.TokenKey])
}

// template is the workload's pod template as it is now.
func (w *world) template() corev1.PodTemplateSpec {
	GinkgoHelper()
	if w.server().Spec.Workload.Kind == v1alpha1.WorkloadStatefulSet {
		return w.statefulSet().Spec.Template
	}
	return w.deployment().Spec.Template
}

// startPod plays the controller that makes a pod of the workload's present
// template, and the scheduler: a pod on a node ends only when its kubelet says so.
func (w *world) startPod(name string) *corev1.Pod {
	GinkgoHelper()
	pod := w.made(testkit.PodOf(w.ns, name, w.template()))
	pod.Spec.NodeName = "node"
	Expect(api.Client.Create(context.Background(), pod)).To(Succeed())
	return pod
}

// made lets a pod be as the controllers of the workload make it, of a ReplicaSet of
// the present template where the workload is a Deployment.
func (w *world) made(pod *corev1.Pod) *corev1.Pod {
	GinkgoHelper()
	if w.server().Spec.Workload.Kind == v1alpha1.WorkloadStatefulSet {
		return testkit.MadeBy(pod, w.statefulSet())
	}
	return testkit.MadeBy(pod, w.replicaSet())
}

// replicaSet is the ReplicaSet of the Deployment's present template. One of an earlier
// Deployment goes with that.
func (w *world) replicaSet() *appsv1.ReplicaSet {
	GinkgoHelper()
	d := w.deployment()
	set := testkit.ReplicaSetOf(d)
	live := &appsv1.ReplicaSet{}
	err := api.Client.Get(context.Background(), w.key(set.Name), live)
	if err == nil && metav1.IsControlledBy(live, d) {
		return live
	}
	Expect(client.IgnoreNotFound(err)).To(Succeed())
	if err == nil {
		Expect(api.Client.Delete(context.Background(), live)).To(Succeed())
	}
	set.UID = ""
	Expect(api.Client.Create(context.Background(), set)).To(Succeed())
	return set
}

// setStatus writes what the kubelet says of a pod.
func (w *world) setStatus(pod *corev1.Pod) {
	GinkgoHelper()
	Expect(api.Client.Status().Update(context.Background(), pod)).To(Succeed())
}

// ready lets a pod be ready and dstack in it answer.
func (w *world) ready(name, ip string) *dstackServer {
	GinkgoHelper()
	w.setStatus(testkit.SetReady(get(w, name, &corev1.Pod{}), ip))
	process := &dstackServer{release: "0.22.5", token: "admin-token", role: "admin"}
	w.network.at(ip+":3000", w.network.listen(process))
	return process
}

// end lets a pod be gone, as its kubelet would in the end.
func (w *world) end(name string) {
	GinkgoHelper()
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = w.ns, name
	Expect(client.IgnoreNotFound(api.Client.Delete(context.Background(), pod, client.GracePeriodSeconds(0)))).To(Succeed())
}

// terminate lets a pod be told to end.
func (w *world) terminate(name string) {
	GinkgoHelper()
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = w.ns, name
	Expect(api.Client.Delete(context.Background(), pod)).To(Succeed())
	Expect(get(w, name, &corev1.Pod{}).DeletionTimestamp).NotTo(BeNil(), "it still runs")
}

// rolledOut lets the workload's controller say that all pods are of the present
// template and ready.
func (w *world) rolledOut() {
	GinkgoHelper()
	if w.server().Spec.Workload.Kind == v1alpha1.WorkloadStatefulSet {
		Expect(api.Client.Status().Update(context.Background(), testkit.SetStatefulRolledOut(w.statefulSet()))).To(Succeed())
		return
	}
	Expect(api.Client.Status().Update(context.Background(), testkit.SetRolledOut(w.deployment()))).To(Succeed())
}

// rollingOut lets the workload's controller say that no pod of the present
// template is ready yet.
func (w *world) rollingOut() {
	GinkgoHelper()
	if w.server().Spec.Workload.Kind == v1alpha1.WorkloadStatefulSet {
		s := testkit.SetStatefulRolledOut(w.statefulSet())
		s.Status.ReadyReplicas, s.Status.AvailableReplicas = 0, 0
		Expect(api.Client.Status().Update(context.Background(), s)).To(Succeed())
		return
	}
	d := testkit.SetRolledOut(w.deployment())
	d.Status.ReadyReplicas, d.Status.AvailableReplicas = 0, 0
	Expect(api.Client.Status().Update(context.Background(), d)).To(Succeed())
}

// roll replaces the pod of the workload by one of its present template.
func (w *world) roll(pod string) {
	GinkgoHelper()
	w.end(pod)
	w.startPod(pod)
	w.ready(pod, "10.0.0.1")
	w.rolledOut()
}

// bringUp goes all the way for a server whose pod runs: policy servers,
// settings, a pod with them.
func (w *world) bringUp() {
	GinkgoHelper()
	w.inject()
	w.roll("dstack-server-0")
	w.settle()
	Expect(w.server().Status.SettingsRevision.Proven).NotTo(BeEmpty(), w.condition("SettingsApplied"))
}

// inject goes as far as the settings in the workload.
func (w *world) inject() {
	GinkgoHelper()
	w.pass()
	w.policyServersUp()
	w.pass()
	Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
}

// kindOf names the kind of an object that the operator owns.
func kindOf(o client.Object) string {
	GinkgoHelper()
	gvk, err := api.Client.GroupVersionKindFor(o)
	Expect(err).NotTo(HaveOccurred())
	return gvk.Kind
}

// specOf is the object's spec as JSON.
func specOf(o client.Object) string {
	GinkgoHelper()
	raw, err := json.Marshal(o)
	Expect(err).NotTo(HaveOccurred())
	var whole struct {
		Spec json.RawMessage `json:"spec"`
	}
	Expect(json.Unmarshal(raw, &whole)).To(Succeed())
	return string(whole.Spec)
}

// failInit replaces the pod by one of the present template whose init container
// of ours fails.
func (w *world) failInit(name string) {
	GinkgoHelper()
	w.end(name)
	w.startPod(name)
	w.setStatus(testkit.SetInitFailed(get(w, name, &corev1.Pod{}), workload.InjectContainer, 1, "config.yml is not valid YAML: line 3"))
	w.rollingOut()
}

// specAndStatus is the whole object as JSON.
func specAndStatus(o client.Object) string {
	GinkgoHelper()
	raw, err := json.Marshal(o)
	Expect(err).NotTo(HaveOccurred())
	return string(raw)
}

// isInjected tells whether a Deployment has the plugin, also when its
// DstackServer is gone.
func isInjected(d *appsv1.Deployment) bool { return len(d.Spec.Template.Spec.InitContainers) > 0 }
