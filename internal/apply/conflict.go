package apply

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/internal/workload"
)

type envItem = *corev1ac.EnvVarApplyConfiguration

// Conflict is one field of the workload that another manager sets to something
// else.
type Conflict struct {
	// Field as the API server names it.
	Field string
	// Item is the item of the intent that the field belongs to.
	Item string
	// Manager that owns the field; "" when it is not known.
	Manager string
	// Message says what clashes when the API server did not say so.
	Message string
}

// String says what clashes with whom and what to do.
func (c Conflict) String() string {
	manager := c.Manager
	if manager == "" {
		manager = "another manager"
	}
	text := fmt.Sprintf("%s is set by %s", c.Item, manager)
	if c.Message != "" {
		text += " (" + c.Message + ")"
	}
	return text
}

var (
	managerPattern  = regexp.MustCompile(`conflict with "([^"]*)"`)
	variablePattern = regexp.MustCompile(`^\.spec\.template\.spec\.containers\[name="([^"]+)"\]\.env\[name="([^"]+)"\]`)
)

// conflictsOf reads the causes of a conflict of field managers. A conflict
// without such causes is a lost race for the object's version.
func conflictsOf(err error) []Conflict {
	var status apierrors.APIStatus
	if !apierrors.IsConflict(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	var conflicts []Conflict
	for _, cause := range status.Status().Details.Causes {
		if cause.Type != metav1.CauseTypeFieldManagerConflict {
			continue
		}
		c := Conflict{Field: cause.Field}
		if m := managerPattern.FindStringSubmatch(cause.Message); m != nil {
			c.Manager = m[1]
		}
		conflicts = append(conflicts, c)
	}
	return slices.CompactFunc(conflicts, func(a, b Conflict) bool { return a == b })
}

// variable is the environment variable of the container that the conflict is
// about; "" if it is about something else.
func (c Conflict) variable(container string) string {
	if m := variablePattern.FindStringSubmatch(c.Field); m != nil && m[1] == container {
		return m[2]
	}
	return ""
}

func envField(container, name string) string {
	return fmt.Sprintf(".spec.template.spec.containers[name=%q].env[name=%q]", container, name)
}

func itemPath(container, name string) fieldpath.Path {
	return fieldpath.MakePathOrDie("spec", "template", "spec",
		"containers", fieldpath.KeyByFields("name", container),
		"env", fieldpath.KeyByFields("name", name))
}

// ownerOf finds the manager that owns the value or the reference of an env
// item, other than ourselves. Who changes the value of another's item owns that
// value alone.
func ownerOf(w *workload.Workload, container, name string) string {
	item := itemPath(container, name)
	value, reference := fieldpath.MakePathOrDie("value"), fieldpath.MakePathOrDie("valueFrom")
	for i := range w.Meta.ManagedFields {
		entry := &w.Meta.ManagedFields[i]
		if entry.Manager == WorkloadManager {
			continue
		}
		below := fieldsOf(entry)
		for _, element := range item {
			below = below.WithPrefix(element)
		}
		if below.Has(value) || below.Has(reference) || !below.WithPrefix(reference[0]).Empty() {
			return entry.Manager
		}
	}
	return ""
}

// OwnsVariable tells whether a variable of a container is the operator's.
func OwnsVariable(w *workload.Workload, container, name string) bool {
	return ownsItem(w, container, name)
}

// ownsItem tells whether an env item is the operator's, whoever has set its
// value since.
func ownsItem(w *workload.Workload, container, name string) bool {
	item := itemPath(container, name)
	return slices.ContainsFunc(w.Meta.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == WorkloadManager && fieldsOf(&entry).Has(item)
	})
}

// fieldsOf are the fields of one entry; none when they cannot be read.
func fieldsOf(entry *metav1.ManagedFieldsEntry) *fieldpath.Set {
	set := fieldpath.NewSet()
	if entry.FieldsV1 == nil || set.FromJSON(entry.FieldsV1.GetRawReader()) != nil {
		return fieldpath.NewSet()
	}
	return set
}
