package controllers

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

const (
	// maxExposureEvents bounds the events of one release: a server may have
	// thousands of profiles.
	maxExposureEvents = 50
	// askForRuns bounds the question for active runs: a release waits for nobody.
	askForRuns = 3 * time.Second
	// aboutToRelease begins what is said before a release.
	aboutToRelease = "the settings are about to be taken out of "
)

// announce says what becomes exposed before the settings are taken out: what is
// said afterwards comes too late. It holds up nothing: what cannot be found out
// is left out, and a status that cannot be written is only logged.
func (r *DstackServerReconciler) announce(ctx context.Context, p *pass) {
	exposed := r.exposure(ctx, p)
	p.facts.Warnings = append(p.facts.Warnings, status.ExposureWarnings(exposed)...)
	if !carriesSettings(p.workload) {
		return
	}
	if saidBefore(p.server) {
		return
	}
	token, _ := r.adminToken(ctx, p.server)
	notice := p.releaseNotice(len(exposed), listActive(ctx, r.Prober, p, token))
	p.facts.Settings = status.Waiting(v1alpha1.ReasonReleasing, notice)
	before := p.server.DeepCopy()
	markReleasing(p.server, p.facts.Settings.Message, p.facts.Warnings, r.Clock.Now())
	if err := r.Client.Status().Patch(ctx, p.server, unlessChanged(before)); err != nil {
		p.server.Status = before.Status
		logf.FromContext(ctx).Error(err, "Could not write down what a release exposes")
	}
	p.tell(corev1.EventTypeWarning, v1alpha1.ReasonReleasing, p.facts.Settings.Message)
	p.emitNotes(r.Recorder)
	r.tellProfiles(ctx, p, exposed)
}

// exposure is what the profiles of the server refuse no more; none when they
// cannot be read.
func (r *DstackServerReconciler) exposure(ctx context.Context, p *pass) []status.Exposed {
	effective, err := r.Resolver.Resolve(ctx, p.server)
	if err != nil {
		logf.FromContext(ctx).Error(err, "Could not find out what a release exposes")
		return nil
	}
	return status.Exposure(effective)
}

// tellProfiles tells of the first profiles by events on them, and counts the rest.
func (r *DstackServerReconciler) tellProfiles(ctx context.Context, p *pass, exposed []status.Exposed) {
	told := 0
	for _, e := range exposed {
		if e.Profile == "" {
			p.tell(corev1.EventTypeWarning, v1alpha1.ReasonReleasing, e.Message)
			continue
		}
		if told++; told > maxExposureEvents {
			continue
		}
		var profile v1alpha1.IsolationProfile
		if r.Client.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: e.Profile}, &profile) == nil {
			r.Recorder.Eventf(&profile, p.server, corev1.EventTypeWarning, v1alpha1.ReasonReleasing, actionReconcile, "%s", clip(e.Message))
		}
	}
	if more := told - maxExposureEvents; more > 0 {
		p.tell(corev1.EventTypeWarning, v1alpha1.ReasonReleasing, fmt.Sprintf("%d more profiles refuse nothing any more", more))
	}
	p.emitNotes(r.Recorder)
}

// carriesSettings tells whether a release will take anything out of the workload.
func carriesSettings(w *workload.Workload) bool {
	return w != nil && w.SettingsRevision() != "" && apply.Owns(w)
}

// saidBefore tells whether it was said for this very spec by a pass whose release
// failed, which is what the condition may say since.
func saidBefore(s *v1alpha1.DstackServer) bool {
	c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionSettingsApplied)
	if c == nil || c.ObservedGeneration != s.Generation {
		return false
	}
	failed := c.Reason == v1alpha1.ReasonInvalidWorkload || c.Reason == v1alpha1.ReasonReconcileError
	return failed || strings.HasPrefix(c.Message, aboutToRelease)
}

// releaseNotice says what is about to be taken out, and whom it meets.
func (p *pass) releaseNotice(exposed int, runs activeRuns) string {
	text := fmt.Sprintf("%s%s: pods that start from now on refuse nothing", aboutToRelease, p.workload)
	if exposed > 0 {
		text += "; status.warnings says by profile what they allow"
	}
	if p.toldOfSSHProxy() {
		if stranded := status.Stranded(p.server, runs.count()); stranded != "" {
			text += "; " + stranded
		}
	}
	if runs.known {
		text += "; " + runs.text()
	}
	if proxy := p.server.Spec.SSHProxy; proxy != nil && proxy.Managed != nil {
		text += fmt.Sprintf("; SSH sessions through the proxy, which nobody can count from here, end when its pods stop, at the latest %d s after they are told to",
			proxy.Managed.TerminationGracePeriodSeconds)
	}
	return text
}

// announceStranded says, before settings are applied or shown that have no SSH proxy any
// more, which runs users lose access to. It is said once for these settings.
func (r *DstackServerReconciler) announceStranded(ctx context.Context, p *pass, intent manifests.Intent) {
	if intent.SSHSettings() != nil || !p.toldOfSSHProxy() || p.memory.strandedBy == intent.Revision {
		return
	}
	p.memory.strandedBy = intent.Revision
	token, _ := r.adminToken(ctx, p.server)
	if stranded := status.Stranded(p.server, listActive(ctx, r.Prober, p, token).count()); stranded != "" {
		p.tell(corev1.EventTypeWarning, v1alpha1.ReasonReleasing, fmt.Sprintf("removing the SSH proxy from %s: %s", p.workload, stranded))
		p.emitNotes(r.Recorder)
	}
}

// markReleasing writes the notice into the status, and that nothing is applied
// any more: a manager that dies after the release must not take it for somebody
// else's doing.
func markReleasing(s *v1alpha1.DstackServer, notice string, warnings []string, now time.Time) {
	s.Status.SettingsRevision.Applied = ""
	s.Status.Warnings = warnings
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionSettingsApplied, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReleasing,
		Message: notice, ObservedGeneration: s.Generation, LastTransitionTime: metav1.NewTime(now),
	})
}

// activeRuns are the runs that a release meets.
type activeRuns struct {
	runs []dstack.Run
	// known is false without an admin token and when the server does not list them; all
	// is false when there are more.
	known, all bool
}

func listActive(ctx context.Context, prober *observe.Prober, p *pass, token string) activeRuns {
	if token == "" {
		return activeRuns{}
	}
	ctx, cancel := context.WithTimeout(ctx, askForRuns)
	defer cancel()
	runs, all, err := prober.Runs(ctx, p.addresses(), p.apiPort(), token, dstack.RunsQuery{OnlyActive: true})
	return activeRuns{runs, err == nil, all}
}

// number is how many there are; nil when it is not known, or there are more than could be
// listed.
func (a activeRuns) number() *int32 {
	if !a.known || !a.all {
		return nil
	}
	n := int32(len(a.runs)) //nolint:gosec // bounded by the client
	return &n
}

// count is how many there are; "" when it is not known.
func (a activeRuns) count() string {
	switch {
	case !a.known:
		return ""
	case !a.all:
		return fmt.Sprintf("more than %d", len(a.runs))
	default:
		return fmt.Sprint(len(a.runs))
	}
}

func (a activeRuns) text() string {
	if len(a.runs) == 0 {
		return "no run is active"
	}
	const longest = 400
	names := named(runNames(a.runs), firstRuns)
	if len(names) > longest {
		names = strings.ToValidUTF8(names[:longest], "") + "…"
	}
	return fmt.Sprintf("active runs, which go on: %s (%s)", a.count(), names)
}
