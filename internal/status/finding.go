// Package status turns facts into conditions. It is pure: the same facts give
// the same conditions, of every type, every time; the earlier list only keeps
// the times of transition.
package status

import (
	"cmp"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Finding is what one condition says.
type Finding struct {
	// Status of the condition; empty means Unknown.
	Status metav1.ConditionStatus
	// Reason is one of the reason constants of package v1alpha1.
	Reason string
	// Message says what is, and for all but True what to do or what is awaited.
	Message string
	// Stalled is true when nothing will move until somebody acts.
	Stalled bool
}

// OK is a finding that all is well.
func OK(reason, message string) Finding {
	return Finding{Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

// Waiting is a finding that something is under way.
func Waiting(reason, message string) Finding {
	return Finding{Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

// Stuck is a finding that somebody must act.
func Stuck(reason, message string) Finding {
	return Finding{Status: metav1.ConditionFalse, Reason: reason, Message: message, Stalled: true}
}

// Unknown is a finding that something could not be seen.
func Unknown(reason, message string) Finding {
	return Finding{Status: metav1.ConditionUnknown, Reason: reason, Message: message}
}

// pending is what a condition says before anything is known.
func pending() Finding { return Unknown(v1alpha1.ReasonPending, "not looked at yet") }

func (f Finding) isTrue() bool { return f.Status == metav1.ConditionTrue }

// outOfSight tells that something cannot be seen from here, now or later.
func (f Finding) outOfSight() bool { return f.Reason == v1alpha1.ReasonNotVisible }

// orPending fills an empty finding.
func (f Finding) orPending() Finding {
	if f.Reason == "" {
		return pending()
	}
	return f
}

// maxMessage is far below what the API allows, so that a status stays readable.
const maxMessage = 1024

type row struct {
	kind    string
	finding Finding
}

// conditions builds the whole list: the given rows, then Ready, Reconciling and
// Stalled, which follow from those that do not stand aside.
func conditions(rows []row, ready string, generation int64, previous []metav1.Condition, now time.Time) []metav1.Condition {
	summary := OK(v1alpha1.ReasonReady, ready)
	stalled := Finding{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSucceeded, Message: "nobody has to act"}
	for _, r := range rows {
		if IsAside(r.kind) {
			continue
		}
		if r.finding.speaksBefore(summary) {
			summary = r.finding
		}
		if r.finding.Stalled && stalled.Status != metav1.ConditionTrue {
			stalled = Finding{Status: metav1.ConditionTrue, Reason: r.finding.Reason, Message: r.finding.Message}
		}
	}
	reconciling := Finding{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSucceeded, Message: "nothing is under way"}
	if !summary.isTrue() && !summary.outOfSight() && stalled.Status != metav1.ConditionTrue {
		reconciling = Finding{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProgressing, Message: summary.Message}
	}
	rows = append(rows,
		row{v1alpha1.ConditionReady, summary},
		row{v1alpha1.ConditionReconciling, reconciling},
		row{v1alpha1.ConditionStalled, stalled})
	return list(rows, generation, previous, now)
}

// speaksBefore tells whether Ready repeats this finding rather than one of an earlier
// row: the first that is not True does; one that no waiting will make visible only
// when no other does, and then nothing is under way.
func (f Finding) speaksBefore(earlier Finding) bool {
	return !f.isTrue() && (earlier.isTrue() || earlier.outOfSight() && !f.outOfSight())
}

func list(rows []row, generation int64, previous []metav1.Condition, now time.Time) []metav1.Condition {
	out := make([]metav1.Condition, 0, len(rows))
	for _, r := range rows {
		c := metav1.Condition{
			Type: r.kind, Status: cmp.Or(r.finding.Status, metav1.ConditionUnknown), Reason: r.finding.Reason, Message: trim(r.finding.Message),
			ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now),
		}
		if p := meta.FindStatusCondition(previous, r.kind); p != nil && p.Status == c.Status && !p.LastTransitionTime.IsZero() {
			c.LastTransitionTime = p.LastTransitionTime
		}
		out = append(out, c)
	}
	return out
}

// trim bounds a message at a whole character.
func trim(s string) string {
	s = strings.TrimSpace(s)
	if len(s) <= maxMessage {
		return s
	}
	cut := maxMessage - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
