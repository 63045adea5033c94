// Package apply is the only writer of the spec of other objects: it applies the
// operator's own objects, puts settings into the user's workload, and gives
// them back.
package apply

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// Field managers. Neither name is one that another tool takes over or strips,
// as Flux does with names that begin with kubectl.
const (
	// WorkloadManager owns the settings in the user's workload.
	WorkloadManager = "dstack-isolation"
	// OwnManager owns the operator's own objects.
	OwnManager = "dstack-isolation-manager"
)

// Applier writes by server-side apply.
type Applier struct {
	client client.Client
	memo   *memo
}

// New returns an Applier that writes through c.
func New(c client.Client) *Applier {
	return &Applier{client: c, memo: newMemo()}
}

// Own applies one object of the operator's own, with force: no other manager
// has a say in it. liveVersion is the resourceVersion of the object as it was
// read, or "" when it is not there; nothing is sent when neither it nor the
// configuration has changed since the last time.
func (a *Applier) Own(ctx context.Context, o manifests.Object, liveVersion string) error {
	key := o.Kind + "/" + o.Name
	sum, err := digest(o.Config)
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", o.Kind, o.Name, err)
	}
	if liveVersion != "" && a.memo.same(key, sum+liveVersion) {
		return nil
	}
	if err := a.apply(ctx, o.Config, client.FieldOwner(OwnManager), client.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s %s: %w", o.Kind, o.Name, err)
	}
	if liveVersion != "" {
		a.memo.set(key, sum+liveVersion)
	}
	return nil
}

// Release gives back all that was set in the workload, and reports whether
// there was anything. A workload that is gone, or that another one of its name
// has replaced, has nothing of ours.
func (a *Applier) Release(ctx context.Context, w *workload.Workload) (bool, error) {
	if !Owns(w) {
		return false, nil
	}
	left := newUndoing(w).remains(w, nil)
	err := a.apply(ctx, manifests.Release(w), client.FieldOwner(WorkloadManager))
	if apierrors.IsNotFound(err) || isUIDMismatch(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("release %s: %w", w, err)
	}
	if !left.empty() {
		return true, a.sweep(ctx, w, left)
	}
	return true, nil
}

// HandOver lets go of what was set in the workload, if other managers set all
// of it to the same: then nothing changes but who owns it.
func (a *Applier) HandOver(ctx context.Context, w *workload.Workload) error {
	ours, others := fieldpath.NewSet(), fieldpath.NewSet()
	for i := range w.Meta.ManagedFields {
		entry := &w.Meta.ManagedFields[i]
		if entry.Manager == WorkloadManager {
			ours = ours.Union(fieldsOf(entry))
		} else {
			others = others.Union(fieldsOf(entry))
		}
	}
	if ours.Empty() || !ours.Leaves().Difference(others).Empty() {
		return nil
	}
	_, err := a.Release(ctx, w)
	return err
}

// apply sends a copy of a configuration. The client decodes the API server's
// answer, which is the whole object, into what it is given; by the pointers in a
// configuration that would reach the intent, which may be sent again.
func (a *Applier) apply(ctx context.Context, config runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	body, err := json.Marshal(config)
	if err != nil {
		return err
	}
	var sent unstructured.Unstructured
	if err := sent.UnmarshalJSON(body); err != nil {
		return err
	}
	return a.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(&sent), opts...)
}

// Owns tells whether the workload carries anything of ours.
func Owns(w *workload.Workload) bool {
	for i := range w.Meta.ManagedFields {
		if w.Meta.ManagedFields[i].Manager == WorkloadManager && w.Meta.ManagedFields[i].Subresource == "" {
			return true
		}
	}
	return false
}
