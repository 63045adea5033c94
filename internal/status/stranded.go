package status

import "github.com/dstack-isolation/operator/api/v1alpha1"

// Stranded says what taking the SSH proxy out of a server's settings does to active
// runs. dstack puts no user's key into a run that starts while the proxy is enforced,
// and never adds it later: without the proxy nothing leads there. Active is how many
// runs there are, which bounds those that are met; "" means that it is not known.
// Nothing is said when no run is active.
func Stranded(server *v1alpha1.DstackServer, active string) string {
	if active == "0" {
		return ""
	}
	count := "up to " + active
	switch {
	case active != "":
	case server.Spec.API.AdminTokenSecretRef == nil:
		count = "how many is unknown without spec.api.adminTokenSecretRef"
	default:
		count = "how many is unknown, because the dstack server did not list its runs"
	}
	return "users lose SSH access to active runs that started while the SSH proxy was enforced (" + count +
		"); to keep it until these runs end, keep or restore spec.sshProxy, with hostSSH Allowed in every policy"
}
