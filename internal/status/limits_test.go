package status_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// What the limits of the platform are to say.
const (
	hostAgent = "on hosts with dstack's agent, these controls rest on the container runtime and the agent, and what the agent keeps on the host " +
		"is not fully protected from jobs: protect its binaries with a read-only bind mount or the immutable attribute, " +
		"use user-namespace remapping and SELinux, and give each host to one tenant"
	sharedHosts = "jobs on one host share its kernel and its container engine's network, on which they reach one another, and existing fleets keep " +
		`their blocks: give each host to one project, or set "icc": false in the container engine's configuration`
	noHosts = "settings for host SSH and host networking have no effect on %s, and jobs there share nodes whatever blocks says: " +
		"isolate them on that platform, or allow only other backends in controls.backends"
	allContainers = "daytona, kubernetes, lium, runpod, slurm and vastai"
	sharedNodes   = "jobs share nodes on %s whatever blocks says: allow only other backends in controls.backends"
)

func backends(all ...v1alpha1.BackendName) func(*v1alpha1.Controls) {
	return func(c *v1alpha1.Controls) { c.Backends = &v1alpha1.AllowedBackends{Allowed: all} }
}

func TestPlatformLimitsToTheLetter(t *testing.T) {
	none := func(c *v1alpha1.Controls) {}
	tests := map[string]struct {
		level    v1alpha1.Level
		controls func(*v1alpha1.Controls)
		others   []*testkit.Profile
		want     []string
	}{
		"any backend": {v1alpha1.LevelRestricted, none, nil, []string{
			"HostAgent [hostSSH privileged instanceVolumes hostNetwork]: " + hostAgent,
			"SharedHosts [hostNetwork sharedInstances]: " + sharedHosts,
			"AlwaysPrivileged [privileged]: crusoe, and gcp on TPUs, run every container privileged: leave crusoe out of controls.backends, and TPU fleets out of controls.fleets",
			"ContainerBackends [hostSSH hostNetwork sharedInstances]: " + fmt.Sprintf(noHosts, allContainers),
		}},
		"registries": {v1alpha1.LevelRestricted, func(c *v1alpha1.Controls) {
			backends("aws")(c)
			c.Registries = &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"ghcr.io/example"}}
		}, nil, []string{
			"HostAgent [hostSSH privileged instanceVolumes hostNetwork registries]: " + hostAgent,
			"SharedHosts [hostNetwork sharedInstances]: " + sharedHosts,
		}},
		"hosts that users bring": {v1alpha1.LevelBaseline, backends("remote"), nil, []string{
			"HostAgent [hostSSH privileged instanceVolumes hostNetwork]: " + hostAgent,
			"SharedHosts [hostNetwork]: " + sharedHosts,
		}},
		"a backend that is not known": {v1alpha1.LevelRestricted, backends("future"), nil, []string{
			"HostAgent [hostSSH privileged instanceVolumes hostNetwork]: " + hostAgent,
			"SharedHosts [hostNetwork sharedInstances]: " + sharedHosts,
		}},
		"crusoe": {v1alpha1.LevelRestricted, backends("crusoe"), nil, []string{
			"HostAgent [hostSSH privileged instanceVolumes hostNetwork]: " + hostAgent,
			"SharedHosts [hostNetwork sharedInstances]: " + sharedHosts,
			"AlwaysPrivileged [privileged]: crusoe runs every container privileged: leave it out of controls.backends",
		}},
		"gcp": {v1alpha1.LevelRestricted, backends("gcp", "aws"), nil, []string{
			"HostAgent [hostSSH privileged instanceVolumes hostNetwork]: " + hostAgent,
			"SharedHosts [hostNetwork sharedInstances]: " + sharedHosts,
			"AlwaysPrivileged [privileged]: gcp runs every container on TPUs privileged: leave TPU fleets out of controls.fleets",
		}},
		"container backends alone": {v1alpha1.LevelRestricted, backends("slurm", "kubernetes"), nil, []string{
			"ContainerBackends [hostSSH hostNetwork sharedInstances]: " + fmt.Sprintf(noHosts, "kubernetes and slurm"),
		}},
		"of two lists": {v1alpha1.LevelRestricted, backends("aws", "kubernetes"), []*testkit.Profile{open("all").Include("*").Controls(backends("kubernetes", "gcp"))}, []string{
			"ContainerBackends [hostSSH hostNetwork sharedInstances]: " + fmt.Sprintf(noHosts, "kubernetes"),
		}},
		"no backend in common": {v1alpha1.LevelRestricted, backends("aws"), []*testkit.Profile{open("all").Include("*").Controls(backends("gcp"))}, nil},
		"nothing denied":       {v1alpha1.LevelOpen, none, nil, nil},
		"one control": {v1alpha1.LevelOpen, func(c *v1alpha1.Controls) { c.SharedInstances = v1alpha1.Denied }, nil, []string{
			"SharedHosts [sharedInstances]: " + sharedHosts,
			"ContainerBackends [sharedInstances]: " + fmt.Sprintf(noHosts, allContainers),
		}},
		"denied by another": {v1alpha1.LevelOpen, none, []*testkit.Profile{open("all").Include("*").Controls(func(c *v1alpha1.Controls) { c.Privileged = v1alpha1.Denied })}, []string{
			"HostAgent [privileged]: " + hostAgent,
			"AlwaysPrivileged [privileged]: crusoe, and gcp on TPUs, run every container privileged: leave crusoe out of controls.backends, and TPU fleets out of controls.fleets",
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := testkit.MakeProfile("research").Level(tc.level).Controls(tc.controls).Generation(1).Obj()
			all := []*v1alpha1.IsolationProfile{p}
			for _, o := range tc.others {
				all = append(all, o.Obj())
			}
			var got []string
			for _, l := range ours.Profile(p, goodView(resolve(restrictedServer().Obj(), all...)), now).PlatformLimits {
				got = append(got, fmt.Sprintf("%s %v: %s", l.Name, l.Controls, l.Message))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// An audit denies nothing, so nothing is limited.
func TestNoPlatformLimitOfAnAudit(t *testing.T) {
	p := restricted("research").Audit().Obj()
	if got := ours.Profile(p, goodView(resolve(testkit.MakeServer("main").Obj(), p)), now).PlatformLimits; len(got) > 0 {
		t.Errorf("limits %v", got)
	}
}

// Limits do not depend on how far the settings have come: they would come and go
// with each rollout.
func TestPlatformLimitsStay(t *testing.T) {
	p := restricted("research").Obj()
	v := goodView(resolve(restrictedServer().Obj(), p))
	want := ours.Profile(p, v, now).PlatformLimits
	for name, change := range map[string]func(*ours.View){
		"not served": func(v *ours.View) { v.Served = "" },
		"no pods":    func(v *ours.View) { v.Running = nil },
		"elsewhere":  elsewhere,
	} {
		v := v
		change(&v)
		if diff := cmp.Diff(want, ours.Profile(p, v, now).PlatformLimits); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// Where jobs share nodes, no value of blocks keeps them apart.
func TestSharedInstancesOnContainerBackends(t *testing.T) {
	for name, tc := range map[string]struct {
		controls func(*v1alpha1.Controls)
		standing v1alpha1.Standing
		message  string
	}{
		"any backend":            {func(*v1alpha1.Controls) {}, v1alpha1.StandingBypassable, fmt.Sprintf(sharedNodes, allContainers)},
		"one of them":            {backends("aws", "kubernetes"), v1alpha1.StandingBypassable, fmt.Sprintf(sharedNodes, "kubernetes")},
		"backends with an agent": {backends("aws", "remote"), v1alpha1.StandingEnforced, ""},
	} {
		p := restricted("research").Controls(tc.controls).Obj()
		rows := ours.Profile(p, goodView(resolve(restrictedServer().Obj(), p, restricted("all").Include("*").Controls(tc.controls).Obj())), now).Effective
		i := slices.IndexFunc(rows, func(r v1alpha1.EffectiveControl) bool { return r.Control == v1alpha1.ControlSharedInstances })
		if rows[i].Standing != tc.standing || rows[i].Message != tc.message {
			t.Errorf("%s: %s: %s", name, rows[i].Standing, rows[i].Message)
		}
	}
}
