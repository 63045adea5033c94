package sharing

import (
	_ "embed"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

//go:embed testdata/dstack-server.yaml
var written []byte

// Change is an edit of the user's manifest.
type Change func(*Manifest)

// Manifest is the user's file, as far as edits reach into it.
type Manifest struct {
	object *unstructured.Unstructured
	pod    map[string]any
	// server is the container in which dstack runs.
	server map[string]any
}

// Manifest is what the user has in a file, with edits.
func (w *Workload) Manifest(changes ...Change) *unstructured.Unstructured {
	GinkgoHelper()
	o := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal(written, &o.Object)).To(Succeed())
	o.SetNamespace(w.Namespace)
	o.SetKind(string(w.Kind))
	if w.Kind == v1alpha1.WorkloadStatefulSet {
		Expect(unstructured.SetNestedField(o.Object, o.GetName(), "spec", "serviceName")).To(Succeed())
	}
	pod, _, err := unstructured.NestedFieldNoCopy(o.Object, "spec", "template", "spec")
	Expect(err).NotTo(HaveOccurred())
	m := &Manifest{object: o, pod: pod.(map[string]any)}
	m.server = m.pod["containers"].([]any)[0].(map[string]any)
	for _, change := range changes {
		change(m)
	}
	return o
}

// YAML is the text of a manifest.
func YAML(o *unstructured.Unstructured) string {
	GinkgoHelper()
	text, err := yaml.Marshal(o.Object)
	Expect(err).NotTo(HaveOccurred())
	return string(text)
}

// Image is another release of dstack.
func Image(name string) Change { return func(m *Manifest) { m.server["image"] = name } }

// Replicas is another number of pods.
func Replicas(n int64) Change {
	return func(m *Manifest) { m.object.Object["spec"].(map[string]any)["replicas"] = n }
}

// Annotation is one more annotation of the pods.
func Annotation(name, value string) Change {
	return func(m *Manifest) {
		err := unstructured.SetNestedField(m.object.Object, value, "spec", "template", "metadata", "annotations", name)
		Expect(err).NotTo(HaveOccurred())
	}
}

// Env is one more variable of the server, after those that are there.
func Env(name, value string) Change {
	return func(m *Manifest) {
		m.server["env"] = append(m.server["env"].([]any), map[string]any{"name": name, "value": value})
	}
}

// EnvReference is one more variable of the server, from a ConfigMap.
func EnvReference(name, configMap string) Change {
	return func(m *Manifest) {
		m.server["env"] = append(m.server["env"].([]any), map[string]any{"name": name, "valueFrom": map[string]any{
			"configMapKeyRef": map[string]any{"name": configMap, "key": "value"},
		}})
	}
}

// WithoutFirstEnv leaves out the first variable of the server.
func WithoutFirstEnv() Change {
	return func(m *Manifest) { m.server["env"] = m.server["env"].([]any)[1:] }
}

// Renamed gives the server's container another name.
func Renamed(name string) Change { return func(m *Manifest) { m.server["name"] = name } }

// WithoutSidecar leaves out the container beside the server's.
func WithoutSidecar() Change {
	return func(m *Manifest) { m.pod["containers"] = m.pod["containers"].([]any)[:1] }
}

// VolumeRenamed gives the volume with the server's directory another name.
func VolumeRenamed(name string) Change {
	return func(m *Manifest) {
		m.pod["volumes"].([]any)[0].(map[string]any)["name"] = name
		m.server["volumeMounts"].([]any)[0].(map[string]any)["name"] = name
	}
}

// Partial is what somebody takes for a patch of the server's image, a manifest
// that leaves out all else.
func (w *Workload) Partial() *unstructured.Unstructured {
	GinkgoHelper()
	full := w.Manifest()
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": full.GetAPIVersion(), "kind": full.GetKind(),
		"metadata": map[string]any{"name": full.GetName(), "namespace": full.GetNamespace()},
	}}
	Expect(unstructured.SetNestedSlice(o.Object, []any{map[string]any{"name": w.Container, "image": "dstack-server:0.22.5"}},
		"spec", "template", "spec", "containers")).To(Succeed())
	return o
}
