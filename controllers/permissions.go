package controllers

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/status"
)

// permissions are what the server's config.yml must say in default_permissions. A
// key that the server's release does not know is left out, because the server would
// not start with it.
func (p *pass) permissions() map[string]bool {
	want := p.server.Spec.DefaultPermissions
	if want == nil {
		return nil
	}
	keys := map[string]*bool{
		dstack.PermissionCreateProjects:  want.AllowNonAdminsCreateProjects,
		dstack.PermissionManageSSHFleets: want.AllowNonAdminsManageSSHFleets,
		dstack.PermissionManageSecrets:   want.AllowManagersManageSecrets,
	}
	if p.tooOldForSecrets() {
		delete(keys, dstack.PermissionManageSecrets)
	}
	permissions := map[string]bool{}
	for key, allow := range keys {
		if allow != nil {
			permissions[key] = *allow
		}
	}
	return permissions
}

// tooOldForSecrets goes by the release that was seen last: the server pods are asked
// at the end of a pass.
func (p *pass) tooOldForSecrets() bool {
	want := p.server.Spec.DefaultPermissions
	return want != nil && want.AllowManagersManageSecrets != nil && dstack.Before(p.server.Status.Release, dstack.FirstSecretsPermission)
}

// releaseTooOld says which setting needs a later release of dstack; empty when none
// does. All other settings are known to every release that is supported.
func (p *pass) releaseTooOld() status.Finding {
	if !p.tooOldForSecrets() {
		return status.Finding{}
	}
	return status.Stuck(v1alpha1.ReasonReleaseTooOld, fmt.Sprintf(
		"a server pod runs dstack %s, and spec.defaultPermissions.allowManagersManageSecrets needs %s or later, so it is not set: upgrade dstack, or leave the field out",
		p.server.Status.Release, dstack.FirstSecretsPermission))
}

// usersMayCreateProjects tells whether any dstack user may create a project, for all
// that is known here.
func (p *pass) usersMayCreateProjects() bool {
	want := p.server.Spec.DefaultPermissions
	return want == nil || want.AllowNonAdminsCreateProjects == nil || *want.AllowNonAdminsCreateProjects
}
