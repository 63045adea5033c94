package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// Result is what became of an intent.
type Result struct {
	// Items are the intent's items, each with what became of it.
	Items []v1alpha1.InjectedItem
	// Conflicts are the clashes with other managers.
	Conflicts []Conflict
	// Invalid is the API server's word on why it refuses the workload with the
	// settings in it; "" when it does not.
	Invalid string
	// Complete is true when all of the intent is in the workload, Plugin when its
	// plugin part is.
	Complete, Plugin bool
}

// Settings puts an intent into the user's workload, never by force but to undo a
// rollback to earlier settings of the operator's own. Of the independent items
// exactly those that clash are left out. If a part of the
// plugin clashes, none of it is set, and if a variable of the SSH proxy does,
// none of those; and where such a part is set already nothing is written at all,
// because leaving it out would open the server.
//
// An error means that the outcome is not known or that the workload has changed
// meanwhile: try again.
func (a *Applier) Settings(ctx context.Context, intent manifests.Intent) (Result, error) {
	key := intent.Workload.String()
	sum, err := digest(intent.Config())
	if err != nil {
		return Result{}, fmt.Errorf("apply settings to %s: %w", intent.Workload, err)
	}
	if a.memo.same(key, sum) {
		return result(intent, intent, nil), nil
	}
	undo := newUndoing(intent.Workload)
	send, conflicts, err := a.negotiate(ctx, intent, undo)
	if err != nil {
		return refused(intent, send, conflicts, err)
	}
	switch {
	case undo.hopeless, opens(intent, send):
		return untouched(intent, conflicts), nil
	case send.Empty():
		// What was set alone before is not wanted any more.
		_, err := a.Release(ctx, intent.Workload)
		return result(intent, send, conflicts), err
	}
	if err := a.apply(ctx, send.Config(), undo.options()...); err != nil {
		return refused(intent, send, conflicts, err)
	}
	if left := undo.remains(intent.Workload, &intent); !left.empty() {
		if err := a.sweep(ctx, intent.Workload, left); err != nil {
			return Result{}, err
		}
	}
	if len(conflicts) == 0 {
		a.memo.set(key, sum)
	}
	return result(intent, send, conflicts), nil
}

// negotiate finds what of the intent can be applied without a clash, by dry
// runs that leave out what the one before reported. What a rollback has put there
// is no clash: the last dry run is with the force by which that will be undone.
// The rounds end because each leaves out more than the one before.
func (a *Applier) negotiate(ctx context.Context, intent manifests.Intent, undo *undoing) (manifests.Intent, []Conflict, error) {
	send, conflicts := withoutKnownClashes(intent)
	for !opens(intent, send) && !send.Empty() {
		err := a.apply(ctx, send.Config(), append(undo.options(), client.DryRunAll)...)
		found := conflictsOf(err)
		if err == nil || len(found) == 0 {
			return send, conflicts, err
		}
		if found = undo.excuse(found); len(found) == 0 {
			continue
		}
		before := send
		for i := range found {
			send, found[i] = drop(intent, send, found[i])
		}
		for _, c := range found {
			if !slices.Contains(conflicts, c) { // What nothing leaves out comes in each round.
				conflicts = append(conflicts, c)
			}
		}
		if undo.hopeless = alike(before, send); undo.hopeless {
			return send, conflicts, nil // What is in the way is in everything that could be sent.
		}
	}
	return send, conflicts, nil
}

// opens tells whether sending would take the plugin out of a server that has
// it, or the SSH proxy out of one that enforces it.
func opens(intent, send manifests.Intent) bool {
	if send.Plugin == nil && intent.Plugin != nil && intent.Workload.Injected() != nil {
		return true
	}
	return len(send.SSH) == 0 && len(intent.SSH) > 0 && ownsItem(intent.Workload, intent.Container, dstack.EnvServerSSHProxyEnforced)
}

// alike tells whether two intents would send the same.
func alike(a, b manifests.Intent) bool {
	return (a.Plugin == nil) == (b.Plugin == nil) && len(a.SSH) == len(b.SSH) &&
		slices.EqualFunc(a.Settings, b.Settings, func(x, y envItem) bool {
			return *x.Name == *y.Name && (x.Value == nil) == (y.Value == nil) && (x.ValueFrom == nil) == (y.ValueFrom == nil)
		})
}

// refused sorts out an apply that failed without a conflict of fields.
func refused(intent, sent manifests.Intent, conflicts []Conflict, err error) (Result, error) {
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) {
		return Result{}, fmt.Errorf("apply settings to %s: %w", intent.Workload, err)
	}
	r := result(intent, sent, conflicts)
	r.Complete, r.Plugin, r.Invalid = false, false, Words(err)
	for i := range r.Items {
		if r.Items[i].State == v1alpha1.InjectedApplied {
			r.Items[i].State = v1alpha1.InjectedWithheld
		}
	}
	return r, nil
}

// Words are the API server's own about why it refuses something.
func Words(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Message
	}
	return err.Error()
}

// withoutKnownClashes leaves out what the API server would not report as a
// conflict: a literal value where another manager has a reference, or the other
// way round, and names that stand twice in the user's list.
func withoutKnownClashes(intent manifests.Intent) (manifests.Intent, []Conflict) {
	w := intent.Workload
	container, err := w.Container(intent.Container)
	if err != nil {
		return manifests.Intent{Workload: w, Container: intent.Container, Revision: intent.Revision}, []Conflict{{Field: "containers", Message: err.Error()}}
	}
	var conflicts []Conflict
	send := intent
	for _, e := range intent.Env() {
		name := *e.Name
		live := workload.Item(container, name)
		switch {
		case live == nil:
			continue
		case workload.Occurrences(container, name) > 1:
			var c Conflict
			send, c = drop(intent, send, Conflict{Field: envField(intent.Container, name), Message: "the name stands more than once in the list: remove all but one"})
			conflicts = append(conflicts, c)
		case (live.ValueFrom != nil) != (e.ValueFrom != nil):
			var c Conflict
			send, c = drop(intent, send, Conflict{
				Field: envField(intent.Container, name), Manager: ownerOf(w, intent.Container, name),
				Message: "one sets a value and the other a reference",
			})
			conflicts = append(conflicts, c)
		}
	}
	return send, conflicts
}

// drop leaves out of what is sent what a conflict is about, and names it in the
// conflict. Several managers that own one field make several conflicts of it.
func drop(intent, send manifests.Intent, c Conflict) (manifests.Intent, Conflict) {
	c.Item = c.variable(intent.Container)
	named := func(e envItem) bool { return *e.Name == c.Item }
	switch {
	case slices.ContainsFunc(intent.Settings, named):
		return leaveOut(send, c.Item), c
	case slices.ContainsFunc(intent.SSH, named):
		return send.WithoutSSH(), c
	}
	if c.Item == "" {
		c.Item = c.Field
	}
	return send.WithoutPlugin(), c
}

// leaveOut leaves one variable out. Where the item itself is ours and somebody
// has set another value in it, its name stays in the intent: to leave the name
// out would delete the item, and with it the value that is not ours.
func leaveOut(send manifests.Intent, name string) manifests.Intent {
	if !ownsItem(send.Workload, send.Container, name) {
		return send.WithoutSetting(name)
	}
	send.Settings = slices.Clone(send.Settings)
	for i, e := range send.Settings {
		if *e.Name == name {
			send.Settings[i] = corev1ac.EnvVar().WithName(name)
		}
	}
	return send
}

// untouched tells of each item of an intent of which nothing was sent whether it is
// in the workload all the same.
func untouched(intent manifests.Intent, conflicts []Conflict) Result {
	r := result(intent, intent.WithoutSSH().WithoutPlugin(), conflicts)
	r.Complete, r.Plugin = false, false
	live := map[string]v1alpha1.InjectedState{}
	for _, item := range intent.InPlace() {
		live[item.Name] = item.State
	}
	for i := range r.Items {
		switch item := &r.Items[i]; {
		case item.State == v1alpha1.InjectedConflict:
		case live[item.Name] == v1alpha1.InjectedApplied:
			item.State = v1alpha1.InjectedApplied
		default:
			item.State = v1alpha1.InjectedWithheld
		}
	}
	return r
}

// result tells of each item of the intent whether it was sent.
func result(intent, sent manifests.Intent, conflicts []Conflict) Result {
	r := Result{Conflicts: conflicts, Complete: len(conflicts) == 0, Plugin: sent.Plugin != nil}
	add := func(name string, applied bool) {
		item := v1alpha1.InjectedItem{Name: name, State: v1alpha1.InjectedApplied}
		if !applied {
			item.State = v1alpha1.InjectedWithheld
		}
		for _, c := range conflicts {
			if c.Item == name {
				item.State, item.Manager = v1alpha1.InjectedConflict, c.Manager
			}
		}
		r.Items = append(r.Items, item)
	}
	for _, e := range intent.Settings {
		kept := slices.ContainsFunc(sent.Settings, func(s envItem) bool { return *s.Name == *e.Name })
		add(*e.Name, kept)
	}
	for _, e := range intent.SSH {
		add(*e.Name, len(sent.SSH) > 0)
	}
	if p := intent.Plugin; p != nil {
		for _, e := range p.Env {
			add(*e.Name, sent.Plugin != nil)
		}
		for _, v := range p.Volumes {
			add("volume "+*v.Name, sent.Plugin != nil)
		}
		add("initContainer "+*p.Init.Name, sent.Plugin != nil)
	}
	return r
}
