package apply

import (
	"bytes"
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
	variablePattern = regexp.MustCompile(`\.env\[name="([^"]+)"\]`)
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

// variable is the environment variable that the conflict is about; "" if it is
// about something else.
func (c Conflict) variable() string {
	if m := variablePattern.FindStringSubmatch(c.Field); m != nil {
		return m[1]
	}
	return ""
}

func envField(container, name string) string {
	return fmt.Sprintf(".spec.template.spec.containers[name=%q].env[name=%q]", container, name)
}

// ownerOf finds the manager that owns an env item, other than ourselves.
func ownerOf(w *workload.Workload, container, name string) string {
	item := fieldpath.MakePathOrDie("spec", "template", "spec",
		"containers", fieldpath.KeyByFields("name", container),
		"env", fieldpath.KeyByFields("name", name))
	for i := range w.Meta.ManagedFields {
		entry := &w.Meta.ManagedFields[i]
		if entry.Manager == WorkloadManager || entry.FieldsV1 == nil {
			continue
		}
		var set fieldpath.Set
		if err := set.FromJSON(bytes.NewReader(entry.FieldsV1.Raw)); err == nil && set.Has(item) {
			return entry.Manager
		}
	}
	return ""
}
