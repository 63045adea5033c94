package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

const (
	// listRunsFor is how long after a gap its runs are asked for.
	listRunsFor = 10 * time.Minute
	// gapMargin widens a gap: times of writes have no fractions of a second.
	gapMargin = time.Second
	// firstRuns is how many runs are named.
	firstRuns = 20
)

// keepSettings applies the settings, and notices when somebody else has taken
// them out since.
func (r *DstackServerReconciler) keepSettings(ctx context.Context, p *pass) error {
	lost, err := r.noteRemoval(ctx, p)
	if err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	err = r.applySettings(ctx, p)
	r.followRemoval(p, lost)
	return err
}

// lastRemoval is what the status says of a removal. One that was not made good
// is of no interest any more where nothing is to be put back.
func lastRemoval(s *v1alpha1.DstackServer) *v1alpha1.Removal {
	last := s.Status.LastRemoval.DeepCopy()
	given := s.DeletionTimestamp != nil || s.Spec.Injection == v1alpha1.InjectionDisabled || s.Spec.Injection == v1alpha1.InjectionManual
	if last != nil && last.RestoredAt == nil && given {
		return nil
	}
	return last
}

// openRemoval is the removal whose gap lasts; nil if there is none.
func (p *pass) openRemoval() *v1alpha1.Removal {
	if last := p.facts.LastRemoval; last != nil && last.RestoredAt == nil {
		return last
	}
	return nil
}

// noteRemoval compares the workload with what was applied last. What is missing
// is written down before it is put back: afterwards nothing would tell of it,
// and a manager that dies in between could not know.
func (r *DstackServerReconciler) noteRemoval(ctx context.Context, p *pass) (lost []string, err error) {
	if len(lostSettings(p.server, p.workload)) == 0 {
		return nil, nil
	}
	// The cache may be behind what was applied last.
	live, err := readWorkload(ctx, r.Live, p.server)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if lost = lostSettings(p.server, live); len(lost) == 0 || p.openRemoval() != nil {
		return lost, nil
	}
	p.facts.LastRemoval = p.removal(live, r.Clock.Now())
	before := p.server.DeepCopy()
	p.server.Status.LastRemoval = p.facts.LastRemoval.DeepCopy()
	err = client.IgnoreNotFound(r.Client.Status().Patch(ctx, p.server, unlessChanged(before)))
	if err == nil {
		return lost, nil
	}
	p.server.Status = before.Status
	if apierrors.IsConflict(err) {
		return nil, err
	}
	// To put the settings back is worth more than to tell of it.
	logf.FromContext(ctx).Error(err, "Could not write down that settings were taken out")
	return lost, nil
}

// lostSettings names what was applied before and is in the workload no more,
// although the operator did not take it out. Where no pod ever became ready with
// the settings, it may have been the operator itself.
func lostSettings(s *v1alpha1.DstackServer, w *workload.Workload) []string {
	revisions := s.Status.SettingsRevision
	c, err := w.Container(s.Spec.Workload.Container)
	if revisions.Applied == "" || revisions.Proven == "" || err != nil {
		return nil
	}
	live := w.SettingsRevision()
	if live != revisions.Applied && apply.OwnsRevision(w) {
		return nil // Our own, applied by a manager that died before it said so.
	}
	var items []string
	for _, item := range s.Status.Injected {
		if item.State == v1alpha1.InjectedApplied {
			items = append(items, item.Name)
		}
	}
	lost := w.Lost(c, items)
	if live != revisions.Applied {
		lost = append(lost, "annotation "+workload.AnnotationSettings)
	}
	return lost
}

// removal tells who took settings out, and since when pods may run without them:
// never later than they really do.
func (p *pass) removal(live *workload.Workload, now time.Time) *v1alpha1.Removal {
	manager, at := live.LastWriter(apply.WorkloadManager, p.pods)
	if at.IsZero() || at.After(now) {
		at = now
	}
	applied := meta.FindStatusCondition(p.server.Status.Conditions, v1alpha1.ConditionSettingsApplied)
	if applied != nil && applied.Status == metav1.ConditionTrue {
		for i := range p.pods {
			// All pods had the settings then, so this one came after them.
			made := p.pods[i].CreationTimestamp
			without := p.pods[i].Annotations[workload.AnnotationSettings] == ""
			if without && made.After(applied.LastTransitionTime.Time) && made.Time.Before(at) {
				at = made.Time
			}
		}
	}
	const longest = 250
	return &v1alpha1.Removal{Manager: manager[:min(len(manager), longest)], RemovedAt: metav1.NewTime(at)}
}

// followRemoval says that settings were taken out until every server pod has
// them again.
func (r *DstackServerReconciler) followRemoval(p *pass, lost []string) {
	open := p.openRemoval()
	if open == nil {
		return
	}
	f := &p.facts.Settings
	if p.restored(lost) {
		now := metav1.NewTime(r.Clock.Now())
		open.RestoredAt = &now
		return
	}
	message := p.removalMessage(open, lost)
	switch {
	case f.Reason == v1alpha1.ReasonWaitingForApproval && p.repairs:
		f.Reason, f.Message = v1alpha1.ReasonRemovedBy, message+anotherWaits+f.Message
	case f.Stalled:
		f.Message += "; before that, " + message
	case f.Status != metav1.ConditionUnknown:
		*f = status.Waiting(v1alpha1.ReasonRemovedBy, message)
	}
}

// restored tells whether all that was taken out is in the workload and in every
// pod of it again.
func (p *pass) restored(lost []string) bool {
	running := p.facts.Running
	return len(lost) == 0 && len(lostSettings(p.server, p.workload)) == 0 &&
		p.workload.SettingsRevision() != "" && p.workload.SettingsRevision() == p.facts.Revisions.Applied &&
		running != nil && running.PolicyPods == running.Pods && p.workload.ObserveRollout(p.pods).Done
}

const (
	putBack      = ": all of it is put back, and until every server pod has it again, runs may be submitted without it; see status.lastRemoval"
	notYetBack   = ": it is not put back yet, and runs may be submitted without it; see status.lastRemoval"
	anotherWaits = "; another change waits: "
)

// removalMessage repeats who was said to have taken what out: later nobody sees what
// was missing.
func (p *pass) removalMessage(open *v1alpha1.Removal, lost []string) string {
	end := notYetBack
	if p.repairs {
		end = putBack
	}
	said := meta.FindStatusCondition(p.server.Status.Conditions, v1alpha1.ConditionSettingsApplied)
	if said != nil && said.Reason == v1alpha1.ReasonRemovedBy {
		for _, earlier := range []string{putBack, notYetBack} {
			if who, _, found := strings.Cut(said.Message, earlier); found {
				return who + end
			}
		}
	}
	who := open.Manager
	if who == "" {
		who = "somebody (Kubernetes keeps no name of who only takes fields out)"
	}
	what := named(lost, 4)
	if what == "" {
		what = "settings"
	}
	return fmt.Sprintf("%s took %s out of %s%s", who, what, p.workload, end)
}

// named lists the first names and counts the rest.
func named(names []string, most int) string {
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// listGap lists the runs that were submitted while settings were taken out, once.
func (r *DstackServerReconciler) listGap(ctx context.Context, p *pass) {
	last := p.facts.LastRemoval
	if last == nil || last.RestoredAt == nil || last.Runs != nil || r.Clock.Now().Sub(last.RestoredAt.Time) > listRunsFor {
		return
	}
	gap := fmt.Sprintf("from %s to %s", last.RemovedAt.UTC().Format(time.RFC3339), last.RestoredAt.UTC().Format(time.RFC3339))
	token, finding := r.adminToken(ctx, p.server)
	if token == "" && finding.Reason == "" {
		if p.openBefore() {
			p.tell(corev1.EventTypeWarning, v1alpha1.ReasonRemovedBy, fmt.Sprintf(
				"%s is whole again: settings were missing %s; the runs submitted then are not known without spec.api.adminTokenSecretRef", p.workload, gap))
		}
		return
	}
	runs, err := r.runsBetween(ctx, p, token, last)
	if err != nil {
		p.warn("the runs that were submitted without settings, %s, could not be listed yet: %s", gap, err)
		p.wakeAfter(askLater)
		return
	}
	count := int32(len(runs))
	last.Runs, last.FirstRuns = &count, runs[:min(len(runs), firstRuns)]
	kind, text := corev1.EventTypeWarning, fmt.Sprintf("%d runs were submitted: %s", count, named(runs, firstRuns))
	if count == 0 {
		kind, text = corev1.EventTypeNormal, "no run was submitted"
	}
	p.tell(kind, v1alpha1.ReasonRemovedBy, fmt.Sprintf("%s is whole again: settings were missing %s, and %s", p.workload, gap, text))
}

// openBefore tells whether the last pass saw the gap still open.
func (p *pass) openBefore() bool {
	return p.server.Status.LastRemoval != nil && p.server.Status.LastRemoval.RestoredAt == nil
}

// runsBetween are the runs of a gap as PROJECT/RUN, the first one first.
func (r *DstackServerReconciler) runsBetween(ctx context.Context, p *pass, token string, gap *v1alpha1.Removal) ([]string, error) {
	if token == "" {
		return nil, fmt.Errorf("the admin token is not usable: see Connected")
	}
	from, to := gap.RemovedAt.Add(-gapMargin), gap.RestoredAt.Add(gapMargin)
	ctx, cancel := context.WithTimeout(ctx, askForRuns)
	defer cancel()
	runs, _, err := r.Prober.Runs(ctx, p.addresses(), p.apiPort(), token, dstack.RunsQuery{Since: from})
	if err != nil {
		return nil, err
	}
	runs = slices.DeleteFunc(runs, func(run dstack.Run) bool { return run.SubmittedAt.After(to) })
	slices.Reverse(runs) // The server gives the youngest first.
	return runNames(runs), nil
}

func runNames(runs []dstack.Run) []string {
	const longest = 250
	names := make([]string, len(runs))
	for i, run := range runs {
		name := run.Project + "/" + run.Name
		names[i] = strings.ToValidUTF8(name[:min(len(name), longest)], "")
	}
	return names
}
