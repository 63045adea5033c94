package controllers

import (
	"context"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// readTold finds what the operator has told the server of an SSH proxy. Others write
// the workload too, and may have changed or taken out a part of it: so what was kept
// when it was applied counts, unless the workload has later settings of ours, which
// a manager applied that died before it kept them.
func (r *DstackServerReconciler) readTold(ctx context.Context, p *pass) {
	if p.workload == nil || p.container == nil {
		return
	}
	live := p.toldByTemplate()
	if p.server.Spec.Injection == v1alpha1.InjectionManual {
		p.ssh.told = live
		return
	}
	last, found, err := r.approvedLast(ctx, p)
	switch {
	case err != nil:
		p.ssh.toldErr = err
	case found && last.Revision == p.workload.SettingsRevision():
		p.ssh.told = last.SSHSettings()
	case !found || apply.OwnsRevision(p.workload):
		p.ssh.told = live
	default:
		p.ssh.told = last.SSHSettings()
	}
}

// toldByTemplate is what pods are told of an SSH proxy that are made now; nil for
// nothing.
func (p *pass) toldByTemplate() *manifests.SSHSettings {
	id := p.workload.Template.Annotations[workload.AnnotationSSHToken]
	live, whole := workload.LiveSSHProxy(p.container)
	if id == "" || !whole {
		return nil
	}
	return &manifests.SSHSettings{TokenID: id, SSHProxy: live}
}

// sshSettings is what the server is told of the SSH proxy. While the proxy does
// not answer the server keeps what it was told: to take it away would put users'
// keys on hosts again, and to tell more would keep everybody out.
func (p *pass) sshSettings() *manifests.SSHSettings {
	if p.server.Spec.SSHProxy == nil {
		return nil
	}
	enforced := p.effective.Plan.SSHEnforced
	if p.ssh.answers && p.ssh.address != "" {
		return &manifests.SSHSettings{TokenID: p.ssh.tokenID, SSHProxy: workload.SSHProxy{
			Token: p.ssh.tokenRef, Address: p.ssh.address, Enforced: enforced,
		}}
	}
	if p.ssh.told == nil {
		return nil
	}
	told := *p.ssh.told
	told.Enforced = told.Enforced && enforced
	return &told
}

// sshHeldBack tells whether the server is not told yet what it should be.
func (p *pass) sshHeldBack() bool {
	if p.server.Spec.SSHProxy == nil {
		return false
	}
	told := p.sshSettings()
	return told == nil || p.effective.Plan.SSHEnforced && !told.Enforced
}

// sshEnforcedByTemplate tells whether new pods have the SSH proxy as the only
// way in.
func (p *pass) sshEnforcedByTemplate() bool {
	live := p.toldByTemplate()
	return live != nil && live.Enforced
}

// toldOfSSHProxy tells whether new pods are told of an SSH proxy, enforced or not:
// runs of an earlier time may be reached by it alone.
func (p *pass) toldOfSSHProxy() bool {
	return p.workload.Template.Annotations[workload.AnnotationSSHToken] != ""
}
