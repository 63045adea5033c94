package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// remains are items of the operator's own that a rollback has put back and nobody
// wants: server-side apply does not take them out, because somebody else put them
// there.
type remains struct {
	annotations, labels, volumes []string
	// env and mounts by the name of their container.
	env, mounts map[string][]string
	inject      bool
}

func (r remains) empty() bool {
	return len(r.annotations)+len(r.labels)+len(r.volumes)+len(r.env)+len(r.mounts) == 0 && !r.inject
}

// remains finds what a rollback has put back beside what is wanted; nil wants
// nothing.
func (u *undoing) remains(w *workload.Workload, wanted *manifests.Intent) remains {
	r := remains{env: map[string][]string{}, mounts: map[string][]string{}}
	if u.rolled.Empty() {
		return r
	}
	has := wantedItems(wanted)
	r.annotations = unwanted(w.Template.Annotations, "annotation ", has)
	r.labels = unwanted(w.Template.Labels, "label ", has)
	for i := range w.Template.Spec.Volumes {
		if v := w.Template.Spec.Volumes[i].Name; volumeOfOurs(v) && !has["volume "+v] {
			r.volumes = append(r.volumes, v)
		}
	}
	r.inject = w.Injected() != nil && !has["initContainer "+workload.InjectContainer]
	for i := range w.Template.Spec.Containers {
		c := &w.Template.Spec.Containers[i]
		if wanted != nil && c.Name == wanted.Container {
			r.lookAt(c, has, u.rolled)
		} else {
			r.lookAt(c, nil, u.rolled)
		}
	}
	return r
}

// unwanted are the keys of the operator's own that are not wanted.
func unwanted(live map[string]string, kind string, has map[string]bool) []string {
	var keys []string
	for key := range live {
		if strings.HasPrefix(key, v1alpha1.Group+"/") && !has[kind+key] {
			keys = append(keys, key)
		}
	}
	return keys
}

// wantedItems are the names of an intent's items.
func wantedItems(wanted *manifests.Intent) map[string]bool {
	has := map[string]bool{}
	if wanted != nil {
		for _, item := range wanted.InPlace() {
			has[item.Name] = true
		}
	}
	return has
}

// lookAt finds what of a container remains, beside what it is to have.
func (r *remains) lookAt(c *corev1.Container, has map[string]bool, theirs *fieldpath.Set) {
	for _, e := range c.Env {
		if ofOurs(&e) && !has[e.Name] && theirs.Has(itemPath(c.Name, e.Name)) {
			r.env[c.Name] = append(r.env[c.Name], e.Name)
		}
	}
	for _, m := range c.VolumeMounts {
		if volumeOfOurs(m.Name) && !has["volumeMount "+m.MountPath] {
			r.mounts[c.Name] = append(r.mounts[c.Name], m.MountPath)
		}
	}
}

func volumeOfOurs(name string) bool {
	return name == manifests.ConfigVolume || name == manifests.PluginVolume
}

// ofOurs tells whether a variable is one that the operator sets.
func ofOurs(e *corev1.EnvVar) bool {
	return slices.Contains(manifests.Variables(), e.Name) && (e.Name != dstack.EnvPythonPath || e.Value == manifests.PluginDir)
}

// sweep takes the remains of a rollback out, by a strategic merge patch that names
// each of them.
func (a *Applier) sweep(ctx context.Context, w *workload.Workload, r remains) error {
	body, err := json.Marshal(r.patch(w))
	if err != nil {
		return fmt.Errorf("take the remains of a rollback out of %s: %w", w, err)
	}
	err = a.client.Patch(ctx, object(w), client.RawPatch(types.StrategicMergePatchType, body), client.FieldOwner(OwnManager))
	if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) && !isUIDMismatch(err) {
		return fmt.Errorf("take the remains of a rollback out of %s: %w", w, err)
	}
	return nil
}

func (r remains) patch(w *workload.Workload) map[string]any {
	gone := func(key string, names []string) []any {
		all := []any{}
		for _, name := range names {
			all = append(all, map[string]any{key: name, "$patch": "delete"})
		}
		return all
	}
	absent := func(keys []string) map[string]any {
		all := map[string]any{}
		for _, key := range keys {
			all[key] = nil
		}
		return all
	}
	var containers []any
	for i := range w.Template.Spec.Containers {
		name := w.Template.Spec.Containers[i].Name
		if len(r.env[name])+len(r.mounts[name]) > 0 {
			containers = append(containers, map[string]any{"name": name, "env": gone("name", r.env[name]), "volumeMounts": gone("mountPath", r.mounts[name])})
		}
	}
	spec := map[string]any{"volumes": gone("name", r.volumes)}
	if len(containers) > 0 {
		spec["containers"] = containers
	}
	if r.inject {
		spec["initContainers"] = gone("name", []string{workload.InjectContainer})
	}
	metadata := map[string]any{"annotations": absent(r.annotations), "labels": absent(r.labels)}
	return map[string]any{
		"metadata": map[string]any{"uid": w.Meta.UID},
		"spec":     map[string]any{"template": map[string]any{"metadata": metadata, "spec": spec}},
	}
}

// object is the workload by name alone.
func object(w *workload.Workload) client.Object {
	meta := metav1.ObjectMeta{Namespace: w.Meta.Namespace, Name: w.Meta.Name}
	if w.Kind == v1alpha1.WorkloadStatefulSet {
		return &appsv1.StatefulSet{ObjectMeta: meta}
	}
	return &appsv1.Deployment{ObjectMeta: meta}
}
