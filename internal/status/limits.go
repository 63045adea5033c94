package status

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// containerBackends run jobs in containers of a platform, not on hosts that
// dstack's agent manages.
var containerBackends = []string{"daytona", "kubernetes", "lium", "runpod", "slurm", "vastai"}

// privilegedBackends run every container privileged, or those on TPUs.
var privilegedBackends = []string{"crusoe", "gcp"}

// limit is one that the platform sets to what controls can do.
type limit struct {
	name v1alpha1.PlatformLimitName
	// of are the controls that it may concern.
	of []isolation.Control
	// message for a policy; "" where the limit does not apply.
	message func(*isolation.Policy) string
}

var limits = []limit{
	{
		v1alpha1.PlatformLimitHostAgent,
		[]isolation.Control{isolation.HostSSH, isolation.Privileged, isolation.InstanceVolumes, isolation.HostNetwork, isolation.Registries},
		onHosts("on hosts with dstack's agent, these controls rest on the container runtime and the agent, and what the agent keeps on the host " +
			"is not fully protected from jobs: protect its binaries with a read-only bind mount or the immutable attribute, " +
			"use user-namespace remapping and SELinux, and give each host to one tenant"),
	},
	{
		v1alpha1.PlatformLimitSharedHosts,
		[]isolation.Control{isolation.HostNetwork, isolation.SharedInstances},
		onHosts("jobs on one host share its kernel and its container engine's network, on which they reach one another, and existing fleets keep " +
			`their blocks: give each host to one project, or set "icc": false in the container engine's configuration`),
	},
	{v1alpha1.PlatformLimitAlwaysPrivileged, []isolation.Control{isolation.Privileged}, alwaysPrivileged},
	{
		v1alpha1.PlatformLimitContainerBackends,
		[]isolation.Control{isolation.HostSSH, isolation.HostNetwork, isolation.SharedInstances},
		inContainers,
	},
}

// platformLimits are those that the policy's projects can meet, in the order of
// the table, each with the denied controls that it concerns.
func platformLimits(policy *isolation.Policy) []v1alpha1.PlatformLimit {
	var out []v1alpha1.PlatformLimit
	for _, l := range limits {
		var controls []v1alpha1.ControlName
		for _, c := range l.of {
			if denied(policy, c) {
				controls = append(controls, c.Name())
			}
		}
		if message := l.message(policy); message != "" && len(controls) > 0 {
			out = append(out, v1alpha1.PlatformLimit{Name: l.name, Controls: controls, Message: clip(message)})
		}
	}
	return out
}

// onHosts is a message that applies where jobs may run on hosts that dstack's
// agent manages. A backend that this release does not know may have such hosts.
func onHosts(message string) func(*isolation.Policy) string {
	return func(policy *isolation.Policy) string {
		backends := policy[isolation.Backends]
		known := func(b string) bool { return slices.Contains(containerBackends, b) }
		if backends.Mode == isolation.ModeAllowed || slices.ContainsFunc(backends.List, func(b string) bool { return !known(b) }) {
			return message
		}
		return ""
	}
}

func inContainers(policy *isolation.Policy) string {
	backends := usable(policy, containerBackends)
	if len(backends) == 0 {
		return ""
	}
	return fmt.Sprintf("settings for host SSH and host networking have no effect on %s, and jobs there share nodes whatever blocks says: "+
		"isolate them on that platform, or allow only other backends in controls.backends", listed(backends))
}

func alwaysPrivileged(policy *isolation.Policy) string {
	switch backends := usable(policy, privilegedBackends); {
	case len(backends) == len(privilegedBackends):
		return "crusoe, and gcp on TPUs, run every container privileged: leave crusoe out of controls.backends, and TPU fleets out of controls.fleets"
	case slices.Contains(backends, "crusoe"):
		return "crusoe runs every container privileged: leave it out of controls.backends"
	case slices.Contains(backends, "gcp"):
		return "gcp runs every container on TPUs privileged: leave TPU fleets out of controls.fleets"
	}
	return ""
}

// usable are those of some backends that the policy lets runs use.
func usable(policy *isolation.Policy, some []string) []string {
	backends := policy[isolation.Backends]
	if backends.Mode == isolation.ModeAllowed {
		return some
	}
	return slices.DeleteFunc(slices.Clone(some), func(b string) bool { return !slices.Contains(backends.List, b) })
}

// listed joins names as in "a, b and c".
func listed(names []string) string {
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
