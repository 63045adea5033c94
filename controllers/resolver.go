package controllers

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// Resolver resolves what holds for a server, once a change: both reconcilers
// ask it, and with thousands of profiles resolving once a profile would be
// quadratic.
type Resolver struct {
	reader client.Reader
	clock  clock.PassiveClock

	mu   sync.Mutex
	memo map[types.NamespacedName]*isolation.Effective
}

// NewResolver reads profiles through reader, which should be a cache.
func NewResolver(reader client.Reader, c clock.PassiveClock) *Resolver {
	return &Resolver{reader: reader, clock: c, memo: map[types.NamespacedName]*isolation.Effective{}}
}

// Resolve works out what holds for a server.
func (r *Resolver) Resolve(ctx context.Context, server *v1alpha1.DstackServer) (*isolation.Effective, error) {
	var profiles v1alpha1.IsolationProfileList
	// The objects are only read, so the cache's own may be looked at.
	err := r.reader.List(ctx, &profiles, client.InNamespace(server.Namespace),
		client.MatchingFields{indexServer: server.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	name := client.ObjectKeyFromObject(server)
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.memo[name]
	in := isolation.Input{Server: server, Profiles: profiles.Items, Previous: last, Now: r.clock.Now()}
	if !last.Still(in) {
		last = isolation.Resolve(in)
		r.memo[name] = last
	}
	return last, nil
}

// Forget drops what is remembered of a server that is gone.
func (r *Resolver) Forget(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memo, name)
}
