package apply

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// undoing says which conflicts are nobody's wish. A rollback, by kubectl rollout undo
// or the like, puts the pod template back to earlier settings of the operator's own,
// and Kubernetes then takes whoever did so for the manager of all that differs. The
// same goes for who changes a part of the operator's own init container, as kubectl
// set resources does to all containers. What a manifest declares is a wish: what was
// applied from the server's side, and what client-side apply remembers.
type undoing struct {
	// rolled are the fields of those who have put earlier settings back; none where the
	// operator owns nothing: then the settings are somebody's manifest's.
	rolled *fieldpath.Set
	// written are fields that somebody wrote without declaring them, wished those that
	// a manifest declares. One name may have both, as kubectl has.
	written, wished *fieldpath.Set
	// hopeless is true once conflicts are left that leaving out does not solve.
	hopeless bool
	// needed is true once nothing but excused conflicts are left.
	needed bool
}

// newUndoing looks at who owns what in a workload.
func newUndoing(w *workload.Workload) *undoing {
	u := &undoing{rolled: fieldpath.NewSet(), written: fieldpath.NewSet(), wished: fieldpath.NewSet()}
	declared := strings.Contains(w.Meta.Annotations[corev1.LastAppliedConfigAnnotation], v1alpha1.Group+"/")
	owns := Owns(w)
	for i := range w.Meta.ManagedFields {
		entry := &w.Meta.ManagedFields[i]
		fields := fieldsOf(entry)
		switch {
		case entry.Manager == WorkloadManager || entry.Subresource != "":
		case entry.Operation != metav1.ManagedFieldsOperationUpdate || declared:
			u.wished = u.wished.Union(fields)
		case owns && fields.Has(revisionPath()):
			u.rolled, u.written = u.rolled.Union(fields), u.written.Union(fields)
		default:
			u.written = u.written.Union(fields)
		}
	}
	return u
}

// excuse leaves the conflicts that are somebody's wish.
func (u *undoing) excuse(found []Conflict) []Conflict {
	left := slices.DeleteFunc(slices.Clone(found), func(c Conflict) bool {
		return !has(u.wished, c.Field) && (has(u.rolled, c.Field) || c.ofOursAlone() && has(u.written, c.Field))
	})
	u.needed = len(left) == 0
	return left
}

// has tells whether a set has the field that the API server names in a conflict.
func has(set *fieldpath.Set, field string) bool {
	found := false
	set.Iterate(func(p fieldpath.Path) { found = found || p.String() == field })
	return found
}

// ofOursAlone tells whether a conflict is about a field that nobody but the operator
// has any use for.
func (c Conflict) ofOursAlone() bool {
	const template = ".spec.template."
	return slices.ContainsFunc([]string{
		template + "metadata.annotations." + v1alpha1.Group + "/",
		template + "metadata.labels." + v1alpha1.Group + "/",
		template + `spec.initContainers[name="` + workload.InjectContainer + `"].`,
		template + `spec.volumes[name="` + manifests.ConfigVolume + `"].`,
		template + `spec.volumes[name="` + manifests.PluginVolume + `"].`,
	}, func(prefix string) bool { return strings.HasPrefix(c.Field, prefix) })
}

// options of an apply: force only where nobody's wish stands in the way.
func (u *undoing) options() []client.ApplyOption {
	options := []client.ApplyOption{client.FieldOwner(WorkloadManager)}
	if u.needed {
		options = append(options, client.ForceOwnership)
	}
	return options
}

func revisionPath() fieldpath.Path {
	return fieldpath.MakePathOrDie("spec", "template", "metadata", "annotations", workload.AnnotationSettings)
}
