package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// exceptions lists the exceptions of a profile with their ends.
func exceptions(obj *v1alpha1.IsolationProfile, p *isolation.Profile, now time.Time) []v1alpha1.ExceptionStatus {
	const most = 64 // As many as the API allows.
	all := obj.Spec.Exceptions[:min(len(obj.Spec.Exceptions), most)]
	var out []v1alpha1.ExceptionStatus
	for i := range all {
		x := &all[i]
		out = append(out, v1alpha1.ExceptionStatus{
			Name: clipName(x.Name), State: exceptionState(x, p, now), ExpiresAt: x.ExpiresAt,
			Users: int32(min(len(x.Users), 1<<30)), Controls: knownControls(x.Controls),
		})
	}
	return out
}

// clipName bounds the name of an exception that no API server has checked.
func clipName(name string) string {
	const most = 63
	if len(name) <= most {
		return name
	}
	return clipTo(name, most-len("…"))
}

// knownControls leaves out what the API of this release refuses in a status.
func knownControls(all []v1alpha1.ControlName) []v1alpha1.ControlName {
	var known []v1alpha1.ControlName
	for _, name := range all {
		if _, isKnown := isolation.ControlByName(name); isKnown && !slices.Contains(known, name) {
			known = append(known, name)
		}
	}
	return known
}

func exceptionState(x *v1alpha1.Exception, p *isolation.Profile, now time.Time) v1alpha1.ExceptionState {
	switch {
	case hasEnded(x, now):
		return v1alpha1.ExceptionExpired
	case p.Lifts(x.Name):
		return v1alpha1.ExceptionActive
	}
	return v1alpha1.ExceptionInactive
}

// hasEnded decides as a policy server does.
func hasEnded(x *v1alpha1.Exception, now time.Time) bool {
	return x.ExpiresAt != nil && !now.Before(x.ExpiresAt.Time)
}

// exceptionsCurrent tells whether an exception has ended. Nothing is looked at for a
// profile without a server: nobody would look again when one ends.
func exceptionsCurrent(obj *v1alpha1.IsolationProfile, accepted Finding, now time.Time) Finding {
	if accepted.Reason == v1alpha1.ReasonServerNotFound || accepted.Reason == v1alpha1.ReasonPending {
		return Unknown(accepted.Reason, accepted.Message)
	}
	var ended []string
	for i := range obj.Spec.Exceptions {
		if x := &obj.Spec.Exceptions[i]; hasEnded(x, now) {
			ended = append(ended, fmt.Sprintf("exception %s ended %s", clipName(x.Name), isolation.EndText(x.ExpiresAt.Time)))
		}
	}
	if len(ended) == 0 {
		return OK(v1alpha1.ReasonNoneExpired, "no exception has ended")
	}
	return Waiting(v1alpha1.ReasonExceptionExpired, firstOf(ended)+": remove what has ended from spec.exceptions, or set a later expiresAt")
}

// firstOf joins the first of some texts, and counts the others.
func firstOf(texts []string) string {
	const most = 3
	text := strings.Join(texts[:min(len(texts), most)], ", ")
	if more := len(texts) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
