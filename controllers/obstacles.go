package controllers

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// obstacle is what in the workload the settings cannot work beside; an empty
// finding means that there is none.
func (p *pass) obstacle(intent manifests.Intent) status.Finding {
	c := p.container
	if workload.Lookup(c, dstack.EnvConfigDisabled).Set {
		return status.Stuck(v1alpha1.ReasonConfigDisabled, fmt.Sprintf(
			"container %s sets %s, so dstack reads no config.yml and loads no plugin, whatever the value: remove the variable", c.Name, dstack.EnvConfigDisabled))
	}
	if f := p.hiddenObstacle(); f.Reason != "" {
		return f
	}
	var set []string
	for _, e := range intent.Env() {
		set = append(set, *e.Name)
	}
	if hides := workload.Hides(c, set, p.server.Spec.PolicyPlugin.Delivery != v1alpha1.DeliveryREST, manifests.PluginDir); hides != "" {
		return status.Stuck(v1alpha1.ReasonSettingHidden, hides)
	}
	source := workload.FindConfig(c, manifests.ServerDir(p.server), manifests.ConfigVolume)
	if source.Mount != nil && source.Mount.SubPathExpr != "" {
		return status.Stuck(v1alpha1.ReasonInvalidWorkload, fmt.Sprintf(
			"volume %q is mounted with subPathExpr, which the init container cannot expand: use subPath", source.Mount.Name))
	}
	if p.clash.Reason != "" {
		return p.clash
	}
	return p.proxyInTheWay()
}

// refusal says why nothing may be written; an empty finding means that nothing
// speaks against it.
func (p *pass) refusal(intent manifests.Intent) status.Finding {
	if f := p.obstacle(intent); f.Reason != "" {
		return f
	}
	if p.workload.Injected() == nil && p.facts.Revisions.Rejected == rejectionKey(p.server, intent.Revision) {
		return p.earlier(v1alpha1.ConditionSettingsApplied)
	}
	risk := p.workload.DatabaseRisk(p.container, manifests.ServerDir(p.server), p.databaseHidden)
	if risk != "" && p.workload.Injected() == nil && p.server.Annotations[v1alpha1.AnnotationAcknowledgeDataLoss] != "true" {
		return status.Stuck(v1alpha1.ReasonWouldLoseDatabase, fmt.Sprintf(
			"settings restart the server, and that would lose its database: %s. Put it on a persistent volume or set %s, or accept the loss: kubectl -n %s annotate dstackserver %s %s=true",
			risk, dstack.EnvDatabaseURL, p.server.Namespace, p.server.Name, v1alpha1.AnnotationAcknowledgeDataLoss))
	}
	return status.Finding{}
}

// proxyInTheWay: dstack's built-in plugin honours proxy variables, so specs,
// with the secrets in them, would go to the proxy.
func (p *pass) proxyInTheWay() status.Finding {
	if p.server.Spec.PolicyPlugin.Delivery != v1alpha1.DeliveryREST {
		return status.Finding{}
	}
	host := manifests.PolicyHost(p.server.Namespace, p.server.Name)
	name := workload.ProxyInTheWay(p.container, host)
	if name == "" {
		return status.Finding{}
	}
	return status.Stuck(v1alpha1.ReasonProxyInTheWay, fmt.Sprintf(
		"container %s sets %s, and dstack's rest_plugin would send specs, with the secrets in them, to that proxy: add %s to NO_PROXY, or use spec.policyPlugin.delivery Python",
		p.container.Name, name, host))
}

// warnings name what does not stop us but should be known.
func (r *DstackServerReconciler) warnings(p *pass) {
	w := p.workload
	// dstack lets any user create a project, who is its administrator then.
	if status.UsersMayCreateProjects(p.facts.Running) && !p.effective.Unmatched.Refuses() {
		p.warn("spec.unmatchedProjects refuses nothing, and by default any dstack user may create a project that no profile names: there they can do what profiles deny elsewhere; spec.defaultPermissions.allowNonAdminsCreateProjects false keeps them from it")
	}
	if manifests.Elsewhere(p.server) {
		p.warnElsewhere()
		return
	}
	switch {
	case w.Strategy == "Recreate":
		p.warn("%s has strategy Recreate: each change of settings stops the server for some seconds", w)
	case w.Kind == v1alpha1.WorkloadDeployment && workload.SQLite(p.container, p.databaseHidden):
		p.warn("%s has strategy RollingUpdate and its database is an SQLite file: two servers share it during each rollout; use strategy Recreate", w)
	}
	source := workload.FindConfig(p.container, manifests.ServerDir(p.server), manifests.ConfigVolume)
	if m := source.Mount; m != nil {
		for _, late := range w.WritesAfter(m.Name) {
			p.warn("init container %s can write to volume %q after %s has read config.yml from it, so what it writes there counts for nothing or is not checked: set spec.injection to Disabled and to Enabled again, which puts the operator's last",
				late, m.Name, workload.InjectContainer)
		}
	} else {
		p.warn("%s of container %s is on no volume: a config.yml that its image brings cannot be read and is replaced by one that only names the plugin", manifests.ServerDir(p.server), p.container.Name)
	}
	if p.effective.Plan.SSHEnforced && dstack.Before(p.server.Status.Release, dstack.FirstContainerSSHRelease) {
		p.warn("dstack %s puts users' keys into jobs on backends that run containers without dstack's agent, such as kubernetes and runpod, past the SSH proxy: upgrade to %s or later", p.server.Status.Release, dstack.FirstContainerSSHRelease)
	}
}
