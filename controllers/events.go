package controllers

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/status"
)

// actionReconcile is the action of every event: what the controller did when it
// saw the transition.
const actionReconcile = "Reconcile"

// emit tells of conditions that changed their status or reason. Reconciling,
// and Ready while it is not True, only mirror the others: they would double each
// event, and the API counts events of one reason as repetitions of the first.
func emit(recorder events.EventRecorder, about runtime.Object, before, after []metav1.Condition) {
	for _, c := range after {
		old := meta.FindStatusCondition(before, c.Type)
		if !isNews(c, old) {
			continue
		}
		kind := corev1.EventTypeNormal
		if isWarning(c, old, after) {
			kind = corev1.EventTypeWarning
		}
		recorder.Eventf(about, nil, kind, c.Reason, actionReconcile, "%s is %s: %s", c.Type, c.Status, clip(c.Message))
	}
}

// isNews tells of a transition that is worth an event.
func isNews(c metav1.Condition, old *metav1.Condition) bool {
	if old != nil && old.Status == c.Status && old.Reason == c.Reason && !anotherEnded(c, old) {
		return false
	}
	return !mirrors(c) && c.Reason != v1alpha1.ReasonPending && !neverWanted(c, old) && !stillGood(c, old)
}

// isWarning tells of what somebody should act on.
func isWarning(c metav1.Condition, old *metav1.Condition, after []metav1.Condition) bool {
	if c.Status == metav1.ConditionFalse && (status.IsAside(c.Type) || meta.IsStatusConditionTrue(after, v1alpha1.ConditionStalled)) {
		return true
	}
	return alarming(c, old)
}

// alarming tells of what somebody should look at although it may pass by itself.
func alarming(c metav1.Condition, old *metav1.Condition) bool {
	return c.Reason == v1alpha1.ReasonRemovedBy || c.Reason == v1alpha1.ReasonHostKeyMismatch || lost(c, old)
}

// lost tells of an SSH proxy that answered and does not any more: nobody can log in.
func lost(c metav1.Condition, old *metav1.Condition) bool {
	return c.Type == v1alpha1.ConditionSSHProxyReady && c.Reason == v1alpha1.ReasonUnreachable &&
		c.Status == metav1.ConditionFalse && old != nil && old.Status == metav1.ConditionTrue
}

func mirrors(c metav1.Condition) bool {
	return c.Type == v1alpha1.ConditionReconciling || c.Type == v1alpha1.ConditionStalled ||
		c.Type == v1alpha1.ConditionReady && c.Status != metav1.ConditionTrue
}

// neverWanted tells of what is not configured and was not before: only that
// something is wanted no more is news.
func neverWanted(c metav1.Condition, old *metav1.Condition) bool {
	return c.Reason == v1alpha1.ReasonNotConfigured && (old == nil || old.Reason == v1alpha1.ReasonPending)
}

// stillGood tells of a condition beside Ready that is not False and was not: it is
// about what may never happen.
func stillGood(c metav1.Condition, old *metav1.Condition) bool {
	return status.IsAside(c.Type) && c.Status != metav1.ConditionFalse && (old == nil || old.Status != metav1.ConditionFalse)
}

// anotherEnded tells that one more exception has ended, or one less.
func anotherEnded(c metav1.Condition, old *metav1.Condition) bool {
	return c.Reason == v1alpha1.ReasonExceptionExpired && c.Message != old.Message
}

// clip keeps a note within the API's limit of 1 kB.
func clip(s string) string {
	const most = 900
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// note is an event about what is no transition of a condition.
type note struct{ kind, reason, text string }

// tell keeps a note until the status is written.
func (p *pass) tell(kind, reason, text string) {
	p.notes = append(p.notes, note{kind, reason, text})
}

func (p *pass) emitNotes(recorder events.EventRecorder) {
	for _, n := range p.notes {
		recorder.Eventf(p.server, nil, n.kind, n.reason, actionReconcile, "%s", clip(n.text))
	}
	p.notes = nil
}
