package apply

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// undoing says whose fields a rollback has made of what were the operator's. Nil
// undoes nothing.
type undoing struct {
	managers []string
	// needed is true once the API server has named one of them in a conflict.
	needed bool
}

// rollback recognises a pod template that somebody has put back, by kubectl rollout
// undo or the like, to earlier settings of the operator's own. Kubernetes then
// takes whoever did so for the manager of all that differs, and would refuse the
// settings of now. What a manifest declares is no rollback: neither what was
// applied from the server's side, nor what client-side apply remembers.
func rollback(intent manifests.Intent) *undoing {
	w := intent.Workload
	if live := w.SettingsRevision(); live == "" || live == intent.Revision || OwnsRevision(w) ||
		strings.Contains(w.Meta.Annotations[corev1.LastAppliedConfigAnnotation], workload.AnnotationSettings) {
		return nil
	}
	undo := &undoing{}
	for i := range w.Meta.ManagedFields {
		entry := &w.Meta.ManagedFields[i]
		if !fieldsOf(entry).Has(revisionPath()) {
			continue
		}
		if entry.Operation != metav1.ManagedFieldsOperationUpdate {
			return nil
		}
		undo.managers = append(undo.managers, entry.Manager)
	}
	return undo
}

// excuse leaves the conflicts that are no undoing of a rollback.
func (u *undoing) excuse(found []Conflict) []Conflict {
	if u == nil {
		return found
	}
	left := slices.DeleteFunc(slices.Clone(found), func(c Conflict) bool { return slices.Contains(u.managers, c.Manager) })
	if len(left) == 0 {
		u.needed = true
	}
	return left
}

// options of an apply: force only where nothing but the rollback stands in the way.
func (u *undoing) options() []client.ApplyOption {
	options := []client.ApplyOption{client.FieldOwner(WorkloadManager)}
	if u != nil && u.needed {
		options = append(options, client.ForceOwnership)
	}
	return options
}

func revisionPath() fieldpath.Path {
	return fieldpath.MakePathOrDie("spec", "template", "metadata", "annotations", workload.AnnotationSettings)
}
