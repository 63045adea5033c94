package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/uninstall"
)

const (
	// recordsAhead is how many records in a row may be missing before the last one.
	// A rollback keeps the hooks of an earlier revision, and Helm deletes old records.
	recordsAhead = 64
	// reasonLeftAlone is the reason of the event on a DstackServer that a cleanup
	// leaves as it is.
	reasonLeftAlone = "CleanupSkipped"
)

// RunFor is Run for a release of the chart, rendered at a revision of it. Without
// evidence that this very release is being uninstalled it restores nothing, says so
// in the log and in an event on each DstackServer, and succeeds.
func (c *Cleanup) RunFor(ctx context.Context, release uninstall.Release, revision int) error {
	log := logr.FromContextOrDiscard(ctx)
	evidence, err := c.evidence(ctx, release, revision)
	if err != nil {
		return err
	}
	verdict, err := uninstall.Judge(evidence)
	if err != nil {
		return err
	}
	if verdict.Restore {
		log.Info("Restoring all dstack servers of the namespace", "why", verdict.Reason)
		return c.Run(ctx, release.Manager)
	}
	log.Info("Restored no dstack server", "why", verdict.Reason)
	return c.leaveAlone(ctx, verdict)
}

// evidence reads what shows whether a release is being uninstalled.
func (c *Cleanup) evidence(ctx context.Context, release uninstall.Release, revision int) (uninstall.Evidence, error) {
	e := uninstall.Evidence{Release: release, Now: time.Now()}
	var managers appsv1.DeploymentList
	err := c.client.List(ctx, &managers, client.InNamespace(c.namespace), client.MatchingLabels(uninstall.ManagerLabels()))
	if err != nil {
		return e, fmt.Errorf("list the Deployments of managers: %w", err)
	}
	e.Managers = managers.Items
	// Helm keeps its records in Secrets or in ConfigMaps, and may have kept them in
	// the others before.
	for _, read := range []func() (*uninstall.Record, error){
		func() (*uninstall.Record, error) { return c.helmConfigMap(ctx, release.Name) },
		func() (*uninstall.Record, error) { return c.helmSecret(ctx, release.Name, revision) },
	} {
		record, err := read()
		if err != nil {
			return e, err
		}
		if record != nil {
			e.Records = append(e.Records, *record)
		}
	}
	return e, nil
}

// helmSecret is Helm's youngest record of a release in a Secret; nil if there is
// none. Secrets are read one by one, by name and without their data: nothing here
// has the right to list them.
func (c *Cleanup) helmSecret(ctx context.Context, release string, revision int) (*uninstall.Record, error) {
	var youngest *uninstall.Record
	for missing := 0; missing < recordsAhead; revision++ {
		secret := &metav1.PartialObjectMetadata{}
		secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
		key := client.ObjectKey{Namespace: c.namespace, Name: fmt.Sprintf("sh.helm.release.v1.%s.v%d", release, revision)}
		err := c.client.Get(ctx, key, secret)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("read Helm's record in Secret %s: %w", key.Name, err)
		}
		if missing++; err == nil {
			missing, youngest = 0, new(uninstall.ReadRecord(&secret.ObjectMeta))
		}
	}
	return youngest, nil
}

// helmConfigMap is Helm's youngest record of a release in a ConfigMap; nil if there
// is none.
func (c *Cleanup) helmConfigMap(ctx context.Context, release string) (*uninstall.Record, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
	err := c.client.List(ctx, list, client.InNamespace(c.namespace), client.MatchingLabels{"owner": "helm", "name": release})
	if err != nil {
		return nil, fmt.Errorf("list Helm's records in ConfigMaps: %w", err)
	}
	var youngest *uninstall.Record
	for i := range list.Items {
		if r := uninstall.ReadRecord(&list.Items[i].ObjectMeta); youngest == nil || r.Revision > youngest.Revision {
			youngest = &r
		}
	}
	return youngest, nil
}

// leaveAlone says on each DstackServer that it stays as it is, and waits for those
// that are being deleted while their manager runs: it restores them, and goes once
// this is over.
func (c *Cleanup) leaveAlone(ctx context.Context, verdict uninstall.Verdict) error {
	var servers v1alpha1.DstackServerList
	if err := c.client.List(ctx, &servers, client.InNamespace(c.namespace)); err != nil {
		return fmt.Errorf("list DstackServers: %w", err)
	}
	var going []*v1alpha1.DstackServer
	for i := range servers.Items {
		s := &servers.Items[i]
		if s.DeletionTimestamp != nil && verdict.Waits {
			going = append(going, s)
			continue
		}
		c.sayLeftAlone(ctx, s, verdict.Reason)
	}
	var failed []error
	for _, s := range going {
		if err := c.waitUntilGone(ctx, s); err != nil {
			failed = append(failed, fmt.Errorf("DstackServer %s: it is being deleted, and the manager has not restored its dstack server: look at its status: %w", s.Name, err))
		}
	}
	return errors.Join(failed...)
}

func (c *Cleanup) waitUntilGone(ctx context.Context, s *v1alpha1.DstackServer) error {
	return wait.PollUntilContextCancel(ctx, poll, true, func(ctx context.Context) (bool, error) {
		var live v1alpha1.DstackServer
		err := c.client.Get(ctx, client.ObjectKeyFromObject(s), &live)
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return err == nil && live.UID != s.UID, hopeless(err)
	})
}

// sayLeftAlone makes an event; one that cannot be made is only logged.
func (c *Cleanup) sayLeftAlone(ctx context.Context, s *v1alpha1.DstackServer, reason string) {
	now := metav1.NowMicro()
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: s.Name + "-cleanup-", Namespace: s.Namespace},
		Regarding: corev1.ObjectReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "DstackServer", Namespace: s.Namespace, Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion,
		},
		EventTime: now, Type: corev1.EventTypeWarning, Reason: reasonLeftAlone, Action: "Cleanup",
		ReportingController: "dstack-isolation", ReportingInstance: "cleanup",
		Note: clip("the chart's cleanup restored nothing: " + reason),
	}
	if err := c.client.Create(ctx, event); err != nil {
		logr.FromContextOrDiscard(ctx).Error(err, "Could not make an event", "server", s.Name)
	}
}
