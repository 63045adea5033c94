package policy

import (
	"fmt"
	"slices"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// objectBackend refuses backends that are not among the allowed ones.
func objectBackend(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, backend := range s.backends {
		if !slices.Contains(v.List, backend.name) {
			found = append(found, finding{backend.String(), fmt.Sprintf(
				"the backend %s is not allowed in project %s: %s", quote(backend.name), s.project, backendRemedy(v.List, "use only"))})
		}
	}
	return found
}

// remote is the backend of SSH fleets, which nothing names: it goes with
// ssh_config.
const remote = "remote"

// backendRemedy says which backends are allowed, after what is to be done with
// them.
func backendRemedy(allowed []string, do string) string {
	var named []string
	for _, name := range allowed {
		if name != remote {
			named = append(named, quote(name))
		}
	}
	switch {
	case len(named) > 0:
		return do + " " + list(named, maxPaths, "backends")
	case len(allowed) > 0:
		return "only remote is, the backend of fleets with ssh_config"
	}
	return "there is no backend that all profiles of the project allow"
}

// objectTags refuses tags. On the Kubernetes backend they become labels, which
// Services and NetworkPolicies may select.
func objectTags(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, at := range s.tags {
		found = append(found, finding{at.String(), fmt.Sprintf(
			"tags are not allowed in project %s: remove tags from %s", s.project, at.object)})
	}
	return found
}

// objectUnknownFields refuses fields that this release does not know and that
// carry a value: nobody can tell what they ask for.
func objectUnknownFields(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, at := range s.unknown {
		found = append(found, finding{at.String(), fmt.Sprintf(
			"fields that are not known to this release are not allowed in project %s: remove %s", s.project, at)})
	}
	return found
}
