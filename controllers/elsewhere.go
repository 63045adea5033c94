package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// programElsewhere runs the steps for a server that is no workload of the
// namespace. It has no pods that could be written or looked at: all that is left
// is to run its policy servers, to show what it needs, and to ask its API.
func (r *DstackServerReconciler) programElsewhere(ctx context.Context, p *pass) error {
	r.warnings(p)
	ownErr := r.applyOwn(ctx, p)
	observeErr := r.observePolicyServers(ctx, p, ownErr)
	var sshErr, showErr error
	if ownErr == nil {
		sshErr = r.applySSHProxy(ctx, p)
		showErr = r.showElsewhere(ctx, p)
	}
	r.observeElsewhere(ctx, p)
	if errors.Is(ownErr, errTokenInvalid) {
		return nil // Somebody must act: the status says so.
	}
	return r.retireUnlessFailed(ctx, p, ownErr, observeErr, sshErr, showErr)
}

// elsewhereKey is the URL of a server that runs elsewhere, written one way.
func elsewhereKey(api string) string {
	u, err := url.Parse(strings.ToLower(api))
	if err != nil {
		return api
	}
	if u.Scheme == "http" && u.Port() == "80" || u.Scheme == "https" && u.Port() == "443" {
		u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	}
	return u.String()
}

// claimed says that an older DstackServer has the same dstack server.
func (p *pass) claimed(owner string) status.Finding {
	spec := p.server.Spec
	what := fmt.Sprintf("%s %s", spec.Workload.Kind, spec.Workload.Name)
	if manifests.Elsewhere(p.server) {
		what = "the dstack server at " + spec.API.URL
	}
	return status.Stuck(v1alpha1.ReasonWorkloadClaimed, fmt.Sprintf("%s belongs to DstackServer %s, which is older: delete one of the two", what, owner))
}

// unlabelled selects the server's pods by the workload's own labels, while one of them
// queries the policy server and lacks the operator's label; nil when none does. What it
// selects may query the policy server with a token, and is sent none.
func (p *pass) unlabelled() *metav1.LabelSelector {
	if p.workload == nil || !workload.AnyUnlabelled(p.pods, p.server.Name, manifests.Endpoint(p.server)) {
		return nil
	}
	return p.workload.Selector
}

// showElsewhere shows what every process of the server needs. It cannot be seen
// who has put it in place, so that the condition is never more than Unknown.
func (r *DstackServerReconciler) showElsewhere(ctx context.Context, p *pass) error {
	name := manifests.ManualName(p.server.Name)
	var shown corev1.ConfigMap
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: name}, &shown)
	if client.IgnoreNotFound(err) != nil {
		err = fmt.Errorf("read ConfigMap %s: %w", name, err)
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	ssh := p.sshElsewhere(shown.Data[manifests.EnvKey])
	if p.server.Spec.SSHProxy != nil && ssh == nil && strings.Contains(shown.Data[manifests.EnvKey], dstack.EnvServerSSHProxyAddress+"=") {
		// To show less now would have somebody open the hosts to users' keys again, and
		// to show a proxy that does not answer would keep everybody out.
		p.facts.Settings = notVisible(p.server, shown.Data[manifests.RevisionKey])
		return nil
	}
	options := r.options(p)
	options.TokenSecret = "" // People read what is in place of it, whose name does not change.
	needs := manifests.ForElsewhere(manifests.SettingsInput{
		Server: p.server, NetworkMode: p.effective.Plan.NetworkMode, Forbidden: p.effective.Plan.Forbidden, Permissions: p.permissions(),
		SSH: ssh, Files: r.Plugin, Options: options,
	})
	if err := r.applyObject(ctx, p.server.Namespace, needs.ConfigMap()); err != nil {
		p.facts.Settings = status.Unknown(v1alpha1.ReasonReconcileError, err.Error())
		return err
	}
	p.facts.Settings = notVisible(p.server, needs.Revision)
	if f := p.releaseTooOld(); f.Reason != "" {
		p.facts.Settings = f
	}
	return nil
}

// notVisible says what is not known of the settings, and what to do.
func notVisible(s *v1alpha1.DstackServer, revision string) status.Finding {
	return status.Unknown(v1alpha1.ReasonNotVisible, fmt.Sprintf(
		"the dstack server runs elsewhere: how many processes it has and what they run with cannot be seen from here. Once PolicyPluginReady is True, put settings revision %s in place on every one of them: kubectl -n %s get configmap %s -o jsonpath='{.data.%s}' says how",
		revision, s.Namespace, manifests.ManualName(s.Name), manifests.ReadmeKey))
}

// sshElsewhere is what the server is to be told of the SSH proxy: nothing before
// it has answered once, because nobody could log in then, and no less afterwards.
func (p *pass) sshElsewhere(shown string) *manifests.SSHSettings {
	if p.server.Spec.SSHProxy == nil || p.ssh.address == "" {
		return nil
	}
	settings := &manifests.SSHSettings{TokenID: p.ssh.tokenID, SSHProxy: workload.SSHProxy{
		Token: manifests.SSHTokenRef(p.server), Address: p.ssh.address, Enforced: p.effective.Plan.SSHEnforced,
	}}
	if !p.ssh.answers && !manifests.ShowsSSHProxy(shown, p.server, settings.SSHProxy) {
		return nil
	}
	return settings
}

// observeElsewhere asks the server at its URL, where one of its processes
// answers, for its release and what it makes of tokens.
func (r *DstackServerReconciler) observeElsewhere(ctx context.Context, p *pass) {
	p.wakeAfter(lookNowAndThen) // Nothing tells of a change there.
	if p.ssh.token != "" {
		r.checkSSHTokenElsewhere(ctx, p)
	}
	token, noToken := r.adminToken(ctx, p.server)
	answer := r.Prober.ServerAt(ctx, p.server.Spec.API.URL, token)
	reported, all := releases([]observe.Server{answer})
	p.facts.Version = p.facts.Version.Seen(reported, all)
	p.facts.Connected = judgeElsewhere(answer, status.Version{}.Seen(reported, true), noToken)
	if !isTrue(p.facts.Connected) {
		p.wakeAfter(askLater)
	}
}

func judgeElsewhere(answer observe.Server, version status.Version, noToken status.Finding) status.Finding {
	switch unguarded := version.Judge(); {
	case unguarded.Reason != "":
		return unguarded
	case noToken.Reason != "":
		return noToken
	case answer.Err != nil:
		return status.Waiting(v1alpha1.ReasonUnreachable, "the dstack server at spec.api.url does not answer its API: "+answer.Err.Error())
	case answer.TokenRejected:
		return status.Stuck(v1alpha1.ReasonTokenRejected, "the dstack server at spec.api.url does not take the admin token for that of a global administrator: mend the Secret that spec.api.adminTokenSecretRef names")
	}
	return status.OK(v1alpha1.ReasonConnected, fmt.Sprintf("a process of the dstack server answers at spec.api.url; dstack %s", shown(version)))
}

// checkSSHTokenElsewhere asks the process that answers whether it has the SSH
// proxy's token.
func (r *DstackServerReconciler) checkSSHTokenElsewhere(ctx context.Context, p *pass) {
	answer := r.Prober.SSHProxyTokenAt(ctx, p.server.Spec.API.URL, p.ssh.token)
	if answer.Err == nil {
		p.memory.verdicts = map[process]verdict{{}: {p.ssh.tokenID, answer.State}}
	}
	p.judgeSSHTokenElsewhere(answer)
}

// judgeSSHTokenElsewhere tells whether the process that answered has the SSH
// proxy's token. Whether it enforces the proxy it does not say.
func (p *pass) judgeSSHTokenElsewhere(answer observe.SSHProxyToken) {
	step := fmt.Sprintf(": put in place what ConfigMap %s shows, on every process", manifests.ManualName(p.server.Name))
	switch {
	case !isTrue(p.facts.SSHProxy):
		return // That comes first: nothing is shown before the proxy answers.
	case answer.Err != nil:
		p.facts.SSHProxy = status.Waiting(v1alpha1.ReasonUnreachable, "the dstack server at spec.api.url does not tell whether it has the SSH proxy's token: "+answer.Err.Error())
	case answer.State == dstack.SSHProxyTokenUnset:
		p.facts.SSHProxy = status.Stuck(v1alpha1.ReasonNotEnforced, "a process of the dstack server knows of no SSH proxy, so it lets users in past it"+step)
	case answer.State == dstack.SSHProxyTokenRejected:
		p.facts.SSHProxy = status.Stuck(v1alpha1.ReasonTokenMismatch, "a process of the dstack server has another token than the SSH proxy, so that it lets nobody in"+step)
	default:
		p.facts.SSHProxy.Message += "; the process that answers at spec.api.url has its token, and whether that is so of every one and whether they let users in past the proxy cannot be seen from here"
		return
	}
	p.wakeAfter(askLater)
}

// warnElsewhere names what is open on the way to a server elsewhere.
func (p *pass) warnElsewhere() {
	if strings.HasPrefix(p.server.Spec.PolicyPlugin.URL, "http:") {
		p.warn("spec.policyPlugin.url is http: specs, with the secrets in them, and the policy server's token travel unencrypted; put TLS in front of the policy server and use https")
	}
	if strings.HasPrefix(p.server.Spec.API.URL, "http:") && (p.server.Spec.API.AdminTokenSecretRef != nil || p.server.Spec.SSHProxy != nil) {
		p.warn("spec.api.url is http: the tokens of spec.api.adminTokenSecretRef and of the SSH proxy travel unencrypted; use https")
	}
	p.warn("NetworkPolicy %s lets everybody ask the policy server, since it cannot know where the dstack server comes from; nothing is answered without the token", manifests.PolicyServerName(p.server.Name))
}

// finalizeElsewhere deletes what was made for a server elsewhere. There is
// nothing to take back, and nobody can see whether a process still asks.
func (r *DstackServerReconciler) finalizeElsewhere(ctx context.Context, p *pass, rel releaser) (done bool, err error) {
	if err := rel.deleteChildren(ctx, p.server, nil); err != nil {
		return false, err
	}
	if err := rel.removeFinalizer(ctx, p.server); err != nil {
		return false, err
	}
	if !meta.IsStatusConditionTrue(p.server.Status.Conditions, v1alpha1.ConditionAccepted) {
		return true, nil // It never had any.
	}
	r.Recorder.Eventf(p.server, nil, corev1.EventTypeWarning, v1alpha1.ReasonReleasing, actionReconcile, "%s", fmt.Sprintf(
		"the policy servers are deleted: a process of the dstack server at %s that still has the plugin refuses every run until it is taken out there", p.server.Spec.API.URL))
	return true, nil
}
