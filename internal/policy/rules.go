package policy

import (
	"fmt"
	"path"
	"strings"
	"unicode"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// privileged refuses privileged containers. dstack gives them for "privileged"
// and, whatever that says, for "docker"; in the configuration, and in each
// group of a service, in which null takes over what the configuration says.
func privileged(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, at := range s.flags {
		what := "privileged containers are"
		if at.key == "docker" {
			what = "privileged containers, which docker asks for, are"
		}
		where := ""
		if at.object != inConfiguration && at.object != "" {
			where = " in " + at.in().String()
		}
		found = append(found, finding{at.String(), fmt.Sprintf(
			"%s not allowed in project %s: set %s to false%s", what, s.project, at.key, where)})
	}
	return found
}

// instanceVolumes refuses directories of the host as volumes. One that is
// optional counts too: dstack mounts it where it exists.
func instanceVolumes(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, volume := range s.run.volumes {
		remedy := "remove it from volumes"
		if v.Mode == isolation.ModeAllowedPaths {
			remedy = pathRemedy(volume.path, v.List)
		}
		if remedy != "" {
			found = append(found, finding{volume.String(), fmt.Sprintf(
				"instance volume %s is not allowed in project %s: %s", quote(volume.path), s.project, remedy)})
		}
	}
	return found
}

// pathRemedy says what to change in a path, or "" when it lies below one of the
// allowed ones. dstack keeps two leading slashes, spaces at the end and control
// characters, of which the host's tools may make something else; so only a
// path that is clean can be allowed.
func pathRemedy(p string, allowed []string) string {
	below := fmt.Sprintf("mount only what is in %s", list(quoted(allowed), maxPaths, "directories"))
	if strings.ContainsFunc(p, unicode.IsControl) || strings.TrimSpace(p) != p {
		return "write it without control characters and without spaces at its ends, and " + below
	}
	clean := path.Clean(p)
	for _, dir := range allowed {
		switch {
		case !strings.HasPrefix(p, "/") || !isolation.Below(clean, dir):
		case clean == p:
			return ""
		default:
			return fmt.Sprintf("write it as %s", quote(clean))
		}
	}
	return below
}

// distributedTasks refuses runs of more than one node.
func distributedTasks(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || s.run.nodes <= 1 {
		return nil
	}
	return []finding{{s.run.nodesField, fmt.Sprintf(
		"tasks of more than one node are not allowed in project %s, and this one has %d: %s",
		s.project, s.run.nodes, oneNode(s))}}
}

// hostNetwork refuses what would get the host's network, as far as it can be
// told from the run. With network mode 3 nothing gets it; with 1 tasks of more
// than one node do; with 2 so does every job that fills its instance, which no
// specification tells: those are not refused, or a server that waits for its
// restart would refuse every run. The status of the profile tells of them.
func hostNetwork(v isolation.Value, s *subject) []finding {
	denied := v.Mode != isolation.ModeAllowed && v.Mode != isolation.ModeDistributedOnly
	if !denied || s.networkMode == v1alpha1.NetworkModeBridge || s.run.nodes <= 1 {
		return nil
	}
	return []finding{{s.run.nodesField, fmt.Sprintf(
		"host networking is not allowed in project %s, and this %d-node task would use it: %s",
		s.project, s.run.nodes, oneNode(s))}}
}

func oneNode(s *subject) string {
	if s.run.nodesField == inGroups {
		return "keep one group with nodes set to 1"
	}
	return "set nodes to 1"
}
