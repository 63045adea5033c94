package apply

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/internal/workload"
)

// OwnsRevision tells whether the settings revision in the pod template was
// written by the operator: who changes its value takes it over.
func OwnsRevision(w *workload.Workload) bool {
	revision := fieldpath.MakePathOrDie("spec", "template", "metadata", "annotations", workload.AnnotationSettings)
	return slices.ContainsFunc(w.Meta.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == WorkloadManager && fieldsOf(&entry).Has(revision)
	})
}
