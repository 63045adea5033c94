package controllers

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
)

const (
	// DefaultSettle is for how long planned settings must stay the same before a
	// server restarts for them: several profiles that change together are one change.
	DefaultSettle = 2 * time.Second
	// settleAtMost is how often DefaultSettle fits into the longest wait.
	settleAtMost = 5
	// DefaultProxyPatience is for how long the first injection waits for the SSH
	// proxy, so that the server restarts once.
	DefaultProxyPatience = time.Minute
)

// window is for how long planned settings have been the same. The zero window has
// never begun.
type window struct {
	revision       string
	first, changed time.Time
	// settled is true once the revision has been waited for: what keeps it from being
	// applied then may last, and no other window opens for it.
	settled bool
}

// left is for how long to wait still; 0 when the settings have settled. They stay
// settled until others are planned.
func (w *window) left(revision string, now time.Time, settle time.Duration) time.Duration {
	switch {
	case w.revision == revision:
	case w.revision != "" && !w.settled:
		w.revision, w.changed = revision, now
	default:
		*w = window{revision: revision, first: now, changed: now}
	}
	left := min(w.changed.Add(settle).Sub(now), w.first.Add(settleAtMost*settle).Sub(now))
	w.settled = w.settled || left <= 0
	if w.settled {
		return 0
	}
	return left
}

// unsettled says that a change of settings waits for more of it to come. A server
// that has none yet is told at once, and a repair is no change.
func (r *DstackServerReconciler) unsettled(p *pass, intent manifests.Intent) status.Finding {
	if p.workload.Injected() == nil || intent.Revision == p.facts.Revisions.Applied || intent.Revision == p.workload.SettingsRevision() {
		p.memory.window = window{}
		return status.Finding{}
	}
	left := p.memory.window.left(intent.Revision, r.Clock.Now(), r.Settle)
	if left == 0 {
		return status.Finding{}
	}
	p.wakeAfter(left)
	return status.Waiting(v1alpha1.ReasonRolloutInProgress,
		"the planned settings have just changed: what else changes with them is waited for, so that the server restarts once")
}

// proxyAwaited says that the first injection waits for the SSH proxy, which would
// make a second restart. One that cannot come up must not keep the plugin out.
func (r *DstackServerReconciler) proxyAwaited(p *pass) status.Finding {
	if p.workload.Injected() != nil || p.facts.Revisions.Applied != "" || !p.sshHeldBack() || p.facts.SSHProxy.Stalled {
		return status.Finding{}
	}
	ready := meta.FindStatusCondition(p.server.Status.Conditions, v1alpha1.ConditionPolicyPluginReady)
	if ready == nil || ready.Status != metav1.ConditionTrue {
		// It has become so in this pass: the time counts from the next one.
		if r.ProxyPatience > 0 {
			p.wakeAfter(lookAgain)
			return waitingForProxy(r.ProxyPatience)
		}
		return status.Finding{}
	}
	left := ready.LastTransitionTime.Add(r.ProxyPatience).Sub(r.Clock.Now())
	if left <= 0 {
		return status.Finding{}
	}
	p.wakeAfter(left)
	return waitingForProxy(r.ProxyPatience)
}

func waitingForProxy(most time.Duration) status.Finding {
	return status.Waiting(v1alpha1.ReasonWaitingForSSHProxy, fmt.Sprintf(
		"the server is told of the policy server and of the SSH proxy in one restart; if the proxy does not answer within %s, of the policy server first", most))
}
