package status

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// way is one way to have what a control denies although it is refused.
type way struct {
	// what leads there, and what to do about it.
	what, remedy string
	// around are the controls that it leads around.
	around []isolation.Control
}

func (w way) String() string {
	if w.remedy == "" {
		return w.what
	}
	return w.what + ": " + w.remedy
}

// onHost are the controls that mean nothing to somebody with all rights on the
// host: such a user starts any container there, from any image, on any network,
// with any directory, adds keys, and changes the agent and what it gives to all
// jobs. What is decided elsewhere, such as where a run is placed, is not his.
var onHost = []isolation.Control{
	isolation.HostSSH, isolation.Privileged, isolation.InstanceVolumes, isolation.HostNetwork,
	isolation.FleetEnvironment, isolation.Registries,
}

// liftedToHost are the controls whose exceptions may give all rights on a host.
var liftedToHost = []isolation.Control{
	isolation.Privileged, isolation.InstanceVolumes, isolation.HostNetwork, isolation.DistributedTasks,
	isolation.FleetEnvironment, isolation.SSHFleets,
}

// waysToHost finds how a user to whom the policy applies can have all rights on
// a host.
func waysToHost(policy *isolation.Policy, v View) []way {
	var ways []way
	if v.Elsewhere {
		ways = append(ways, networkNotSeen())
	} else if network, ok := hostNetworkLeft(policy, v.Running.NetworkMode); ok {
		ways = append(ways, network)
	}
	// Where the SSH proxy is the only way in, it is so for all projects.
	switch awaited := v.sshAwaited(); {
	case awaited == "":
	case !denied(policy, isolation.HostSSH):
		ways = append(ways, sshLeft("users may log in to hosts by SSH (hostSSH Allowed)"))
	case v.Effective.Plan.SSHProxy:
		ways = append(ways, sshLeft("users may log in to hosts by SSH, since "+awaited))
	default:
		ways = append(ways, sshLeft("users may log in to hosts by SSH, since nothing enforces hostSSH Denied"))
	}
	if !denied(policy, isolation.Privileged) {
		ways = append(ways, way{"privileged containers have all rights on their host (privileged Allowed)", "deny it", onHost})
	}
	if !denied(policy, isolation.InstanceVolumes) {
		ways = append(ways, way{"runs may mount any directory of their host (instanceVolumes Allowed)", "deny it or list paths", onHost})
	}
	if !denied(policy, isolation.FleetEnvironment) && !denied(policy, isolation.SSHFleets) {
		ways = append(ways, way{
			"the environment of an SSH fleet can make every container there privileged (fleetEnvironment Allowed)", "deny it",
			[]isolation.Control{isolation.Privileged},
		})
	}
	return ways
}

func sshLeft(what string) way {
	return way{what, "only dstack's SSH proxy, enforced by the server, ends that", append([]isolation.Control{isolation.DistributedTasks}, onHost...)}
}

// hostNetworkLeft says how a run can still get the network of the host, from
// which it reaches the host's agent and through it all that other controls
// deny; false when it cannot.
func hostNetworkLeft(policy *isolation.Policy, running v1alpha1.NetworkMode) (way, bool) {
	switch running {
	case v1alpha1.NetworkModeBridge:
		return way{}, false
	case v1alpha1.NetworkModeHostForDistributed:
		if policy[isolation.HostNetwork].Mode == isolation.ModeDenied || denied(policy, isolation.DistributedTasks) {
			return way{}, false
		}
		// These tasks are what this mode leaves the host network to, whatever
		// hostNetwork says.
		around := slices.DeleteFunc(slices.Clone(onHost), func(c isolation.Control) bool { return c == isolation.HostNetwork })
		return way{"tasks of more than one node get the host network, from which they reach the host's agent", "deny hostNetwork or distributedTasks", around}, true
	default:
		return way{"server pods run with network mode 2, so a job that fills its instance gets the host network, from which it reaches the host's agent", "", onHost}, true
	}
}

// waysOfPlacement finds what the places leave open on which the policy lets runs
// be placed.
func waysOfPlacement(policy *isolation.Policy) []way {
	var ways []way
	if policy[isolation.Fleets].Mode == isolation.ModeAllowed {
		ways = append(ways, way{
			"a run that names no fleet may be placed on an imported one", "set controls.fleets",
			[]isolation.Control{isolation.ImportedFleets},
		})
	}
	if shared := usable(policy, containerBackends); len(shared) > 0 {
		ways = append(ways, way{
			fmt.Sprintf("jobs share nodes on %s whatever blocks says", listed(shared)), "allow only other backends in controls.backends",
			[]isolation.Control{isolation.SharedInstances},
		})
	}
	backends := policy[isolation.Backends].List
	if slices.Contains(backends, "crusoe") {
		ways = append(ways, way{
			"backend crusoe runs every container privileged", "take it out of controls.backends",
			[]isolation.Control{isolation.Privileged},
		})
	}
	apart := slices.DeleteFunc(slices.Clone(backends), func(b string) bool { return !slices.Contains(containerBackends, b) })
	if len(apart) > 0 {
		ways = append(ways, way{
			fmt.Sprintf("network mode means nothing on %s, which decide by themselves what jobs reach", strings.Join(apart, ", ")),
			"take them out of controls.backends, or guard them there",
			[]isolation.Control{isolation.HostNetwork},
		})
	}
	return ways
}

// denied tells whether the policy denies something by the control.
func denied(policy *isolation.Policy, c isolation.Control) bool { return denies(c, policy[c].Value) }

// waysAround are the texts of all ways around a control: those for everybody,
// then those that exceptions open to some.
func (t *table) waysAround(c isolation.Control) []string {
	var out []string
	for _, w := range t.ways {
		if slices.Contains(w.around, c) {
			out = append(out, w.String())
		}
	}
	for _, x := range t.excepted {
		for _, w := range x.ways {
			if slices.Contains(w.around, c) && denied(&x.policy, c) {
				out = append(out, fmt.Sprintf("for %s, by exception, %s", x.users, w.what))
			}
		}
	}
	return out
}

// excepted are users to whom exceptions open ways that others do not have.
type excepted struct {
	users  string
	policy isolation.Policy
	ways   []way
}

func (t *table) findExcepted() {
	effective := t.view.Effective
	for _, users := range effective.Excepted(t.profile, t.now, liftedToHost...) {
		policy := effective.AtLeastFor(t.profile, users[0], t.now)
		more := slices.DeleteFunc(waysToHost(&policy, t.view), func(w way) bool {
			return slices.ContainsFunc(t.ways, func(known way) bool { return known.what == w.what })
		})
		t.excepted = append(t.excepted, excepted{some(users), policy, more})
	}
}

// some names a few of the users, and how many more there are.
func some(users []string) string {
	const most = 3
	if len(users) <= most {
		return strings.Join(users, ", ")
	}
	return fmt.Sprintf("%s and %d more users", strings.Join(users[:most], ", "), len(users)-most)
}
