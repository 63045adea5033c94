package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// applySettings puts the settings into the user's workload, if nothing speaks
// against it, and judges how far they have come.
func (r *DstackServerReconciler) applySettings(ctx context.Context, p *pass) error {
	intent := r.intent(p)
	r.warnings(p)
	if f := p.refusal(intent); f.Reason != "" {
		p.facts.Settings = f
		return nil
	}
	if p.workload.Injected() == nil && !p.policyReady {
		p.facts.Settings = status.Waiting(v1alpha1.ReasonWaitingForPolicyServers,
			"the server is told to ask the policy server once every replica of it is ready")
		return nil
	}
	if f := p.untold(); f.Reason != "" {
		p.facts.Settings = f
		p.wakeAfter(lookAgain)
		return nil
	}
	result, err := r.applier.Settings(ctx, intent)
	if apierrors.IsConflict(err) {
		p.facts.Settings = status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("%s changed while the settings were applied: trying again", p.workload))
		p.wakeAfter(lookAgain)
		return nil
	}
	if err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	p.facts.Injected = result.Items
	clash := judgeResult(result, p.workload)
	if clash.Reason != "" && !result.Plugin {
		p.facts.Settings = clash
		return nil
	}
	p.facts.Revisions.Applied, p.facts.Revisions.Rejected = intent.Revision, ""
	err = r.followRollout(ctx, p, intent)
	// The plugin is in, so its pods are followed even where a variable beside it
	// is in conflict; what stalls the pods themselves comes first.
	if clash.Reason != "" && !p.facts.Settings.Stalled {
		p.facts.Settings = clash
	}
	return err
}

// intent is what the workload should carry.
func (r *DstackServerReconciler) intent(p *pass) manifests.Intent {
	return manifests.Settings(manifests.SettingsInput{
		Server: p.server, Workload: p.workload, Container: p.container,
		NetworkMode: p.effective.Plan.NetworkMode, SSH: p.sshSettings(), Files: r.Plugin, Options: r.options(p),
	})
}

// obstacle is what in the workload the settings cannot work beside; an empty
// finding means that there is none.
func (p *pass) obstacle() status.Finding {
	c, dir := p.container, manifests.ServerDir(p.server)
	if workload.Lookup(c, dstack.EnvConfigDisabled).Set {
		return status.Stuck(v1alpha1.ReasonConfigDisabled, fmt.Sprintf(
			"container %s sets %s, so dstack reads no config.yml and loads no plugin, whatever the value: remove the variable", c.Name, dstack.EnvConfigDisabled))
	}
	source := workload.FindConfig(c, dir, manifests.ConfigVolume)
	if source.Clash {
		return status.Stuck(v1alpha1.ReasonConfigMountClash, fmt.Sprintf(
			"volume %q is mounted at exactly %s, where the merged copy would be: mount it at the directory %s instead, or leave config.yml to the server's own volume",
			source.Mount.Name, path.Join(dir, dstack.ConfigFile), dir))
	}
	if source.Mount != nil && source.Mount.SubPathExpr != "" {
		return status.Stuck(v1alpha1.ReasonInvalidWorkload, fmt.Sprintf(
			"volume %q is mounted with subPathExpr, which the init container cannot expand: use subPath", source.Mount.Name))
	}
	return p.proxyInTheWay()
}

// refusal says why nothing may be written; an empty finding means that nothing
// speaks against it.
func (p *pass) refusal(intent manifests.Intent) status.Finding {
	if f := p.obstacle(); f.Reason != "" {
		return f
	}
	if p.workload.Injected() == nil && p.facts.Revisions.Rejected == rejectionKey(p.server, intent.Revision) {
		return p.earlier(v1alpha1.ConditionSettingsApplied)
	}
	risk := p.workload.DatabaseRisk(p.container, manifests.ServerDir(p.server))
	if risk != "" && p.workload.Injected() == nil && p.server.Annotations[v1alpha1.AnnotationAcknowledgeDataLoss] != "true" {
		return status.Stuck(v1alpha1.ReasonWouldLoseDatabase, fmt.Sprintf(
			"settings restart the server, and that would lose its database: %s. Put it on a persistent volume or set %s, or accept the loss: kubectl -n %s annotate dstackserver %s %s=true",
			risk, dstack.EnvDatabaseURL, p.server.Namespace, p.server.Name, v1alpha1.AnnotationAcknowledgeDataLoss))
	}
	return status.Finding{}
}

// proxyInTheWay: dstack's built-in plugin honours proxy variables, so specs,
// with the secrets in them, would go to the proxy.
func (p *pass) proxyInTheWay() status.Finding {
	if p.server.Spec.PolicyPlugin.Delivery != v1alpha1.DeliveryREST {
		return status.Finding{}
	}
	host := manifests.PolicyHost(p.server.Namespace, p.server.Name)
	name := workload.ProxyInTheWay(p.container, host)
	if name == "" {
		return status.Finding{}
	}
	return status.Stuck(v1alpha1.ReasonProxyInTheWay, fmt.Sprintf(
		"container %s sets %s, and dstack's rest_plugin would send specs, with the secrets in them, to that proxy: add %s to NO_PROXY, or use spec.policyPlugin.delivery Python",
		p.container.Name, name, host))
}

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

// judgeResult tells what kept settings from being applied.
func judgeResult(result apply.Result, w *workload.Workload) status.Finding {
	if result.Invalid != "" {
		return status.Stuck(v1alpha1.ReasonInvalidWorkload, fmt.Sprintf("the API server refuses %s with the settings in it: %s", w, result.Invalid))
	}
	if len(result.Conflicts) == 0 {
		return status.Finding{}
	}
	var clashes []string
	for _, c := range result.Conflicts {
		clashes = append(clashes, c.String()+remedy(c))
	}
	return status.Stuck(v1alpha1.ReasonFieldConflict, fmt.Sprintf("in %s, %s", w, strings.Join(clashes, "; ")))
}

func remedy(c apply.Conflict) string {
	if c.Item == dstack.EnvPythonPath {
		return ": append :" + manifests.PluginDir + " to its value there, or remove it"
	}
	return ": remove it there, so that the operator can set it"
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
	rollout := p.workload.ObserveRollout(p.pods)
	if p.facts.Revisions.Proven == "" {
		why, after := r.firstFailure(p, rollout)
		if why != "" {
			return r.takeBack(ctx, p, why, intent.Revision)
		}
		p.wakeAfter(after)
	}
	p.facts.Settings = p.judgeRollout(rollout)
	return nil
}

func (p *pass) judgeRollout(rollout workload.Rollout) status.Finding {
	running := p.facts.Running
	switch {
	case rollout.Blocked != "":
		return status.Stuck(v1alpha1.ReasonRolloutBlocked, rollout.Blocked)
	case rollout.Failure.Pod != "":
		return status.Stuck(v1alpha1.ReasonPodFailing, fmt.Sprintf("a pod with the settings fails, in %s", rollout.Failure.Message))
	case !rollout.Done:
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("waiting for the pods of %s to be replaced and ready", p.workload))
	case running.PolicyPods < running.Pods:
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("%d of %d server pods do not ask the policy server", running.Pods-running.PolicyPods, running.Pods))
	case p.sshEnforcedByTemplate() && running.SSHEnforcedPods < running.Pods:
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("%d of %d server pods still let users in past the SSH proxy", running.Pods-running.SSHEnforcedPods, running.Pods))
	case running.Pods > 0 && isolation.Strictness(running.NetworkMode) < isolation.Strictness(p.effective.Plan.NetworkMode):
		return status.Waiting(v1alpha1.ReasonRolloutInProgress, fmt.Sprintf("a server pod still runs with network mode %d", running.NetworkMode))
	case p.sshHeldBack():
		return status.Waiting(v1alpha1.ReasonWaitingForSSHProxy,
			"the server is told of the SSH proxy once that answers, because nobody could log in before: see SSHProxyReady")
	}
	return status.OK(v1alpha1.ReasonApplied, fmt.Sprintf("all settings are in %s and in its %d pods", p.workload, running.Pods))
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

// firstFailure says why the first pod with the settings counts as failed, or
// after how long to look again.
func (r *DstackServerReconciler) firstFailure(p *pass, rollout workload.Rollout) (why string, after time.Duration) {
	if f := rollout.Failure; f.Ours && !f.Retrying {
		return f.Message, 0
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
	if rollout.Failure.Message != "" {
		why += "; " + rollout.Failure.Message
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
// again as it did before.
func (r *DstackServerReconciler) takeBack(ctx context.Context, p *pass, why, revision string) error {
	if _, err := r.applier.Release(ctx, p.workload); err != nil {
		return err
	}
	if p.workload.Kind == v1alpha1.WorkloadStatefulSet {
		if err := r.deleteStuck(ctx, p, revision); err != nil {
			return err
		}
	}
	p.facts.Revisions = v1alpha1.SettingsRevisions{Rejected: rejectionKey(p.server, revision)}
	p.facts.Injected = nil
	p.facts.Settings = status.Stuck(v1alpha1.ReasonInjectionFailed,
		"the settings were taken back and the server runs without them, because their first pod failed: "+why+retryHint(p.server))
	return nil
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

// warnings name what does not stop us but should be known.
func (r *DstackServerReconciler) warnings(p *pass) {
	w := p.workload
	// dstack lets any user create a project, who is its administrator then.
	if u := p.server.Spec.UnmatchedProjects; u.Enforcement != v1alpha1.EnforcementEnforce || u.Level == v1alpha1.LevelOpen {
		p.warn("spec.unmatchedProjects refuses nothing, and by default any dstack user may create a project that no profile names: there they can do what profiles deny elsewhere")
	}
	switch {
	case w.Strategy == "Recreate":
		p.warn("%s has strategy Recreate: each change of settings stops the server for some seconds", w)
	case w.Kind == v1alpha1.WorkloadDeployment && workload.SQLite(p.container):
		p.warn("%s has strategy RollingUpdate and its database is an SQLite file: two servers share it during each rollout; use strategy Recreate", w)
	}
	if workload.FindConfig(p.container, manifests.ServerDir(p.server), manifests.ConfigVolume).Mount == nil {
		p.warn("%s of container %s is on no volume: a config.yml that its image brings cannot be read and is replaced by one that only names the plugin", manifests.ServerDir(p.server), p.container.Name)
	}
	for _, name := range []string{dstack.EnvJobNetworkMode, dstack.EnvConfigDisabled} {
		if v := workload.Lookup(p.container, name); !v.Set && !v.Known {
			p.warn("container %s takes variables from other objects by envFrom: if they set %s, it is not seen from here", p.container.Name, name)
		}
	}
}
