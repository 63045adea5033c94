package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// volumeBackends are those of which this release knows how a volume names what
// exists already.
var volumeBackends = []string{"aws", "gcp", "runpod", "kubernetes", "daytona", "lium"}

// existingVolumes refuses volumes for a disk or a claim that exists already,
// which may be another tenant's. On a backend that is not known any field may
// name one.
func existingVolumes(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, at := range s.volume.existing {
		found = append(found, finding{at.String(), fmt.Sprintf(
			"volumes for disks and claims that exist already are not allowed in project %s: remove %s, and set size for a new volume", s.project, at.key)})
	}
	for _, backend := range s.backends {
		if !slices.Contains(volumeBackends, backend.name) {
			found = append(found, finding{backend.String(), fmt.Sprintf(
				"volumes for disks and claims that exist already are not allowed in project %s, and on the backend %s this release cannot tell them from new ones: use %s",
				s.project, quote(backend.name), strings.Join(volumeBackends, ", "))})
		}
	}
	return found
}
