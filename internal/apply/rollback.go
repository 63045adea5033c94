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
	// rollers are the managers who have put earlier settings back. There are none where
	// the operator owns nothing: then the settings are somebody's manifest's.
	rollers []string
	// wishing are the managers whose fields a manifest declares.
	wishing []string
	// hopeless is true once conflicts are left that leaving out does not solve.
	hopeless bool
	// needed is true once nothing but such conflicts are left.
	needed bool
}

// newUndoing looks at who owns what in a workload.
func newUndoing(w *workload.Workload) *undoing {
	u := &undoing{}
	declared := strings.Contains(w.Meta.Annotations[corev1.LastAppliedConfigAnnotation], v1alpha1.Group+"/")
	for i := range w.Meta.ManagedFields {
		entry := &w.Meta.ManagedFields[i]
		switch {
		case entry.Manager == WorkloadManager || entry.Subresource != "":
		case entry.Operation != metav1.ManagedFieldsOperationUpdate || declared:
			u.wishing = append(u.wishing, entry.Manager)
		case Owns(w) && fieldsOf(entry).Has(revisionPath()):
			u.rollers = append(u.rollers, entry.Manager)
		}
	}
	return u
}

// excuse leaves the conflicts that are somebody's wish.
func (u *undoing) excuse(found []Conflict) []Conflict {
	left := slices.DeleteFunc(slices.Clone(found), func(c Conflict) bool {
		return !slices.Contains(u.wishing, c.Manager) && (slices.Contains(u.rollers, c.Manager) || c.ofOursAlone())
	})
	u.needed = len(left) == 0
	return left
}

// ofOursAlone tells whether a conflict is about a field that nobody but the operator
// has any use for.
func (c Conflict) ofOursAlone() bool {
	const template = ".spec.template."
	return slices.ContainsFunc([]string{
		template + "metadata.annotations." + v1alpha1.Group + "/",
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
