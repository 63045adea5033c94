package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// anyToken asks a server whether it knows of a proxy at all: it tells a wrong token
// from there being none to compare it with.
const anyToken = "dstack-isolation"

// process is one start of a server's container.
type process struct {
	pod      types.UID
	restarts int32
}

// verdict is what a server process made of a token. It reads its own at its start.
type verdict struct {
	tokenID string
	state   dstack.SSHProxyToken
}

// allAccept tells whether every server pod that was told of an SSH proxy has said
// that it has this token. One whose node is gone is not waited for.
func (p *pass) allAccept(tokenID string) bool {
	told := slices.DeleteFunc(p.toldPods(), func(pod *corev1.Pod) bool { return workload.Lost(pod, p.now) })
	return len(told) > 0 && !slices.ContainsFunc(told, func(pod *corev1.Pod) bool {
		return p.memory.verdicts[p.processOf(pod)] != verdict{tokenID, dstack.SSHProxyTokenAccepted}
	})
}

// processOf names the process of the server in a pod.
func (p *pass) processOf(pod *corev1.Pod) process {
	of := process{pod: pod.UID}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == p.container.Name {
			of.restarts = s.RestartCount
		}
	}
	return of
}

// toldPods are the server's pods that are told of an SSH proxy by their specs.
func (p *pass) toldPods() []*corev1.Pod {
	var told []*corev1.Pod
	for i := range p.pods {
		if p.container != nil && workload.ToldOfSSHProxy(&p.pods[i], p.container.Name) {
			told = append(told, &p.pods[i])
		}
	}
	return told
}

// checkSSHTokens asks the server's pods, as the proxy would, whether they have
// its token. One that knows of no proxy although it was told of one does not
// enforce it either: dstack ignores a proxy whose token is empty. Pods that never
// said otherwise do not count as those that let users in by the proxy alone.
func (r *DstackServerReconciler) checkSSHTokens(ctx context.Context, p *pass) {
	var asked []*corev1.Pod
	var addresses []string
	told := p.toldPods()
	for _, pod := range told {
		if askable(pod) {
			asked, addresses = append(asked, pod), append(addresses, pod.Status.PodIP)
		}
	}
	now := map[process]verdict{}
	for _, pod := range told {
		if said, known := p.memory.verdicts[p.processOf(pod)]; known {
			now[p.processOf(pod)] = said
		}
	}
	for i, answer := range r.Prober.SSHProxyTokens(ctx, addresses, p.apiPort(), cmp.Or(p.ssh.token, anyToken)) {
		of := p.processOf(asked[i])
		if answer.Err == nil {
			now[of] = verdict{p.ssh.tokenID, answer.State}
		}
		p.judgeSSHToken(asked[i], answer.Err, now[of].state)
	}
	p.memory.verdicts = now
	p.countEnforcing(told, now)
	if p.ssh.behind && p.allAccept(p.ssh.tokenID) {
		p.wakeAfter(lookAgain) // The proxies follow.
	}
}

// judgeSSHToken lets what a pod makes of the token speak for the SSH proxy.
func (p *pass) judgeSSHToken(pod *corev1.Pod, err error, state dstack.SSHProxyToken) {
	f := &p.facts.SSHProxy
	switch {
	case p.server.Spec.SSHProxy == nil, f.Reason == v1alpha1.ReasonNotEnforced:
		return
	case state == dstack.SSHProxyTokenUnset:
		*f = status.Stuck(v1alpha1.ReasonNotEnforced,
			"a server pod knows of no SSH proxy although it was told of one, so it lets users in past it: see that the token in its Secret was not empty when the pod started, and restart the pod")
	case !isTrue(*f):
		return
	case err != nil:
		*f = status.Waiting(v1alpha1.ReasonUnreachable, "a server pod does not tell whether it has the SSH proxy's token: "+err.Error())
	case state == dstack.SSHProxyTokenRejected:
		*f = p.tokenMismatch(pod)
	default:
		return
	}
	p.wakeAfter(askLater)
}

// tokenMismatch says what to do about a server pod that has another token than the SSH
// proxy. One that was made with the present settings nobody else will replace: it read
// the Secret before that was changed, or its kubelet serves an earlier value.
func (p *pass) tokenMismatch(pod *corev1.Pod) status.Finding {
	ref := manifests.SSHTokenRef(p.server)
	message := fmt.Sprintf("server pod %s has another token than Secret %s and accepts no login", pod.Name, ref.Name)
	if pod.Annotations[workload.AnnotationSSHToken] != p.ssh.tokenID {
		message += ": waiting for its replacement"
		if p.server.Spec.Rollout == v1alpha1.RolloutOnApproval && p.workload.Template.Annotations[workload.AnnotationSSHToken] != p.ssh.tokenID {
			message += "; approve the restart in status.pendingChange"
		}
		return status.Waiting(v1alpha1.ReasonTokenMismatch, message)
	}
	message += ". No rollout replaces it: run " + p.restartCommand()
	if !ofOperators(p.server, ref) {
		message += fmt.Sprintf(". If it stays, put the token into a Secret with another name and set %s to that", sshSecretField(p.server, ref))
	}
	return status.Stuck(v1alpha1.ReasonTokenMismatch, message)
}

// countEnforcing leaves out of the pods that enforce the SSH proxy those that were
// told to and have not said that they know of one.
func (p *pass) countEnforcing(told []*corev1.Pod, now map[process]verdict) {
	for _, pod := range told {
		said, known := now[p.processOf(pod)]
		if known && said.state != dstack.SSHProxyTokenUnset {
			continue
		}
		if workload.EnforcesSSHProxy(pod, p.container.Name) && p.facts.Running.SSHEnforcedPods > 0 {
			p.facts.Running.SSHEnforcedPods--
		}
	}
}
