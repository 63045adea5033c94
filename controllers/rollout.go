package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// earlier repeats what a condition said before.
func (p *pass) earlier(kind string) status.Finding {
	for _, c := range p.server.Status.Conditions {
		if c.Type == kind && c.Reason == v1alpha1.ReasonInjectionFailed {
			return status.Stuck(c.Reason, c.Message)
		}
	}
	return status.Stuck(v1alpha1.ReasonInjectionFailed, "the settings were taken back because their first pod failed"+retryHint(p.server))
}

func retryHint(s *v1alpha1.DstackServer) string {
	return fmt.Sprintf(". When it is mended, try again: kubectl -n %s annotate --overwrite dstackserver %s %s=\"$(date +%%s)\"",
		s.Namespace, s.Name, v1alpha1.AnnotationRetry)
}

// rejectionKey stands for settings and for all that is a reason to try them
// again.
func rejectionKey(s *v1alpha1.DstackServer, revision string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", revision, s.Generation, s.Annotations[v1alpha1.AnnotationRetry]))
	return revision + "-" + hex.EncodeToString(sum[:])[:8]
}

// followRollout judges how far the settings have come, and takes them back when
// the very first pod with them fails.
func (r *DstackServerReconciler) followRollout(ctx context.Context, p *pass, intent manifests.Intent) error {
	if p.workload.SettingsRevision() != intent.Revision {
		p.facts.Settings = status.Waiting(v1alpha1.ReasonRolloutInProgress, "the settings were just applied; pods with them are on their way")
		return nil
	}
	if err := r.noteProven(ctx, p, intent.Revision); err != nil {
		return err
	}
	rollout := r.observeRollout(p)
	if p.facts.Revisions.Proven == "" {
		why, after := r.firstFailure(p, rollout)
		p.wakeAfter(after)
		if why != "" {
			taken, err := r.takeBack(ctx, p, why, intent.Revision)
			if taken || err != nil {
				return err
			}
		}
	}
	p.facts.Settings = p.judgeRollout(rollout)
	return nil
}

func (p *pass) judgeRollout(rollout workload.Rollout) status.Finding {
	for _, f := range []status.Finding{p.judgePods(rollout), p.hangs(rollout), p.judgeRunning(rollout)} {
		if f.Reason != "" {
			return f
		}
	}
	return p.judgeSurroundings()
}

// judgePods says what keeps pods from being made or from starting.
func (p *pass) judgePods(rollout workload.Rollout) status.Finding {
	switch {
	case rollout.Blocked != "":
		return status.Stuck(v1alpha1.ReasonRolloutBlocked, rollout.Blocked)
	case rollout.Failure.Pod != "":
		return status.Stuck(v1alpha1.ReasonPodFailing, fmt.Sprintf("a pod with the settings fails, in %s", rollout.Failure.Message))
	case rollout.Refusal.Message != "" && !rollout.Refusal.Retrying:
		return status.Stuck(v1alpha1.ReasonPodRefused, fmt.Sprintf("the API server refuses a pod of %s with the settings in it: %s", p.workload, rollout.Refusal.Message))
	}
	return status.Finding{}
}

// judgeRunning says what is still to come by itself.
func (p *pass) judgeRunning(rollout workload.Rollout) status.Finding {
	running := p.facts.Running
	switch {
	case !rollout.Done:
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("waiting for the pods of %s to be replaced and ready", p.workload))
	case running.PolicyPods < running.Pods:
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("%d of %d server pods do not ask the policy server", running.Pods-running.PolicyPods, running.Pods))
	case p.sshEnforcedByTemplate() && running.SSHEnforcedPods < running.Pods:
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("%d of %d server pods are not known to let users in by the SSH proxy alone", running.Pods-running.SSHEnforcedPods, running.Pods))
	case running.Pods > 0 && isolation.Strictness(running.NetworkMode) < isolation.Strictness(p.effective.Plan.NetworkMode):
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("a server pod still runs with network mode %d", running.NetworkMode))
	}
	return status.Finding{}
}

func (p *pass) awaitsSSHProxy() status.Finding {
	if !p.sshHeldBack() {
		return status.Finding{}
	}
	return status.Waiting(v1alpha1.ReasonWaitingForSSHProxy,
		"the server is told of the SSH proxy once that answers, because nobody could log in before: see SSHProxyReady")
}

// judgeSurroundings says what keeps settings that run from being called all there is.
func (p *pass) judgeSurroundings() status.Finding {
	for _, f := range []status.Finding{p.awaitsSSHProxy(), p.hiddenSetting(), p.releaseTooOld()} {
		if f.Reason != "" {
			return f
		}
	}
	return status.OK(v1alpha1.ReasonApplied, fmt.Sprintf("all settings are in %s and in its %d pods", p.workload, p.facts.Running.Pods))
}

// noteProven remembers that the settings work once a pod with them is ready,
// for the init container of later pods and for this reconciler.
func (r *DstackServerReconciler) noteProven(ctx context.Context, p *pass, revision string) error {
	if p.facts.Revisions.Proven != revision {
		for i := range p.pods {
			if pod := &p.pods[i]; pod.Annotations[workload.AnnotationSettings] == revision && workload.Ready(pod) {
				p.facts.Revisions.Proven = revision
			}
		}
	}
	if p.facts.Revisions.Proven == "" {
		return nil
	}
	return r.applyObject(ctx, p.server.Namespace, manifests.State(p.server, p.facts.Revisions.Proven))
}

// recallProven reads what noteProven has written down. A status may be lost, as in
// a restore, and then nothing else tells that this is not the first pod: to take
// back what has worked would open the server.
func (r *DstackServerReconciler) recallProven(ctx context.Context, p *pass) error {
	var c corev1.ConfigMap
	name := manifests.StateName(p.server.Name)
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: name}, &c)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read ConfigMap %s: %w", name, err)
	}
	// A server that was given back leaves none, so one of an earlier object of this
	// name is about settings that were never taken out.
	if c.Labels[manifests.LabelServerUID] == string(p.server.UID) || c.Labels[manifests.LabelServer] == p.server.Name {
		p.facts.Revisions.Proven = c.Data[manifests.ProvenKey]
	}
	return nil
}

// firstFailure says why the first pod with the settings counts as failed, or
// after how long to look again.
func (r *DstackServerReconciler) firstFailure(p *pass, rollout workload.Rollout) (why string, after time.Duration) {
	if f := rollout.Failure; f.Ours && !f.Retrying {
		return f.Message, 0
	}
	if why := refusedForUs(p.workload, rollout.Refusal); why != "" {
		return why, 0
	}
	if rollout.Done || rollout.Blocked != "" || p.workload.Replicas == 0 {
		return "", 0
	}
	now := r.Clock.Now()
	left := r.InjectionDeadline - now.Sub(p.waitingSince(now))
	if left > 0 {
		return "", left
	}
	why = fmt.Sprintf("no pod with the settings was ready within %s", r.InjectionDeadline)
	if more := p.whyNone(rollout); more != "" {
		why += "; " + more
	}
	return why, 0
}

// waitingSince is since when a first pod with the settings could have started:
// they were in the workload, and it was neither blocked nor scaled to zero when
// it was looked at last.
func (p *pass) waitingSince(now time.Time) time.Time {
	since := appliedAt(p.workload)
	for _, c := range p.server.Status.Conditions {
		applied := c.Type == v1alpha1.ConditionSettingsApplied
		if applied && (c.Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonRolloutBlocked) {
			return now
		}
		unstalled := c.Type == v1alpha1.ConditionStalled && c.Status == metav1.ConditionFalse
		if (applied || unstalled) && c.LastTransitionTime.After(since) {
			since = c.LastTransitionTime.Time
		}
	}
	return since
}

// appliedAt is when our fields of the workload changed last.
func appliedAt(w *workload.Workload) time.Time {
	for i := range w.Meta.ManagedFields {
		if f := &w.Meta.ManagedFields[i]; f.Manager == apply.WorkloadManager && f.Time != nil {
			return f.Time.Time
		}
	}
	return time.Time{}
}

// takeBack releases settings whose first pod failed, so that the server runs
// again as it did before. It leaves them where they have worked before.
func (r *DstackServerReconciler) takeBack(ctx context.Context, p *pass, why, revision string) (taken bool, err error) {
	if err := r.recallProven(ctx, p); err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return false, err
	}
	if p.facts.Revisions.Proven != "" {
		return false, nil
	}
	if _, err := r.applier.Release(ctx, p.workload); err != nil {
		p.facts.Settings = cannotRelease(p.workload, err)
		return false, err
	}
	if p.workload.Kind == v1alpha1.WorkloadStatefulSet {
		if err := r.deleteStuck(ctx, p, revision); err != nil {
			return true, err
		}
	}
	p.facts.Revisions = v1alpha1.SettingsRevisions{Rejected: rejectionKey(p.server, revision)}
	p.facts.Injected = nil
	p.facts.Settings = status.Stuck(v1alpha1.ReasonInjectionFailed,
		"the settings were taken back and the server runs without them, because their first pod failed: "+why+retryHint(p.server))
	return true, nil
}

// deleteStuck deletes the pods with the settings that did not become ready: a
// StatefulSet does not replace them by itself.
func (r *DstackServerReconciler) deleteStuck(ctx context.Context, p *pass, revision string) error {
	for i := range p.pods {
		pod := &p.pods[i]
		if pod.Annotations[workload.AnnotationSettings] != revision || workload.Ready(pod) || pod.DeletionTimestamp != nil {
			continue
		}
		// Its successor has the same name.
		err := r.Client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
		if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete the stuck pod of %s: %w", p.workload, err)
		}
	}
	return nil
}
