package controllers

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/sshproxy"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// applyOwn applies the policy server and what belongs to it.
func (r *DstackServerReconciler) applyOwn(ctx context.Context, p *pass) error {
	if err := r.ensureToken(ctx, p); err != nil {
		return err
	}
	options := r.options(p)
	options.EarlierTokens = p.earlierTokens()
	objects := manifests.PolicyServer(p.server, p.unlabelled(), options)
	if !manifests.Elsewhere(p.server) {
		objects = append([]manifests.Object{manifests.Plugin(p.server, r.Plugin)}, objects...)
	}
	for _, o := range objects {
		if err := r.applyObject(ctx, p.server.Namespace, o); err != nil {
			return err
		}
	}
	if manifests.Elsewhere(p.server) {
		return nil // Its plugin is in the ConfigMap that shows what it needs.
	}
	return r.collectPlugins(ctx, p)
}

// earlierTokens are those, beside the current one, that server pods may present. One
// whose node is gone is not waited for: nothing would ever end that. What somebody else
// has put into a copy is none.
func (p *pass) earlierTokens() []string {
	tampered := p.secrets.tampered()
	earlier := func(specs ...*corev1.PodSpec) []string {
		return slices.DeleteFunc(manifests.EarlierTokens(p.server.Name, p.tokenSecret, specs...), func(name string) bool { return slices.Contains(tampered, name) })
	}
	var specs []*corev1.PodSpec
	template := ""
	if p.workload != nil {
		specs = append(specs, &p.workload.Template.Spec)
		if len(earlier(specs...)) > 0 {
			template = p.workload.String()
		}
	}
	var holders []string
	present := workload.WithoutLost(p.matching, p.now)
	for i := range present {
		if specs = append(specs, &present[i].Spec); len(earlier(&present[i].Spec)) > 0 {
			holders = append(holders, present[i].Name)
		}
	}
	tokens := earlier(specs...)
	if text := status.EarlierTokens(len(tokens), holders, template); text != "" {
		p.warn("%s", text)
	}
	return tokens
}

// options are the build's options with what this pass adds.
func (r *DstackServerReconciler) options(p *pass) manifests.Options {
	o := r.Manifests
	o.TokenID, o.TokenSecret = p.tokenID, p.tokenSecret
	return o
}

// settingsOptions are the options for the server's pods. They keep the token that they
// have until every policy server accepts the new one: nothing is refused meanwhile, and
// no other change waits for it.
func (r *DstackServerReconciler) settingsOptions(p *pass) manifests.Options {
	o := r.options(p)
	live := manifests.LiveToken(p.server.Name, p.container)
	if id := p.workload.Template.Annotations[manifests.AnnotationTokenID]; !p.tokenAccepted && live != "" && id != "" {
		o.TokenSecret, o.TokenID = live, id
	}
	return o
}

func (r *DstackServerReconciler) applyObject(ctx context.Context, namespace string, o manifests.Object) error {
	live := newObject(o.Kind)
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: o.Name}, live)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read %s %s: %w", o.Kind, o.Name, err)
	}
	return r.applier.Own(ctx, o, live.GetResourceVersion())
}

// newObject is an empty object of a kind that the operator owns.
func newObject(kind string) client.Object {
	switch kind {
	case "Deployment":
		return &appsv1.Deployment{}
	case "Service":
		return &corev1.Service{}
	case "ConfigMap":
		return &corev1.ConfigMap{}
	case "PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	default:
		panic("no such kind among the operator's own: " + kind)
	}
}

// ensureToken reads the policy server's token, and makes one where there is no
// Secret.
func (r *DstackServerReconciler) ensureToken(ctx context.Context, p *pass) error {
	if err := r.openSeal(ctx, p); err != nil {
		return err
	}
	name := manifests.TokenSecretName(p.server.Name)
	secret, err := r.ownSecret(ctx, p.server, name, manifests.TokenKey)
	if err != nil {
		return err
	}
	token := secret.Data[manifests.TokenKey]
	if err := sshproxy.CheckToken(string(token)); err != nil {
		return fmt.Errorf("%w: the token in key %s of Secret %s %w: put another there, or delete it, and the operator makes another", errTokenInvalid, manifests.TokenKey, name, err)
	}
	p.wakeAfter(lookNowAndThen) // Secrets are not watched.
	p.token, p.tokenID = string(token), p.secrets.id(name, "policy-token", token)
	p.tokenSecret, err = r.copyOf(ctx, p, secretCopy{of: name, key: manifests.TokenKey, id: p.tokenID, value: token, labels: manifests.Labels(p.server)})
	return err
}

func newToken() ([]byte, error) { return []byte(rand.Text()), nil }

func objectMeta(server *v1alpha1.DstackServer, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: server.Namespace, Name: name, Labels: labels}
}

// collectPlugins deletes plugins of earlier versions that nothing mounts any
// more.
func (r *DstackServerReconciler) collectPlugins(ctx context.Context, p *pass) error {
	keep := []string{
		manifests.StateName(p.server.Name),
		manifests.ManualName(p.server.Name),
		manifests.ApprovedName(p.server.Name),
		manifests.PluginConfigMapName(p.server.Name, r.Plugin),
		manifests.LivePlugin(&p.workload.Template.Spec),
	}
	for i := range p.matching {
		keep = append(keep, manifests.LivePlugin(&p.matching[i].Spec))
	}
	var maps corev1.ConfigMapList
	if err := r.Client.List(ctx, &maps, client.InNamespace(p.server.Namespace), client.MatchingLabels{manifests.LabelServer: p.server.Name}); err != nil {
		return fmt.Errorf("list ConfigMaps: %w", err)
	}
	for i := range maps.Items {
		if m := &maps.Items[i]; !slices.Contains(keep, m.Name) {
			if err := r.Client.Delete(ctx, m); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("delete ConfigMap %s: %w", m.Name, err)
			}
		}
	}
	return nil
}
