package controllers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

// errTokenInvalid means that a Secret of the operator's own, such as that of the
// policy server's token, exists and holds nothing usable, or is not the operator's.
var errTokenInvalid = errors.New("the Secret is not usable")

// secretsPass is what a pass has found out about the operator's own Secrets.
type secretsPass struct {
	// seal is the Secret of manifests.SealSecretName.
	seal *corev1.Secret
	// wanted are the copies that this pass needs.
	wanted []string
}

// key is the operator's own secret, with which digests and seals are made; nil while it
// could not be read, and then nothing bears its seal.
func (s *secretsPass) key() []byte {
	if s.seal == nil {
		return nil
	}
	return s.seal.Data[manifests.SealKey]
}

// copies are all that were made and may still be there.
func copies(seal *corev1.Secret) []string { return noted(seal, manifests.AnnotationCopies) }

// openSeal reads the operator's own secret, and makes one where there is none. What
// was sealed with another counts for nothing, and pods restart for the new names of
// what they read.
func (r *DstackServerReconciler) openSeal(ctx context.Context, p *pass) error {
	name := manifests.SealSecretName(p.server.Name)
	secret, err := r.ownSecret(ctx, p.server, name, manifests.SealKey)
	p.secrets.seal = secret
	if err != nil {
		return err
	}
	if known := copies(secret); len(known) > 0 {
		p.memory.copies = known
		p.warnOfTampered()
		return nil
	}
	// It is new. What was made was noted in another one, which is gone.
	made, err := r.madeBefore(ctx, p)
	if err != nil || len(made) == 0 {
		return err
	}
	return r.noteCopies(ctx, p, made)
}

// ownSecret reads a Secret of the operator's own that holds a word, and makes one where
// there is none. An existing one is never changed.
func (r *DstackServerReconciler) ownSecret(ctx context.Context, server *v1alpha1.DstackServer, name, key string) (*corev1.Secret, error) {
	var secret corev1.Secret
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: name}, &secret)
	if apierrors.IsNotFound(err) {
		err = r.makeSecret(ctx, &secret, objectMeta(server, name, manifests.Labels(server)), key, newToken)
	}
	if err != nil {
		return nil, fmt.Errorf("read or make Secret %s: %w", name, err)
	}
	if len(secret.Data[key]) == 0 || secret.Labels[manifests.LabelServer] != server.Name {
		return nil, fmt.Errorf("%w: Secret %s has no value in key %s, or was not made by the operator: delete it, and the operator makes another", errTokenInvalid, name, key)
	}
	return &secret, nil
}

// makeSecret makes a Secret of the operator's own. It may be changed and deleted: pods
// read copies of it.
func (r *DstackServerReconciler) makeSecret(ctx context.Context, secret *corev1.Secret, meta metav1.ObjectMeta, key string, generate func() ([]byte, error)) error {
	value, err := generate()
	if err != nil {
		return err
	}
	*secret = corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{key: value}}
	return r.Client.Create(ctx, secret, client.FieldOwner(apply.OwnManager))
}

// secretCopy is one value of a Secret under a name of its own.
type secretCopy struct {
	of, key, id string
	value       []byte
	labels      map[string]string
}

// copyOf makes a copy, if it is not there, and returns its name. Its name was noted
// before, so that none is forgotten.
func (r *DstackServerReconciler) copyOf(ctx context.Context, p *pass, c secretCopy) (string, error) {
	name := workload.SecretCopy(c.of, c.id)
	if known := copies(p.secrets.seal); !slices.Contains(known, name) {
		if err := r.noteCopies(ctx, p, append(known, name)); err != nil {
			return "", err
		}
	}
	var live corev1.Secret
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: p.server.Namespace, Name: name}, &live)
	if err == nil && !bytes.Equal(live.Data[c.key], c.value) {
		// Somebody else's, under a name that says what is in it.
		if err := r.noteTampered(ctx, p, name); err != nil {
			return "", err
		}
		if err = r.Client.Delete(ctx, &live, client.Preconditions{UID: &live.UID}); err == nil {
			err = apierrors.NewNotFound(corev1.Resource("secrets"), name)
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		live = corev1.Secret{
			ObjectMeta: objectMeta(p.server, name, c.labels), Immutable: ptr.To(true), Data: map[string][]byte{c.key: c.value},
		}
		err = r.Client.Create(ctx, &live, client.FieldOwner(apply.OwnManager))
	case err == nil && len(live.OwnerReferences) > 0:
		err = r.reclaim(ctx, &live) // It was left to the pods of an earlier proxy.
	}
	if err != nil {
		return "", fmt.Errorf("copy Secret %s to %s: %w", c.of, name, err)
	}
	p.secrets.wanted = append(p.secrets.wanted, name)
	return name, nil
}

func (r *DstackServerReconciler) noteCopies(ctx context.Context, p *pass, names []string) error {
	if err := r.note(ctx, p.secrets.seal, manifests.AnnotationCopies, slices.Sorted(slices.Values(names))); err != nil {
		return err
	}
	p.memory.copies = copies(p.secrets.seal)
	return nil
}

// retireCopies deletes the copies that no pod reads any more and none will: earlier
// values must not lie about. Where something is not known, or on its way, all stay.
func (r *DstackServerReconciler) retireCopies(ctx context.Context, p *pass) error {
	if p.secrets.seal == nil {
		return nil
	}
	known := copies(p.secrets.seal)
	surplus := slices.DeleteFunc(slices.Clone(known), func(name string) bool { return slices.Contains(p.secrets.wanted, name) })
	if len(surplus) == 0 {
		return nil
	}
	p.wakeAfter(lookNowAndThen)
	read, settled, err := r.secretsRead(ctx, p)
	if err != nil || !settled {
		return err
	}
	surplus = slices.DeleteFunc(surplus, func(name string) bool { return slices.Contains(read, name) })
	if len(surplus) == 0 {
		return nil
	}
	for _, name := range surplus {
		err := r.Client.Delete(ctx, objectNamed(p.server, name, &corev1.Secret{}))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete Secret %s, which no pod reads any more: %w", name, err)
		}
	}
	return r.noteCopies(ctx, p, slices.DeleteFunc(known, func(name string) bool { return slices.Contains(surplus, name) }))
}

// secretsRead names what is read by pods that are there or may come. Not settled means
// that a rollout is under way, in which earlier pods may come again.
func (r *DstackServerReconciler) secretsRead(ctx context.Context, p *pass) (names []string, settled bool, err error) {
	specs, settled, err := r.ownTemplates(ctx, p)
	if err != nil || !settled {
		return nil, false, err
	}
	specs = append(specs, p.serverSpecs()...)
	var own corev1.PodList
	if err := r.Client.List(ctx, &own, client.InNamespace(p.server.Namespace), client.MatchingLabels{manifests.LabelServer: p.server.Name}); err != nil {
		return nil, false, fmt.Errorf("list the operator's pods: %w", err)
	}
	for i := range own.Items {
		specs = append(specs, &own.Items[i].Spec)
	}
	for _, spec := range specs {
		names = append(names, workload.Secrets(spec)...)
	}
	if p.workload == nil {
		return names, true, nil
	}
	if !p.workload.ObserveRollout(p.pods).Done {
		return nil, false, nil
	}
	last, found, err := r.approvedLast(ctx, p)
	if err != nil || !found {
		return names, err == nil, err
	}
	return append(names, last.Secrets()...), true, nil
}

// ownTemplates are the specs of the operator's own pods that may come. Not settled means
// that there are others still.
func (r *DstackServerReconciler) ownTemplates(ctx context.Context, p *pass) (specs []*corev1.PodSpec, settled bool, err error) {
	settled = true
	for _, name := range []string{manifests.PolicyServerName(p.server.Name), manifests.SSHProxyName(p.server.Name)} {
		d, err := r.ownDeployment(ctx, p.server, name)
		if err != nil {
			return nil, false, err
		}
		if d != nil {
			specs, settled = append(specs, &d.Spec.Template.Spec), settled && rolloutOf(d, "") == ""
		}
	}
	return specs, settled, nil
}

// serverSpecs are the specs of the server's pods, and of those that may come.
func (p *pass) serverSpecs() []*corev1.PodSpec {
	var specs []*corev1.PodSpec
	if p.workload != nil {
		specs = append(specs, &p.workload.Template.Spec)
	}
	for i := range p.matching {
		specs = append(specs, &p.matching[i].Spec)
	}
	return specs
}
