package status

import (
	"fmt"
	"slices"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// UsersMayCreateProjects tells whether any dstack user may create a project, of which
// they are the administrator then, for all that is known of the server's pods. Their
// own config.yml may keep users from it too, which is not seen.
func UsersMayCreateProjects(running *v1alpha1.RunningSettings) bool {
	return running == nil || !slices.Contains(running.DefaultPermissions, dstack.PermissionCreateProjects+"=false")
}

// waysOfNewProjects finds what users can have in a project that they make
// themselves.
func waysOfNewProjects(policy *isolation.Policy, v View) []way {
	if !UsersMayCreateProjects(v.Running) {
		return nil
	}
	around := v.Effective.LooserInNewProjects(policy)
	if len(around) == 0 {
		return nil
	}
	return []way{{
		"by default any dstack user may create a project that no profile names, where this is not denied",
		fmt.Sprintf("set spec.defaultPermissions.allowNonAdminsCreateProjects of DstackServer %s to false, or make its unmatchedProjects as strict", v.Effective.Name),
		around,
	}}
}
