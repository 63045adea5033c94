package status_test

import (
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/status"
)

func TestStranded(t *testing.T) {
	const keep = "; to keep it until these runs end, keep or restore spec.sshProxy, with hostSSH Allowed in every policy"
	token := &v1alpha1.SecretKeyReference{Name: "admin", Key: "token"}
	for name, tc := range map[string]struct {
		token  *v1alpha1.SecretKeyReference
		active string
		want   string
	}{
		"none":               {token, "0", ""},
		"some":               {token, "3", "users lose SSH access to active runs that started while the SSH proxy was enforced (up to 3)" + keep},
		"nobody may ask":     {nil, "", "users lose SSH access to active runs that started while the SSH proxy was enforced (how many is unknown without spec.api.adminTokenSecretRef)" + keep},
		"the server is away": {token, "", "users lose SSH access to active runs that started while the SSH proxy was enforced (how many is unknown, because the dstack server did not list its runs)" + keep},
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
