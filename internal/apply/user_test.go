package apply_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// server is one user's workload in a namespace of its own, and ours beside it.
type server struct {
	kind v1alpha1.WorkloadKind
	ns   string
	// sent counts what applier sends.
	sent    *applies
	applier *apply.Applier
}

func newServer(kind v1alpha1.WorkloadKind) *server {
	GinkgoHelper()
	s := &server{kind: kind, ns: api.Namespace(GinkgoTB()), sent: &applies{}}
	s.applier = apply.New(counting(s.sent))
	return s
}

// manifest is what the user has in a file, changed as the test needs it.
func (s *server) manifest(changes ...func(map[string]any)) *unstructured.Unstructured {
	GinkgoHelper()
	raw, err := os.ReadFile(filepath.Join("testdata", strings.ToLower(string(s.kind))+".yaml"))
	Expect(err).NotTo(HaveOccurred())
	o := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal(raw, &o.Object)).To(Succeed())
	o.SetNamespace(s.ns)
	for _, change := range changes {
		change(o.Object)
	}
	return o
}

func container(o map[string]any) map[string]any {
	GinkgoHelper()
	list, _, err := unstructured.NestedFieldNoCopy(o, "spec", "template", "spec", "containers")
	Expect(err).NotTo(HaveOccurred())
	return list.([]any)[0].(map[string]any)
}

// env adds a literal variable to the manifest's server container.
func env(name, value string) func(map[string]any) {
	return func(o map[string]any) {
		c := container(o)
		c["env"] = append(c["env"].([]any), map[string]any{"name": name, "value": value})
	}
}

func image(name string) func(map[string]any) {
	return func(o map[string]any) { container(o)["image"] = name }
}

func renamed(name string) func(map[string]any) {
	return func(o map[string]any) { container(o)["name"] = name }
}

// kubectlApply does what `kubectl apply` does: a three-way strategic merge of
// the last manifest, this one and the live object.
func (s *server) kubectlApply(o *unstructured.Unstructured) {
	GinkgoHelper()
	ctx := context.Background()
	plain, err := json.Marshal(o)
	Expect(err).NotTo(HaveOccurred())
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[lastApplied] = string(plain)
	o.SetAnnotations(annotations)
	live := s.object()
	if err := api.Client.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		Expect(client.IgnoreNotFound(err)).To(Succeed())
		Expect(api.Client.Create(ctx, o, client.FieldOwner("kubectl-client-side-apply"))).To(Succeed())
		return
	}
	current, err := json.Marshal(live)
	Expect(err).NotTo(HaveOccurred())
	modified, err := json.Marshal(o)
	Expect(err).NotTo(HaveOccurred())
	meta, err := strategicpatch.NewPatchMetaFromStruct(s.object())
	Expect(err).NotTo(HaveOccurred())
	patch, err := strategicpatch.CreateThreeWayMergePatch([]byte(live.GetAnnotations()[lastApplied]), modified, current, meta, true)
	Expect(err).NotTo(HaveOccurred())
	Expect(api.Client.Patch(ctx, live, client.RawPatch(types.StrategicMergePatchType, patch),
		client.FieldOwner("kubectl-client-side-apply"))).To(Succeed())
}

// helmApply does what Helm 4 and Flux do: a server-side apply by force.
func (s *server) helmApply(o *unstructured.Unstructured) error {
	return s.applyAs("helm", o)
}

func (s *server) applyAs(manager string, o *unstructured.Unstructured) error {
	return api.Client.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner(manager), client.ForceOwnership)
}

// setEnv does what `kubectl set env NAME=VALUE` does: a strategic merge patch of
// one item.
func (s *server) setEnv(name, value string) {
	GinkgoHelper()
	s.patchEnv(map[string]any{"name": name, "value": value, "valueFrom": nil})
}

// unsetEnv does what `kubectl set env NAME-` does.
func (s *server) unsetEnv(name string) {
	GinkgoHelper()
	s.patchEnv(map[string]any{"name": name, "$patch": "delete"})
}

func (s *server) patchEnv(item map[string]any) {
	GinkgoHelper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
		"containers": []any{map[string]any{"name": "server", "env": []any{item}}},
	}}}})
	Expect(err).NotTo(HaveOccurred())
	Expect(api.Client.Patch(context.Background(), s.object(), client.RawPatch(types.StrategicMergePatchType, patch),
		client.FieldOwner("kubectl-set"))).To(Succeed())
}

func (s *server) object() client.Object {
	if s.kind == v1alpha1.WorkloadStatefulSet {
		o := &appsv1.StatefulSet{}
		o.Namespace, o.Name = s.ns, testkit.WorkloadName
		return o
	}
	o := &appsv1.Deployment{}
	o.Namespace, o.Name = s.ns, testkit.WorkloadName
	return o
}

// live reads the workload.
func (s *server) live() *workload.Workload {
	GinkgoHelper()
	o := s.object()
	Expect(api.Client.Get(context.Background(), client.ObjectKeyFromObject(o), o)).To(Succeed())
	if set, ok := o.(*appsv1.StatefulSet); ok {
		return workload.FromStatefulSet(set)
	}
	return workload.FromDeployment(o.(*appsv1.Deployment))
}

// spec is the live spec as bytes.
func (s *server) spec() string {
	GinkgoHelper()
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("apps/v1")
	o.SetKind(string(s.kind))
	Expect(api.Client.Get(context.Background(), client.ObjectKey{Namespace: s.ns, Name: testkit.WorkloadName}, o)).To(Succeed())
	raw, err := json.MarshalIndent(o.Object["spec"], "", " ")
	Expect(err).NotTo(HaveOccurred())
	return string(raw)
}

// intent is what the operator wants for network mode 3.
func (s *server) intent(w *workload.Workload, changes ...func(*v1alpha1.DstackServer)) manifests.Intent {
	GinkgoHelper()
	obj := testkit.MakeServer("main").Namespace(s.ns).Obj()
	for _, change := range changes {
		change(obj)
	}
	c, err := w.Container("server")
	Expect(err).NotTo(HaveOccurred())
	return manifests.Settings(manifests.SettingsInput{
		Server: obj, Workload: w, Container: c, NetworkMode: v1alpha1.NetworkModeBridge,
		Files:   manifests.PluginFiles{"dstack_isolation/__init__.py": "# plugin"},
		Options: manifests.Options{Image: "dstack-isolation:1", TokenID: "t0"},
	})
}

// settle applies the intent until a pass changes nothing any more.
func (s *server) settle() apply.Result {
	GinkgoHelper()
	var r apply.Result
	Eventually(func(g Gomega) {
		w := s.live()
		var err error
		r, err = s.applier.Settings(context.Background(), s.intent(w))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.live().Meta.ResourceVersion).To(Equal(w.Meta.ResourceVersion))
	}).WithTimeout(time.Minute).Should(Succeed())
	return r
}

// envNames are the names in the server container's list, in its order.
func (s *server) envNames() []string {
	GinkgoHelper()
	var names []string
	for _, e := range s.serverContainer().Env {
		names = append(names, e.Name)
	}
	return names
}

func (s *server) serverContainer() *corev1.Container {
	GinkgoHelper()
	c, err := s.live().Container("server")
	Expect(err).NotTo(HaveOccurred())
	return c
}

// value is the literal value of a variable; "" where there is none.
func (s *server) value(name string) string {
	GinkgoHelper()
	return workload.Lookup(s.serverContainer(), name).Value
}
