package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// proxyVariables may be set for the hosts of a fleet, in upper or lower case.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

// fleetEnvironment refuses environment variables for the hosts of a fleet. They
// reach the host's agent, to which they can say that every container is to be
// privileged, and every job there. dstack has them for SSH fleets only; they
// are refused in every fleet, in case a later release has them elsewhere.
func fleetEnvironment(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	const field = inConfiguration + ".env"
	var found []finding
	var others []string
	odd := false
	for _, variable := range s.fleet.env {
		switch {
		case isProxyVariable(variable.name) && variable.wrong == "":
		case isProxyVariable(variable.name):
			found = append(found, finding{field + "." + variable.name, fmt.Sprintf(
				"the environment variable %s is not allowed as it is for the hosts of a fleet in project %s: %s",
				variable.name, s.project, variable.wrong)})
		case hasPlainName(variable.name):
			others = append(others, quote(variable.name))
		default:
			odd = true
		}
	}
	if odd {
		others = append(others, "those with unusual names")
	}
	if len(others) == 0 {
		return found
	}
	return append(found, finding{field, fmt.Sprintf(
		"environment variables for the hosts of a fleet are not allowed in project %s: remove %s from env; only %s pass, in upper or lower case",
		s.project, list(others, maxPaths, "variables"), strings.Join(proxyVariables, ", "))})
}

func isProxyVariable(name string) bool {
	return slices.Contains(proxyVariables, name) ||
		slices.ContainsFunc(proxyVariables, func(proxy string) bool { return strings.ToLower(proxy) == name })
}

// hasPlainName tells whether a variable's name can be one. Another may be a
// value that came there by mistake, and is not shown.
func hasPlainName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	})
}

// sshFleets refuses hosts that are added by SSH: who adds one has root on it.
func sshFleets(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || !s.fleet.isSSH {
		return nil
	}
	return []finding{{sshConfig, fmt.Sprintf(
		"fleets of hosts that are added by SSH are not allowed in project %s: remove ssh_config and set nodes", s.project)}}
}

const sshConfig = inConfiguration + ".ssh_config"

// sharedInstances refuses to split instances into blocks, each for another job.
func sharedInstances(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	split := s.fleet.split
	if len(split) == 0 {
		return nil
	}
	return []finding{{split[0].String(), fmt.Sprintf(
		"instances that several jobs share are not allowed in project %s: set blocks to 1%s", s.project, whereSplit(split))}}
}

// whereSplit says in which objects blocks are set: the first host, and how many
// more there are. Places are in order, that of the whole fleet first.
func whereSplit(split []place) string {
	hosts := split
	where := " in "
	if split[0].object == inConfiguration {
		if hosts = split[1:]; len(hosts) == 0 {
			return ""
		}
		where += inConfiguration + " and "
	}
	where += hosts[0].in().String()
	switch more := len(hosts) - 1; more {
	case 0:
		return where
	case 1:
		return where + " and 1 more host"
	default:
		return fmt.Sprintf("%s and %d more hosts", where, more)
	}
}

// fleetBackends refuses fleets of other backends than the allowed ones. dstack
// takes the backends of the profile where the configuration names none, and any
// where the profile names none either.
func fleetBackends(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	found := objectBackend(v, s)
	const field = inConfiguration + ".backends"
	switch {
	case s.fleet.isSSH && !slices.Contains(v.List, remote):
		found = append(found, finding{sshConfig, fmt.Sprintf(
			"fleets of hosts that are added by SSH, whose backend is %s, are not allowed in project %s: %s",
			remote, s.project, backendRemedy(v.List, "remove ssh_config, set nodes, and set backends to"))})
	case !s.fleet.isSSH && len(s.backends) == 0:
		found = append(found, finding{field, fmt.Sprintf(
			"a fleet that may use any backend is not allowed in project %s: %s",
			s.project, backendRemedy(v.List, "set backends to"))})
	}
	return found
}
