package controllers

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
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
	if !p.knowsSecrets() {
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

// knowsSecrets tells whether the server's release certainly knows the permission to
// manage secrets: one that does not would not start with it. The server pods are asked
// at the end of a pass, so this goes by what was seen last. While nothing was seen,
// what is in the workload stays.
func (p *pass) knowsSecrets() bool {
	switch release := p.server.Status.Release; {
	case release != "":
		return !dstack.Before(release, dstack.FirstSecretsPermission)
	case p.server.Status.Build == v1alpha1.BuildDevelopment:
		return true
	default:
		return p.workload != nil && workload.Permits(p.workload.Injected(), dstack.PermissionManageSecrets)
	}
}

// releaseTooOld says which setting needs a later release of dstack; empty when none
// does. Every release that is supported honours all other settings, but one whose
// absence opens nothing: before dstack.FirstDstackInRuns there was no such run to
// refuse.
func (p *pass) releaseTooOld() status.Finding {
	want := p.server.Spec.DefaultPermissions
	if want == nil || want.AllowManagersManageSecrets == nil || p.knowsSecrets() {
		return status.Finding{}
	}
	if p.server.Status.Release == "" {
		return status.Unknown(v1alpha1.ReasonUnreachable, fmt.Sprintf(
			"no server pod has said yet which release of dstack it runs, and spec.defaultPermissions.allowManagersManageSecrets needs %s or later, so it is not set yet: see Connected", dstack.FirstSecretsPermission))
	}
	who := "a server pod"
	if manifests.Elsewhere(p.server) {
		who = "a process of the dstack server"
	}
	return status.Stuck(v1alpha1.ReasonReleaseTooOld, fmt.Sprintf(
		"%s runs dstack %s, and spec.defaultPermissions.allowManagersManageSecrets needs %s or later, so it is not set: upgrade dstack, or leave the field out",
		who, p.server.Status.Release, dstack.FirstSecretsPermission))
}
