package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
)

// noted is a list of names that an annotation of the seal has.
func noted(seal *corev1.Secret, annotation string) []string {
	return strings.FieldsFunc(seal.Annotations[annotation], func(r rune) bool { return r == ',' })
}

// note writes such a list.
func (r *DstackServerReconciler) note(ctx context.Context, seal *corev1.Secret, annotation string, names []string) error {
	before := seal.DeepCopy()
	metav1.SetMetaDataAnnotation(&seal.ObjectMeta, annotation, strings.Join(names, ","))
	if err := r.Client.Patch(ctx, seal, unlessChanged(before), client.FieldOwner(apply.OwnManager)); err != nil {
		return fmt.Errorf("note the copies of Secrets in Secret %s: %w", seal.Name, err)
	}
	return nil
}

// tampered are the copies that somebody else has changed.
func (s *secretsPass) tampered() []string {
	if s.seal == nil {
		return nil
	}
	return noted(s.seal, manifests.AnnotationTampered)
}

// id is the digest by which the copy of a value is named.
func (s *secretsPass) id(of, what string, value []byte) string {
	return manifests.CopyID(s.key(), of, what, value, s.tampered())
}

// noteTampered notes that somebody else has changed a copy. The next pass names another
// one to the pods: kubelets may go on serving what was in this.
func (r *DstackServerReconciler) noteTampered(ctx context.Context, p *pass, name string) error {
	p.wakeAfter(lookAgain)
	return r.note(ctx, p.secrets.seal, manifests.AnnotationTampered, manifests.NoteTampered(p.secrets.tampered(), name))
}

// warnOfTampered tells of those that pods may still read.
func (p *pass) warnOfTampered() {
	for _, name := range p.secrets.tampered() {
		if slices.Contains(copies(p.secrets.seal), name) {
			p.warn("somebody changed Secret %s, a copy that the operator made: the operator has restored it, and moves the pods that read it to another copy", name)
		}
	}
}

// madeBefore names the copies of Secrets that were noted in a Secret that is gone, as
// far as somebody still knows of them.
func (r *DstackServerReconciler) madeBefore(ctx context.Context, p *pass) ([]string, error) {
	specs, _, err := r.ownTemplates(ctx, p)
	if err != nil {
		return nil, err
	}
	inHistory, err := copiesInHistory(ctx, r.Live, p.server)
	if err != nil {
		return nil, err
	}
	made := slices.Concat(p.memory.copies, inHistory, manifests.Copies(p.server.Name, append(specs, p.serverSpecs()...)...))
	slices.Sort(made)
	return slices.Compact(made), nil
}

// copiesInHistory names the copies that ReplicaSets name: those of the Deployments as
// they are and as they were. They are read from the API server: the cache leaves that
// part of them out.
func copiesInHistory(ctx context.Context, live client.Reader, server *v1alpha1.DstackServer) ([]string, error) {
	var sets appsv1.ReplicaSetList
	if err := live.List(ctx, &sets, client.InNamespace(server.Namespace)); err != nil {
		return nil, fmt.Errorf("list ReplicaSets, for the copies of Secrets that they name: %w", err)
	}
	var specs []*corev1.PodSpec
	for i := range sets.Items {
		specs = append(specs, &sets.Items[i].Spec.Template.Spec)
	}
	return manifests.Copies(server.Name, specs...), nil
}

// recordedCopies reads which copies of Secrets were made, and where that is noted; where
// the note is gone, those that are still named somewhere.
func recordedCopies(ctx context.Context, live client.Reader, server *v1alpha1.DstackServer) ([]string, error) {
	var seal corev1.Secret
	name := manifests.SealSecretName(server.Name)
	err := live.Get(ctx, client.ObjectKey{Namespace: server.Namespace, Name: name}, &seal)
	if apierrors.IsNotFound(err) {
		return copiesInHistory(ctx, live, server)
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	return copies(&seal), nil
}
