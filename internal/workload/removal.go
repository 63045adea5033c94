package workload

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Lost are those of the named items, as status.injected names them, that the pod
// template does not have.
func (w *Workload) Lost(c *corev1.Container, items []string) []string {
	return slices.DeleteFunc(slices.Clone(items), func(item string) bool { return w.has(c, item) })
}

func (w *Workload) has(c *corev1.Container, item string) bool {
	kind, name, found := strings.Cut(item, " ")
	switch {
	case !found:
		// None of ours is empty: that is what is left when a manager that took over
		// the value lets go of it.
		live := Item(c, item)
		return live != nil && (live.Value != "" || live.ValueFrom != nil)
	case kind == "volume":
		mounted := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == name })
		return mounted && findVolume(w.Template.Spec.Volumes, name) != nil
	case kind == "volumeMount":
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return mountDir(&m) == name })
	case kind == "initContainer":
		return findContainer(w.Template.Spec.InitContainers, name) != nil
	case kind == "annotation":
		return w.Template.Annotations[name] != ""
	case kind == "label":
		return w.Template.Labels[name] != ""
	}
	return true // Nothing that this release puts there.
}

// LastWriter is the manager, other than our own, that wrote the workload last,
// and when. There is none if our own write is the later one, and none if a pod
// with the settings was made after it: then that write left them in. The API
// server keeps no name of a manager that only takes fields out.
func (w *Workload) LastWriter(ours string, pods []corev1.Pod) (manager string, at time.Time) {
	var own time.Time
	for i := range w.Meta.ManagedFields {
		f := &w.Meta.ManagedFields[i]
		switch {
		case f.Subresource != "" || f.Time == nil:
		case f.Manager == ours:
			own = f.Time.Time
		case f.Time.After(at):
			manager, at = f.Manager, f.Time.Time
		}
	}
	left := slices.ContainsFunc(pods, func(p corev1.Pod) bool {
		return p.Annotations[AnnotationSettings] != "" && !p.CreationTimestamp.Time.Before(at)
	})
	if left || !at.After(own) {
		return "", time.Time{}
	}
	return manager, at
}
