package apply

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/internal/workload"
)

// OwnsRevision tells whether the settings revision in the pod template was
// written by the operator: who changes its value takes it over.
func OwnsRevision(w *workload.Workload) bool {
	return slices.ContainsFunc(w.Meta.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == WorkloadManager && fieldsOf(&entry).Has(revisionPath())
	})
}
