package controllers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
)

// errTokenInvalid means that the Secret of the policy server's token exists and
// holds none, or is not the operator's.
var errTokenInvalid = errors.New("token Secret is not usable")

// applyOwn applies the policy server and what belongs to it.
func (r *DstackServerReconciler) applyOwn(ctx context.Context, p *pass) error {
	token, err := r.ensureToken(ctx, p.server)
	if err != nil {
		return err
	}
	p.token = token
	options := r.options(p)
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

// options are the build's options with what this pass adds.
func (r *DstackServerReconciler) options(p *pass) manifests.Options {
	o := r.Manifests
	sum := sha256.Sum256([]byte("token-id\x00" + p.token))
	o.TokenID = hex.EncodeToString(sum[:])[:8]
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
// Secret. An existing Secret is never changed.
func (r *DstackServerReconciler) ensureToken(ctx context.Context, server *v1alpha1.DstackServer) (string, error) {
	name := manifests.TokenSecretName(server.Name)
	var secret corev1.Secret
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: name}, &secret)
	if apierrors.IsNotFound(err) {
		err = r.makeSecret(ctx, &secret, objectMeta(server, name, manifests.Labels(server)), manifests.TokenKey, newToken)
	}
	if err != nil {
		return "", fmt.Errorf("make token Secret %s: %w", name, err)
	}
	token := string(secret.Data[manifests.TokenKey])
	if token == "" || secret.Labels[manifests.LabelServer] != server.Name {
		return "", fmt.Errorf("%w: Secret %s has no key %s or was not made by the operator: delete it, and the operator makes another", errTokenInvalid, name, manifests.TokenKey)
	}
	return token, nil
}

// makeSecret makes a Secret of the operator's own, which is never changed.
func (r *DstackServerReconciler) makeSecret(ctx context.Context, secret *corev1.Secret, meta metav1.ObjectMeta, key string, generate func() ([]byte, error)) error {
	value, err := generate()
	if err != nil {
		return err
	}
	*secret = corev1.Secret{ObjectMeta: meta, Immutable: ptr.To(true), Data: map[string][]byte{key: value}}
	return r.Client.Create(ctx, secret, client.FieldOwner(apply.OwnManager))
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
