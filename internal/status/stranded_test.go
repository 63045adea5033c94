package status_test

import (
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/status"
)

func TestStranded(t *testing.T) {
	const runs, keep = "active runs that started while the SSH proxy was enforced lose SSH access (",
		"). To keep it until they end, keep spec.sshProxy and set hostSSH to Allowed in every policy"
	token := &v1alpha1.SecretKeyReference{Name: "admin", Key: "token"}
	for name, tc := range map[string]struct {
		token  *v1alpha1.SecretKeyReference
		active string
		want   string
	}{
		"none":               {token, "0", ""},
		"some":               {token, "3", runs + "at most 3" + keep},
		"many":               {token, "more than 500", runs + "there are more than 500 active runs" + keep},
		"nobody may ask":     {nil, "", runs + "their number is unknown: set spec.api.adminTokenSecretRef" + keep},
		"the server is away": {token, "", runs + "their number is unknown: the dstack server did not list its runs" + keep},
	} {
		t.Run(name, func(t *testing.T) {
			server := &v1alpha1.DstackServer{}
			server.Spec.API.AdminTokenSecretRef = tc.token
			if got := status.Stranded(server, tc.active); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
