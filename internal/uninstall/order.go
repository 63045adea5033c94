package uninstall

import (
	"fmt"
	"time"
)

// Begin turns an order among a manager's annotations into the note that it is being
// carried out. It returns false when there is no order.
func Begin(annotations map[string]string, now time.Time) bool {
	if annotations[AnnotationOrder] == "" {
		return false
	}
	delete(annotations, AnnotationOrder)
	annotations[AnnotationBegun] = now.UTC().Format(time.RFC3339)
	return true
}

// End takes the note away that an order is being carried out. It returns false when
// there is none.
func End(annotations map[string]string) bool {
	if annotations[AnnotationBegun] == "" {
		return false
	}
	delete(annotations, AnnotationBegun)
	return true
}

// begun decides by the note of an ordered cleanup that has not ended. A Job that
// tries again goes on with it. Later nobody can know whether the order still holds.
func (e Evidence) begun(v Verdict, note string) (Verdict, error) {
	notEnded := fmt.Sprintf("%s; to keep them isolated, run: kubectl -n %s annotate deployment %s %s-", e.command(), e.Namespace, e.Manager, AnnotationBegun)
	at, err := time.Parse(time.RFC3339, note)
	if err != nil {
		return v, fmt.Errorf("%w: annotation %s of Deployment %s must be the time at which an ordered cleanup began, and is %q; %s", ErrUnknown, AnnotationBegun, e.Manager, note, notEnded)
	}
	reason := fmt.Sprintf("annotation %s of Deployment %s shows that an ordered cleanup began at %s and has not ended", AnnotationBegun, e.Manager, note)
	if !e.recent(at) {
		return v, fmt.Errorf("%w: %s; %s", ErrUnknown, reason, notEnded)
	}
	v.Restore, v.Reason = true, reason
	return v, nil
}
