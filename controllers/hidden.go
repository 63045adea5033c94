package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// managed are the variables that the operator sets or leaves unset itself.
var managed = []string{
	dstack.EnvConfigDisabled, dstack.EnvServerDir, dstack.EnvPythonPath,
	dstack.EnvJobNetworkMode, dstack.EnvForbidDstackInRuns, dstack.EnvForbidServicesWithoutGateway,
	dstack.EnvSSHProxyAPIToken, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced,
	dstack.EnvPluginServiceURI, dstack.EnvPolicyURL, dstack.EnvToken, dstack.EnvServer,
}

// hidden is a managed variable that a container takes from another object by
// envFrom.
type hidden struct {
	variable string
	// object and key that it comes from, as in "key A of ConfigMap settings".
	source string
}

// readHidden looks which managed variables come by envFrom. The objects are not
// watched, and of Secrets only the names of keys are looked at.
func (r *DstackServerReconciler) readHidden(ctx context.Context, p *pass) error {
	if len(p.container.EnvFrom) > 0 {
		p.wakeAfter(lookNowAndThen)
	}
	for i := range p.container.EnvFrom {
		from := &p.container.EnvFrom[i]
		what, keys, err := r.envKeys(ctx, p.server.Namespace, from)
		if err != nil {
			return fmt.Errorf("read %s, from which container %s takes variables: %w", what, p.container.Name, err)
		}
		for _, key := range keys {
			if name := from.Prefix + key; slices.Contains(managed, name) {
				p.hidden = append(p.hidden, hidden{name, fmt.Sprintf("key %s of %s", key, what)})
			}
		}
	}
	slices.SortFunc(p.hidden, func(a, b hidden) int { return strings.Compare(a.variable+a.source, b.variable+b.source) })
	return nil
}

// envKeys are the keys of the object that envFrom names. One that is not there
// brings nothing: a pod either does without or does not start.
func (r *DstackServerReconciler) envKeys(ctx context.Context, namespace string, from *corev1.EnvFromSource) (what string, keys []string, err error) {
	switch {
	case from.ConfigMapRef != nil:
		var object corev1.ConfigMap
		what = "ConfigMap " + from.ConfigMapRef.Name
		err = r.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: from.ConfigMapRef.Name}, &object)
		for key := range object.Data {
			keys = append(keys, key)
		}
	case from.SecretRef != nil:
		var object corev1.Secret
		what = "Secret " + from.SecretRef.Name
		err = r.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: from.SecretRef.Name}, &object)
		for key := range object.Data {
			keys = append(keys, key)
		}
	}
	return what, keys, client.IgnoreNotFound(err)
}

// hiddenObstacle says which variable that comes by envFrom the settings cannot work
// beside.
func (p *pass) hiddenObstacle() status.Finding {
	for _, h := range p.hidden {
		if workload.Lookup(p.container, h.variable).Set {
			continue // What the container sets itself wins.
		}
		switch h.variable {
		case dstack.EnvConfigDisabled:
			return status.Stuck(v1alpha1.ReasonConfigDisabled, fmt.Sprintf(
				"container %s takes %s from %s by envFrom, so dstack reads no config.yml and loads no plugin, whatever the value: remove the key", p.container.Name, h.variable, h.source))
		case dstack.EnvPythonPath:
			if p.server.Spec.PolicyPlugin.Delivery == v1alpha1.DeliveryREST {
				continue // That plugin is dstack's own, and the operator sets no such path.
			}
			return status.Stuck(v1alpha1.ReasonSettingHidden, fmt.Sprintf(
				"container %s takes %s from %s by envFrom, and the operator would set another: write it as a variable of the container, with :%s at its end", p.container.Name, h.variable, h.source, manifests.PluginDir))
		case dstack.EnvServerDir:
			return status.Stuck(v1alpha1.ReasonSettingHidden, fmt.Sprintf(
				"container %s takes %s from %s by envFrom, so it cannot be compared with spec.serverDir: write the directory as a variable of the container", p.container.Name, h.variable, h.source))
		}
	}
	return status.Finding{}
}

// hiddenSetting says which setting comes by envFrom: the server is not called
// isolated while two decide about it.
func (p *pass) hiddenSetting() status.Finding {
	for _, h := range p.hidden {
		switch h.variable {
		case dstack.EnvConfigDisabled, dstack.EnvPythonPath, dstack.EnvServerDir:
		default:
			return status.Stuck(v1alpha1.ReasonSettingHidden, fmt.Sprintf(
				"container %s takes %s from %s by envFrom, and the operator decides about it: remove the key", p.container.Name, h.variable, h.source))
		}
	}
	return status.Finding{}
}
