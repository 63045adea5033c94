package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// held is what a pod template enforces.
type held struct {
	plugin, ssh bool
	mode        int
}

// userWorkload is the user's Deployment or StatefulSet.
func (m *mortal) userWorkload() *workload.Workload {
	GinkgoHelper()
	if m.kind == v1alpha1.WorkloadStatefulSet {
		return workload.FromStatefulSet(m.statefulSet())
	}
	return workload.FromDeployment(m.deployment())
}

// heldBy is what the workload enforces in pods that are made of it now.
func (m *mortal) heldBy(w *workload.Workload) held {
	pod := testkit.PodOf(m.ns, "of-now", *w.Template)
	at := manifests.Endpoint(testkit.MakeServer("main").Namespace(m.ns).Obj())
	running := workload.Running([]corev1.Pod{*pod}, testkit.ServerContainer, at)
	return held{
		plugin: running.PolicyPods == 1, ssh: running.SSHEnforcedPods == 1, mode: isolation.Strictness(running.NetworkMode),
	}
}

// lookAtWrite looks at the workload when it was written: what it enforced once
// it enforces, and no variable is half there.
func (m *mortal) lookAtWrite(o versioned) {
	GinkgoHelper()
	if o.GetName() != testkit.WorkloadName {
		return
	}
	w := m.userWorkload()
	now, at := m.heldBy(w), m.writes
	if !m.releasing {
		Expect(now.plugin || !m.held.plugin).To(BeTrue(), "the plugin went: %v", at)
		Expect(now.ssh || !m.held.ssh || m.dropping).To(BeTrue(), "the SSH proxy is not enforced any more: %v", at)
		Expect(now.mode).To(BeNumerically(">=", m.held.mode), "the network mode got looser: %v", at)
		m.held = now
		if running := m.server().Status.Running; running != nil {
			Expect(isolation.Strictness(running.NetworkMode)).To(BeNumerically("<=", now.mode), "a looser mode than decisions know of: %v", at)
		}
	}
	c := &w.Template.Spec.Containers[0]
	for _, e := range c.Env {
		Expect(e.Value != "" || e.ValueFrom != nil).To(BeTrue(), "%s is empty: %v", e.Name, at)
	}
	if workload.Lookup(c, dstack.EnvServerSSHProxyEnforced).Set {
		Expect(now.ssh).To(BeTrue(), "enforced without token and address: %v", at)
		Expect(m.proxiesUp).To(BeTrue(), "enforced before the proxy answers: %v", at)
	}
}

// beforeDelete: nothing goes that a pod relies on.
func (m *mortal) beforeDelete(o client.Object) {
	GinkgoHelper()
	if m.dead {
		return
	}
	if !m.releasing && !m.dropping && kindOf(o) == "Secret" && nameOfCopy.MatchString(o.GetName()) {
		m.expectUnread(o.GetName())
		return
	}
	ofProxy := m.dropping && (strings.HasPrefix(o.GetName(), "isolation-ssh-") || o.GetName() == "isolation-server-main")
	Expect(m.releasing || ofProxy).To(BeTrue(), "delete %s %s", kindOf(o), o.GetName())
	var pods corev1.PodList
	Expect(api.Client.List(context.Background(), &pods, client.InNamespace(m.ns))).To(Succeed())
	for i := range pods.Items {
		pod := &pods.Items[i]
		Expect(ofProxy || len(pod.Spec.InitContainers) == 0).To(BeTrue(), "delete %s %s, which pod %s asks", kindOf(o), o.GetName(), pod.Name)
		Expect(pod.Annotations).NotTo(HaveKey(workload.AnnotationSSHToken), "delete %s %s", kindOf(o), o.GetName())
	}
}

// expectUnread expects that no pod reads a copy of a Secret, and that none will.
func (m *mortal) expectUnread(name string) {
	GinkgoHelper()
	specs := []*corev1.PodSpec{&m.userWorkload().Template.Spec}
	var pods corev1.PodList
	Expect(api.Client.List(context.Background(), &pods, client.InNamespace(m.ns))).To(Succeed())
	for i := range pods.Items {
		specs = append(specs, &pods.Items[i].Spec)
	}
	var own appsv1.DeploymentList
	Expect(api.Client.List(context.Background(), &own, client.InNamespace(m.ns))).To(Succeed())
	for i := range own.Items {
		specs = append(specs, &own.Items[i].Spec.Template.Spec)
	}
	for _, spec := range specs {
		Expect(workload.Secrets(spec)).NotTo(ContainElement(name))
	}
}

// lastPatch tells whether a patch lets the DstackServer go, which must be the
// last that is done.
func (m *mortal) lastPatch(o client.Object) bool {
	GinkgoHelper()
	server, is := o.(*v1alpha1.DstackServer)
	last := is && server.DeletionTimestamp != nil && len(server.Finalizers) == 0
	if last && !m.dead {
		Expect(apply.Owns(m.userWorkload())).To(BeFalse(), "the finalizer goes before the settings")
		Expect(m.ownLeft()).To(BeEmpty(), "the finalizer goes before these")
	}
	return last
}

// ownLeft are the operator's own objects in the namespace.
func (m *mortal) ownLeft() []string {
	GinkgoHelper()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.outcome())), func(name string) bool {
		return !strings.Contains(name, "isolation-")
	})
}

// outcome is all that there is in the end, but pods: what differs from one
// namespace to another is left out or has a name in its place.
func (m *mortal) outcome() map[string]string {
	GinkgoHelper()
	out := map[string]string{}
	lists := []client.ObjectList{
		&v1alpha1.DstackServerList{}, &v1alpha1.IsolationProfileList{}, &appsv1.DeploymentList{}, &appsv1.StatefulSetList{},
		&corev1.ServiceList{}, &corev1.ConfigMapList{}, &corev1.SecretList{},
		&policyv1.PodDisruptionBudgetList{}, &networkingv1.NetworkPolicyList{},
	}
	same := m.placeholders()
	for _, list := range lists {
		Expect(api.Client.List(context.Background(), list, client.InNamespace(m.ns))).To(Succeed())
		Expect(meta.EachListItem(list, func(o runtime.Object) error {
			object := o.(client.Object)
			name := kindOf(object) + " " + nameOfCopy.ReplaceAllString(object.GetName(), "$1-ID")
			Expect(out).NotTo(HaveKey(name), "two copies of one Secret are left")
			out[name] = timesOfRemoval.ReplaceAllString(same.Replace(namesOfCopies.ReplaceAllString(plainObject(object), "$1-ID")), "$1: TIME")
			return nil
		})).To(Succeed())
	}
	return out
}

// nameOfCopy is that of a copy of a Secret: it ends in a digest of what is in it.
var nameOfCopy = regexp.MustCompile(`^(isolation-.*)-[0-9a-f]{8}$`)

// namesOfCopies are those wherever they are named.
var namesOfCopies = regexp.MustCompile(`\b(isolation-(?:policy|ssh)-main-(?:token|host-keys))-[0-9a-f]{8}\b`)

var timesOfRemoval = regexp.MustCompile(`("removedAt"|"restoredAt"): "[^"]*"`)

// placeholders replace what stands for tokens and names of this world.
func (m *mortal) placeholders() *strings.Replacer {
	GinkgoHelper()
	pairs := []string{m.ns, "NS", m.revision(), "POLICY"}
	var server v1alpha1.DstackServer
	if api.Client.Get(context.Background(), m.key("main"), &server) == nil {
		pairs = append(pairs, string(server.UID), "UID")
	}
	add := func(annotations map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(annotations)) {
			pairs = append(pairs, annotations[key], key)
		}
	}
	add(m.userWorkload().Template.Annotations)
	for _, name := range []string{manifests.PolicyServerName("main"), sshProxyName} {
		var own appsv1.Deployment
		if api.Client.Get(context.Background(), m.key(name), &own) == nil {
			add(own.Spec.Template.Annotations)
		}
	}
	var approved corev1.ConfigMap
	if api.Client.Get(context.Background(), m.key(manifests.ApprovedName("main")), &approved) == nil {
		pairs = append(pairs, approved.Data[manifests.ApprovedSealKey], "SEAL")
	}
	return strings.NewReplacer(pairs...)
}

// plainObject is an object without what the API server gives it and without
// secrets; of the workload with who owns which field, and how often it changed.
func plainObject(o client.Object) string {
	GinkgoHelper()
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	Expect(err).NotTo(HaveOccurred())
	u := unstructured.Unstructured{Object: raw}
	isWorkload := u.GetName() == testkit.WorkloadName
	var owners []string
	for _, entry := range u.GetManagedFields() {
		if isWorkload && entry.Subresource == "" {
			owners = append(owners, fmt.Sprintf("%s %s %s", entry.Manager, entry.Operation, entry.FieldsV1))
		}
	}
	slices.Sort(owners)
	drop := [][]string{
		{"metadata", "uid"},
		{"metadata", "resourceVersion"},
		{"metadata", "creationTimestamp"},
		{"metadata", "managedFields"},
		{"spec", "clusterIP"},
		{"spec", "clusterIPs"},
		{"spec", "ports"},
		{"status", "sshProxy", "fingerprints"},
		{"status", "sshProxy", "knownHosts"},
	}
	if !isWorkload {
		drop = append(drop, []string{"metadata", "generation"})
	}
	if !strings.Contains(fmt.Sprintf("%T", o), "v1alpha1") {
		drop = append(drop, []string{"status"})
	}
	for _, path := range drop {
		unstructured.RemoveNestedField(raw, path...)
	}
	if conditions, found, _ := unstructured.NestedSlice(raw, "status", "conditions"); found {
		for _, c := range conditions {
			delete(c.(map[string]any), "lastTransitionTime")
		}
		Expect(unstructured.SetNestedSlice(raw, conditions, "status", "conditions")).To(Succeed())
	}
	if data, found, _ := unstructured.NestedMap(raw, "data"); found && kindOf(o) == "Secret" {
		raw["data"] = slices.Sorted(maps.Keys(data))
	}
	text, err := json.MarshalIndent(raw, "", " ")
	Expect(err).NotTo(HaveOccurred())
	return string(text) + strings.Join(owners, "\n")
}
