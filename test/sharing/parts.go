package sharing

import (
	"context"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// ExpectShared expects the workload to be what the manifest makes of it and the
// operator's items, and nothing else; and that the operator, which remembers
// nothing, has nothing to do.
func (w *Workload) ExpectShared(manifest *unstructured.Unstructured) {
	GinkgoHelper()
	live := w.Live()
	intent := w.intent(live)
	Expect(cmp.Diff(w.alone(manifest), w.theirs(live, intent, manifest))).To(BeEmpty(), "the user's own must be as the user wrote it (-written +live)")

	r, err := apply.New(w.operator).Settings(context.Background(), intent)
	Expect(err).NotTo(HaveOccurred())
	Expect(r.Conflicts).To(BeEmpty())
	Expect(r.Invalid).To(BeEmpty())
	Expect(r.Complete).To(BeTrue())
	Expect(w.Live().Meta.ResourceVersion).To(Equal(live.Meta.ResourceVersion), "all of the operator's items must be in place")
	Expect(r.Items).To(HaveEach(HaveField("State", v1alpha1.InjectedApplied)))
	expectOwners(live, intent, manifest)
}

// ExpectSpec expects the workload's spec to be what the manifest makes of it,
// and nothing else.
func (w *Workload) ExpectSpec(manifest *unstructured.Unstructured) {
	GinkgoHelper()
	o := w.Object()
	Expect(w.client.Get(context.Background(), client.ObjectKeyFromObject(o), o)).To(Succeed())
	Expect(cmp.Diff(w.alone(manifest), specOf(o))).To(BeEmpty(), "the workload must be the user's own (-written +live)")
}

// ExpectUsersOwn expects that too, and that the operator owns nothing.
func (w *Workload) ExpectUsersOwn(manifest *unstructured.Unstructured) {
	GinkgoHelper()
	w.ExpectSpec(manifest)
	Expect(apply.Owns(w.Live())).To(BeFalse(), "the operator must own nothing")
}

// Managers are those who own fields of the workload, each with the operation it
// wrote by.
func (w *Workload) Managers() map[string]metav1.ManagedFieldsOperationType {
	GinkgoHelper()
	found := map[string]metav1.ManagedFieldsOperationType{}
	for _, entry := range w.Live().Meta.ManagedFields {
		found[entry.Manager] = entry.Operation
	}
	return found
}

// alone is the spec that the API server makes of a manifest where no operator
// is.
func (w *Workload) alone(manifest *unstructured.Unstructured) any {
	GinkgoHelper()
	o := w.Object()
	Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(manifest.Object, o)).To(Succeed())
	o.SetName("as-the-user-wrote-it")
	Expect(w.client.Create(context.Background(), o, client.DryRunAll)).To(Succeed())
	return specOf(o)
}

// theirs is the live spec without what the operator alone sets.
func (w *Workload) theirs(live *workload.Workload, intent manifests.Intent, manifest *unstructured.Unstructured) any {
	GinkgoHelper()
	o := w.Object()
	Expect(w.client.Get(context.Background(), client.ObjectKeyFromObject(o), o)).To(Succeed())
	Expect(o.GetResourceVersion()).To(Equal(live.Meta.ResourceVersion), "nobody else writes in a test")
	t := templateOf(o)
	for i := range t.Spec.Containers {
		c := &t.Spec.Containers[i]
		if c.Name != w.Container {
			continue
		}
		c.Env = without(c.Env, onlyOurs(intent, manifest), func(e corev1.EnvVar) string { return e.Name })
		c.VolumeMounts = without(c.VolumeMounts, mountPaths(intent), func(m corev1.VolumeMount) string { return m.MountPath })
	}
	t.Spec.Volumes = without(t.Spec.Volumes, volumeNames(intent), func(v corev1.Volume) string { return v.Name })
	t.Spec.InitContainers = without(t.Spec.InitContainers, []string{*intent.Plugin.Init.Name}, func(c corev1.Container) string { return c.Name })
	for _, ours := range []map[string]string{t.Annotations, t.Labels} {
		for name := range ours {
			if strings.HasPrefix(name, v1alpha1.Group+"/") {
				delete(ours, name)
			}
		}
	}
	return specOf(o)
}

func specOf(o client.Object) any {
	if set, ok := o.(*appsv1.StatefulSet); ok {
		return set.Spec
	}
	return o.(*appsv1.Deployment).Spec
}

func templateOf(o client.Object) *corev1.PodTemplateSpec {
	if set, ok := o.(*appsv1.StatefulSet); ok {
		return &set.Spec.Template
	}
	return &o.(*appsv1.Deployment).Spec.Template
}

// without are the items but for those of the names, each of which must be there;
// nil for an empty list, as the API has it.
func without[T any](items []T, names []string, name func(T) string) []T {
	GinkgoHelper()
	for _, n := range names {
		Expect(slices.ContainsFunc(items, func(i T) bool { return name(i) == n })).To(BeTrue(), "%s must be in the workload", n)
	}
	left := slices.DeleteFunc(items, func(i T) bool { return slices.Contains(names, name(i)) })
	if len(left) == 0 {
		return nil
	}
	return left
}

// onlyOurs are the variables of the intent that the manifest does not name.
func onlyOurs(intent manifests.Intent, manifest *unstructured.Unstructured) []string {
	GinkgoHelper()
	text := YAML(manifest)
	var names []string
	for _, e := range intent.Env() {
		if !strings.Contains(text, "name: "+*e.Name+"\n") {
			names = append(names, *e.Name)
		}
	}
	return names
}

func mountPaths(intent manifests.Intent) []string {
	var paths []string
	for _, m := range intent.Plugin.Mounts {
		paths = append(paths, *m.MountPath)
	}
	return paths
}

func volumeNames(intent manifests.Intent) []string {
	var names []string
	for _, v := range intent.Plugin.Volumes {
		names = append(names, *v.Name)
	}
	return names
}

// expectOwners expects the operator to own its items and nothing else, by
// server-side apply, and nobody else to own any of them.
func expectOwners(live *workload.Workload, intent manifests.Intent, manifest *unstructured.Unstructured) {
	GinkgoHelper()
	items := itemPaths(intent, manifest)
	// The key of an item of a list is owned with all that is in it.
	keys := append(itemPaths(intent, nil), `.spec.template.spec.containers[name="`+intent.Container+`"]`)
	for _, entry := range live.Meta.ManagedFields {
		ours := entry.Manager == apply.WorkloadManager
		if ours {
			Expect(entry.Operation).To(Equal(metav1.ManagedFieldsOperationApply), "the operator must write by server-side apply alone")
		}
		for _, path := range pathsOf(&entry) {
			if !ours {
				Expect(under(path, items)).To(BeFalse(), "%s must not own %s", entry.Manager, path)
				continue
			}
			isKey := path == keys[len(keys)-1] || path == keys[len(keys)-1]+".name"
			Expect(isKey || under(path, keys[:len(keys)-1])).To(BeTrue(), "the operator must not own %s", path)
		}
	}
}

func under(path string, items []string) bool {
	return slices.ContainsFunc(items, func(item string) bool { return strings.HasPrefix(path, item) })
}

// itemPaths are the paths of the operator's items, less the variables that the
// manifest names too.
func itemPaths(intent manifests.Intent, manifest *unstructured.Unstructured) []string {
	GinkgoHelper()
	const spec = ".spec.template.spec."
	server := spec + `containers[name="` + intent.Container + `"]`
	const template = ".spec.template.metadata."
	paths := []string{template + "annotations." + v1alpha1.Group + "/", template + "labels." + v1alpha1.Group + "/", spec + `initContainers[name="` + *intent.Plugin.Init.Name + `"]`}
	for _, name := range volumeNames(intent) {
		paths = append(paths, spec+`volumes[name="`+name+`"]`)
	}
	for _, path := range mountPaths(intent) {
		paths = append(paths, server+`.volumeMounts[mountPath="`+path+`"]`)
	}
	if manifest == nil {
		manifest = &unstructured.Unstructured{Object: map[string]any{}}
	}
	for _, name := range onlyOurs(intent, manifest) {
		paths = append(paths, server+`.env[name="`+name+`"]`)
	}
	return paths
}

// pathsOf are the fields that one manager owns.
func pathsOf(entry *metav1.ManagedFieldsEntry) []string {
	GinkgoHelper()
	var set fieldpath.Set
	Expect(set.FromJSON(entry.FieldsV1.GetRawReader())).To(Succeed())
	var paths []string
	set.Iterate(func(p fieldpath.Path) { paths = append(paths, p.String()) })
	return paths
}
