package policy_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// drawWish makes up what the administrator wants at one time: a profile for
// team-*, one for some of its projects, and the rest.
func drawWish(t *rapid.T, when string) *isolation.Effective {
	hostNetwork := rapid.SampledFrom([]v1alpha1.HostNetwork{"", v1alpha1.HostNetworkAllowed, v1alpha1.HostNetworkDistributedOnly, v1alpha1.HostNetworkDenied})
	hostSSH := rapid.SampledFrom([]v1alpha1.AllowedDenied{"", v1alpha1.Allowed, v1alpha1.Denied})
	level := rapid.SampledFrom([]v1alpha1.Level{v1alpha1.LevelOpen, v1alpha1.LevelBaseline, v1alpha1.LevelRestricted})
	enforcement := rapid.SampledFrom([]v1alpha1.Enforcement{v1alpha1.EnforcementEnforce, v1alpha1.EnforcementEnforce, v1alpha1.EnforcementAudit})
	var profiles []v1alpha1.IsolationProfile
	for i, pattern := range []v1alpha1.ProjectPattern{"team-*", "team-a"} {
		if rapid.Bool().Draw(t, fmt.Sprint(when, " has ", pattern)) {
			p := profile(fmt.Sprintf("p%d", i), level.Draw(t, when+" level"))
			p.Spec.Projects.Include = []v1alpha1.ProjectPattern{pattern}
			p.Spec.Enforcement = enforcement.Draw(t, when+" enforcement")
			p.Spec.Controls = &v1alpha1.Controls{
				HostNetwork: hostNetwork.Draw(t, when+" hostNetwork"), HostSSH: hostSSH.Draw(t, when+" hostSSH"),
				DistributedTasks: v1alpha1.Allowed,
			}
			profiles = append(profiles, p)
		}
	}
	s := server()
	s.Spec.UnmatchedProjects.Level = level.Draw(t, when+" unmatched")
	s.Spec.UnmatchedProjects.Enforcement = enforcement.Draw(t, when+" unmatched enforcement")
	s.Spec.UnmatchedProjects.Controls = &v1alpha1.Controls{
		HostNetwork: hostNetwork.Draw(t, when+" unmatched hostNetwork"), HostSSH: hostSSH.Draw(t, when+" unmatched hostSSH"),
	}
	s.Spec.SSHProxy = &v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{}}
	return isolation.Resolve(isolation.Input{Server: s, Profiles: profiles, Now: noon})
}

// pod is what a server pod runs with.
type pod struct {
	mode        v1alpha1.NetworkMode
	sshEnforced bool
}

func podOf(e *isolation.Effective) pod { return pod{e.Plan.NetworkMode, e.Plan.SSHEnforced} }

// power is what a run in a project comes to.
type power struct{ hostNetwork, hostSSH bool }

func (p *power) take(q power) {
	p.hostNetwork, p.hostSSH = p.hostNetwork || q.hostNetwork, p.hostSSH || q.hostSSH
}

// powerOf is what a task of so many nodes gets, if the policy server decides by
// e and counts on running, asked is the pod whose process asks it, and starts
// the one that starts the jobs. dstack gives the host network to every job that
// fills its instance in mode 2, and to those of distributed tasks in mode 1.
func powerOf(e *isolation.Effective, running policy.Running, process *policy.Process, starts pod, project string, nodes int) power {
	spec := task(fmt.Sprintf(`"nodes":%d`, nodes))
	d := policy.Decide(e, running, &policy.Request{Kind: dstack.KindRun, User: "ada", Project: project, Spec: []byte(spec), Process: process}, noon)
	// What other controls refuse is no part of this.
	refused := slices.ContainsFunc(d.Reasons, func(r policy.Reason) bool { return r.Control == string(v1alpha1.ControlHostNetwork) })
	given := starts.mode == v1alpha1.NetworkModeHostWhenPossible || starts.mode == v1alpha1.NetworkModeHostForDistributed && nodes > 1
	return power{hostNetwork: given && !refused, hostSSH: !starts.sshEnforced}
}

// attested is what the Python plugin in a pod says of it.
func attested(p pod) *policy.Process {
	mode := int(p.mode)
	return &policy.Process{JobNetworkMode: &mode, SSHProxyEnforced: &p.sshEnforced}
}

// From one wish to the next, in whatever order pods and policy servers follow,
// a project never gets more than the looser of the two allows it. All that it
// needs is what the manager sees to: policy servers count on no stricter mode
// than the weakest that a pod may have, and a looser one waits until they decide
// by the policy that it belongs to.
func TestTransitionsAreNoLooserThanBothEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawWish(t, "before"), drawWish(t, "after")
		ends := []*isolation.Effective{before, after}
		modes := []v1alpha1.NetworkMode{before.Plan.NetworkMode, after.Plan.NetworkMode}
		loosens := isolation.Strictness(modes[1]) < isolation.Strictness(modes[0])
		pods := rapid.SliceOfN(rapid.SampledFrom([]pod{podOf(before), podOf(after)}), 1, 3).Draw(t, "pods")
		project := rapid.SampledFrom([]string{"team-a", "team-b", "other"}).Draw(t, "project")
		nodes := rapid.IntRange(1, 2).Draw(t, "nodes")

		running := policy.Running{NetworkMode: rapid.SampledFrom(append(modes, 0)).Draw(t, "said")}
		for _, p := range pods {
			running.NetworkMode = isolation.Weaker(running.NetworkMode, p.mode)
		}
		process := attested(rapid.SampledFrom(pods).Draw(t, "asks"))
		if rapid.Bool().Draw(t, "asks by rest_plugin") {
			process = nil
		}
		decides := rapid.SampledFrom(ends).Draw(t, "decides")
		if loosens && slices.ContainsFunc(pods, func(p pod) bool { return p.mode == modes[1] }) {
			decides = after
		}
		got := powerOf(decides, running, process, rapid.SampledFrom(pods).Draw(t, "starts"), project, nodes)

		var most power
		for _, e := range ends {
			at := podOf(e)
			if !loosens {
				// What a policy allows and only the other projects' kept from it, it
				// may give as long as an earlier pod runs.
				at.mode = isolation.Weaker(modes[0], modes[1])
			}
			most.take(powerOf(e, policy.Running{NetworkMode: at.mode}, attested(at), at, project, nodes))
		}
		if got.hostNetwork && !most.hostNetwork || got.hostSSH && !most.hostSSH {
			t.Fatalf("project %s gets %+v, and at both ends at most %+v", project, got, most)
		}
	})
}

// A policy server that counted on a stricter mode than the weakest pod has would
// be one way to more than both ends give.
func TestTransitionsNeedTheWeakestMode(t *testing.T) {
	denied := profile("p", v1alpha1.LevelRestricted)
	denied.Spec.Enforcement = v1alpha1.EnforcementEnforce
	denied.Spec.Controls = &v1alpha1.Controls{DistributedTasks: v1alpha1.Allowed}
	e := effective(denied)
	loose := pod{mode: v1alpha1.NetworkModeHostForDistributed}
	strict := policy.Running{NetworkMode: v1alpha1.NetworkModeBridge}
	if got := powerOf(e, strict, nil, loose, "research-a", 2); !got.hostNetwork {
		t.Error("the mode that is counted on does not matter: the property proves nothing")
	}
	if got := powerOf(e, strict, attested(loose), loose, "research-a", 2); got.hostNetwork {
		t.Error("what the asking process says of itself does not count")
	}
}
