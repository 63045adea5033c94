package manifests

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Patch is the intent as a strategic merge patch in YAML, for a manifest that
// the user keeps: what Kustomize takes as a patch and a person can merge by
// hand.
func (i Intent) Patch() string {
	patch := map[string]any{
		"apiVersion": "apps/v1",
		"kind":       string(i.Workload.Kind),
		"metadata":   map[string]any{"name": i.Workload.Meta.Name, "namespace": i.Workload.Meta.Namespace},
		"spec":       map[string]any{"template": i.template()},
	}
	body, err := yaml.Marshal(patch)
	if err != nil {
		panic("apply configurations always marshal: " + err.Error())
	}
	return string(body)
}

// Manual is the ConfigMap that shows the patch.
func Manual(s *v1alpha1.DstackServer, patch string) Object {
	name := ManualName(s.Name)
	return Object{"ConfigMap", name, corev1ac.ConfigMap(name, s.Namespace).
		WithLabels(Labels(s)).
		WithData(map[string]string{PatchKey: patch})}
}

// InPlace compares the workload with the intent, item by item.
func (i Intent) InPlace() []v1alpha1.InjectedItem {
	want, have := generic(i.template()), generic(i.Workload.Template)
	var items []v1alpha1.InjectedItem
	add := func(name string, want, have any) {
		state := v1alpha1.InjectedApplied
		switch {
		case have == nil:
			state = v1alpha1.InjectedMissing
		case have == twice, !contains(have, want):
			state = v1alpha1.InjectedDifferent
		}
		items = append(items, v1alpha1.InjectedItem{Name: name, State: state})
	}
	ours := entry(at(want, "spec", "containers"), "name", i.Container)
	theirs := entry(at(have, "spec", "containers"), "name", i.Container)
	each(at(ours, "env"), "name", func(name string, want any) {
		add(name, want, entry(at(theirs, "env"), "name", name))
	})
	each(at(ours, "volumeMounts"), "mountPath", func(dir string, want any) {
		add("volumeMount "+dir, want, entry(at(theirs, "volumeMounts"), "mountPath", dir))
	})
	for _, list := range []struct{ key, label string }{{"volumes", "volume "}, {"initContainers", "initContainer "}} {
		each(at(want, "spec", list.key), "name", func(name string, want any) {
			add(list.label+name, want, entry(at(have, "spec", list.key), "name", name))
		})
	}
	for _, list := range []struct{ key, name string }{{"annotations", "annotation "}, {"labels", "label "}} {
		entries, _ := at(want, "metadata", list.key).(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			add(list.name+key, entries[key], at(have, "metadata", list.key, key))
		}
	}
	return items
}

// generic is a value as JSON has it.
func generic[T *corev1.PodTemplateSpec | *corev1ac.PodTemplateSpecApplyConfiguration](v T) any {
	body, err := json.Marshal(v)
	if err != nil {
		panic("pod templates always marshal: " + err.Error())
	}
	var out any
	if err := json.Unmarshal(body, &out); err != nil {
		panic("what was marshalled is read again: " + err.Error())
	}
	return out
}

// at follows keys of nested objects; nil when one is missing.
func at(v any, keys ...string) any {
	for _, key := range keys {
		object, _ := v.(map[string]any)
		v = object[key]
	}
	return v
}

// twice stands for entries of which the list has more than one: the last would
// win, or none.
const twice = "more than one"

// entry finds an object in a list by the value of its merge key; nil if it is
// not there, twice if it is not alone.
func entry(list any, key, value string) any {
	entries, _ := list.([]any)
	var found any
	for _, e := range entries {
		switch {
		case at(e, key) != value:
		case found != nil:
			return twice
		default:
			found = e
		}
	}
	return found
}

func each(list any, key string, do func(value string, entry any)) {
	entries, _ := list.([]any)
	for _, e := range entries {
		do(fmt.Sprint(at(e, key)), e)
	}
}

// mergeKeys are the keys by which lists of a pod template are merged, in the
// order in which they are tried: a mount has a name too.
var mergeKeys = []string{"mountPath", "name"}

// contains tells whether have has all that want has. Lists whose entries have a
// merge key may hold more; others must be the same.
func contains(have, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, isObject := have.(map[string]any)
		for key, w := range want {
			if !isObject || !contains(have[key], w) {
				return false
			}
		}
		return isObject
	case []any:
		for _, key := range mergeKeys {
			if len(want) > 0 && at(want[0], key) != nil {
				return containsEach(have, want, key)
			}
		}
	}
	return reflect.DeepEqual(have, want)
}

func containsEach(have any, want []any, key string) bool {
	for _, w := range want {
		value, _ := at(w, key).(string)
		if !contains(entry(have, key, value), w) {
			return false
		}
	}
	return true
}
