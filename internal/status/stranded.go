package status

import (
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Stranded says what taking the SSH proxy out of a server's settings does to active
// runs. dstack puts no user's key into a run that starts while the proxy is enforced,
// and never adds it later: without the proxy nothing leads there. Active is how many
// runs there are, which bounds those that are met, such as "3" or "more than 500"; ""
// means that it is not known.
// Nothing is said when no run is active.
func Stranded(server *v1alpha1.DstackServer, active string) string {
	if active == "0" {
		return ""
	}
	count := "at most " + active
	switch {
	case strings.HasPrefix(active, "more than "):
		count = "there are " + active + " active runs"
	case active != "":
	case server.Spec.API.AdminTokenSecretRef == nil:
		count = "their number is unknown: set spec.api.adminTokenSecretRef"
	default:
		count = "their number is unknown: the dstack server did not list its runs"
	}
	return "active runs that started while the SSH proxy was enforced lose SSH access (" + count +
		"). To keep it until they end, keep spec.sshProxy and set hostSSH to Allowed in every policy"
}
