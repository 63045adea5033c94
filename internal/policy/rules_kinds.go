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
