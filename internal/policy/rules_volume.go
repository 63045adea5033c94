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
// which may be another tenant's. A claim of a class that provisions nothing is
// bound to such a disk, and no specification tells which class does. On a
// backend that is not known any field may name one.
func existingVolumes(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, at := range s.volume.existing {
		found = append(found, finding{at.String(), fmt.Sprintf(
			"volumes for disks and claims that exist already are not allowed in project %s: remove %s, and set size for a new volume", s.project, at.key)})
	}
	if class := s.volume.class; class != nil && !allowsClass(v, class.name) {
		remedy := "remove storage_class_name for the default one"
		if v.Mode == isolation.ModeAllowedClasses {
			remedy += ", or use only " + list(quoted(v.List), maxPaths, "storage classes")
		}
		what := fmt.Sprintf("storage class %s is not allowed in project %s, because a volume of it", quote(class.name), s.project)
		if class.name == "" {
			what = fmt.Sprintf("a volume without a storage class (\"\") is not allowed in project %s, because it", s.project)
		}
		found = append(found, finding{class.String(), what + " could be a disk that exists already: " + remedy})
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

func allowsClass(v isolation.Value, name string) bool {
	return v.Mode == isolation.ModeAllowedClasses && slices.Contains(v.List, name)
}
