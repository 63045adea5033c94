package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// managed are the variables that the operator sets, or that must be as it knows them.
var managed = append(manifests.Variables(), dstack.EnvConfigDisabled, dstack.EnvServerDir, dstack.EnvHome)

// hidden is a managed variable that a container takes from another object by
// envFrom.
type hidden struct {
	variable string
	// object and key that it comes from, as in "key A of ConfigMap settings".
	source string
	// gone is true when it comes from there no more, and a pod still runs that may have
	// started with it.
	gone bool
}

// readHidden looks which managed variables come by envFrom, and whether the
// database is named so. The objects are not watched, and only the names of their
// keys are looked at.
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
			switch name := from.Prefix + key; {
			case name == dstack.EnvHome && workload.Lookup(p.container, dstack.EnvServerDir).Set:
				// Then dstack does not look for its directory there.
			case slices.Contains(managed, name):
				p.hidden = append(p.hidden, hidden{variable: name, source: fmt.Sprintf("key %s of %s", key, what)})
			case name == dstack.EnvDatabaseURL:
				p.databaseHidden = true
			}
		}
	}
	slices.SortFunc(p.hidden, func(a, b hidden) int { return strings.Compare(a.variable+a.source, b.variable+b.source) })
	r.rememberHidden(p)
	p.facts.Doubts = status.Doubts(p.facts.Doubts, []string{v1alpha1.ReasonConfigDisabled, v1alpha1.ReasonSettingHidden},
		[]status.Finding{p.hiddenObstacle(), p.hiddenSetting()}, r.Clock.Now())
	return nil
}

// rememberHidden keeps what came by envFrom until every server pod has started
// without it: a process reads its environment at its start, and a key that is taken
// out of an object restarts nothing.
func (r *DstackServerReconciler) rememberHidden(p *pass) {
	now := metav1.NewTime(r.Clock.Now())
	p.facts.Hidden = nil
	// One entry a variable: there are fewer of them than the status may hold.
	known := map[string]bool{}
	for _, h := range p.hidden {
		if !known[h.variable] {
			known[h.variable] = true
			p.facts.Hidden = append(p.facts.Hidden, v1alpha1.HiddenVariable{Name: h.variable, Source: h.source})
		}
	}
	for _, before := range p.server.Status.HiddenVariables {
		if known[before.Name] {
			continue
		}
		if before.GoneAt == nil {
			before.GoneAt = &now
		}
		if workload.StartedBefore(p.pods, p.container.Name, before.GoneAt.Time) {
			p.facts.Hidden = append(p.facts.Hidden, before)
			p.hidden = append(p.hidden, hidden{before.Name, before.Source, true})
		}
	}
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
		if h.gone || workload.Lookup(p.container, h.variable).Set {
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
		case dstack.EnvHome:
			return status.Stuck(v1alpha1.ReasonSettingHidden, fmt.Sprintf(
				"container %s takes HOME from %s by envFrom, so dstack's directory cannot be compared with spec.serverDir: set variable %s in the container", p.container.Name, h.source, dstack.EnvServerDir))
		}
	}
	return status.Finding{}
}

// hiddenSetting says which setting comes by envFrom: the server is not called
// isolated while two decide about it.
func (p *pass) hiddenSetting() status.Finding {
	for _, h := range p.hidden {
		switch {
		case h.gone && workload.Lookup(p.container, h.variable).Set:
			continue
		case h.gone:
			return p.startedWithHidden(h)
		}
		switch h.variable {
		case dstack.EnvConfigDisabled, dstack.EnvPythonPath, dstack.EnvServerDir, dstack.EnvHome:
		default:
			return status.Stuck(v1alpha1.ReasonSettingHidden, fmt.Sprintf(
				"container %s takes %s from %s by envFrom, and the operator decides about it: remove the key", p.container.Name, h.variable, h.source))
		}
	}
	return status.Finding{}
}

// startedWithHidden says that a pod may still run with a variable that has gone from
// where it came from.
func (p *pass) startedWithHidden(h hidden) status.Finding {
	reason, effect := v1alpha1.ReasonSettingHidden, ""
	if h.variable == dstack.EnvConfigDisabled {
		reason, effect = v1alpha1.ReasonConfigDisabled, ", and have loaded no plugin"
	}
	return status.Stuck(reason, fmt.Sprintf(
		"a server pod may have started while %s came from %s by envFrom%s: restart the pods (%s)",
		h.variable, h.source, effect, p.restartCommand()))
}
