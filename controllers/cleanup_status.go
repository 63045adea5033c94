package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
)

// unattended is what objects say that nobody looks after.
func unattended(s *v1alpha1.DstackServer) status.Finding {
	if manifests.Elsewhere(s) {
		return status.Unknown(v1alpha1.ReasonPending, fmt.Sprintf(
			"waiting for an operator: the last one was uninstalled with its policy servers, so a process of the dstack server at %s that still has the plugin refuses every run, and any other refuses nothing", s.Spec.API.URL))
	}
	return status.Unknown(v1alpha1.ReasonPending, fmt.Sprintf(
		"waiting for an operator: the last one was uninstalled and gave %s back, so nothing is refused", workloadKey(s)))
}

// forget makes a server that was given back, and its profiles, say so: no manager
// is left to correct a status that says Ready. Nor may the note outlive the
// settings that they have worked: when the next operator puts them in again, a
// first pod that fails must be taken back again.
func (c *Cleanup) forget(ctx context.Context, s *v1alpha1.DstackServer) error {
	profiles, err := c.profiles(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	view := status.View{
		Effective: isolation.Resolve(isolation.Input{Server: s, Profiles: profiles, Now: now}),
		Override:  unattended(s),
	}
	var failed []error
	for i := range profiles {
		p := &profiles[i]
		if p.Spec.ServerRef.Name != s.Name {
			continue
		}
		before := p.DeepCopy()
		p.Status = status.Profile(p, view, now)
		failed = append(failed, client.IgnoreNotFound(c.client.Status().Patch(ctx, p, client.MergeFrom(before))))
	}
	before := s.DeepCopy()
	s.Status = status.Server(s, status.ServerFacts{Accepted: view.Override}, now)
	failed = append(failed, client.IgnoreNotFound(c.client.Status().Patch(ctx, s, client.MergeFrom(before))))
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("write the status of what was given back: %w", err)
	}
	return nil
}

func (c *Cleanup) profiles(ctx context.Context) ([]v1alpha1.IsolationProfile, error) {
	var profiles v1alpha1.IsolationProfileList
	if err := c.client.List(ctx, &profiles, client.InNamespace(c.namespace)); err != nil {
		return nil, fmt.Errorf("list IsolationProfiles: %w", err)
	}
	return profiles.Items, nil
}

// announce says in the log and in the server's status what becomes exposed before
// the settings are taken out. It holds up nothing.
func (c *Cleanup) announce(ctx context.Context, s *v1alpha1.DstackServer) {
	log := logr.FromContextOrDiscard(ctx).WithValues("server", s.Name)
	p := newPass(s)
	var err error
	if p.workload, err = c.read(ctx, s); err != nil || !carriesSettings(p.workload) {
		return
	}
	profiles, err := c.profiles(ctx)
	if err == nil {
		err = readers{c.client, c.client}.pods(ctx, p)
	}
	if err != nil {
		log.Error(err, "Could not find out all that a release exposes")
	}
	now := time.Now()
	exposed := status.Exposure(isolation.Resolve(isolation.Input{Server: s, Profiles: profiles, Now: now}))
	token, _ := readAdminToken(ctx, c.client, s)
	notice := p.releaseNotice(len(exposed), listActive(ctx, c.prober, p, token))
	log.Info("About to release DstackServer", "notice", notice)
	for _, e := range exposed[:min(len(exposed), maxExposureEvents)] {
		log.Info("Exposed", "what", e.Message)
	}
	if more := len(exposed) - maxExposureEvents; more > 0 {
		log.Info("More profiles refuse nothing any more", "count", more)
	}
	before := s.DeepCopy()
	markReleasing(s, notice, status.ExposureWarnings(exposed), now)
	if err := c.client.Status().Patch(ctx, s, client.MergeFrom(before)); err != nil {
		s.Status = before.Status
		log.Error(err, "Could not write down what a release exposes")
	}
}
