package controllers

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

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
	memo map[types.NamespacedName]resolved
}

type resolved struct {
	key       uint64
	effective *isolation.Effective
}

// NewResolver reads profiles through reader, which should be a cache.
func NewResolver(reader client.Reader, c clock.PassiveClock) *Resolver {
	return &Resolver{reader: reader, clock: c, memo: map[types.NamespacedName]resolved{}}
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
	name, key, now := client.ObjectKeyFromObject(server), memoKey(server, profiles.Items), r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.memo[name]
	if ok && last.key == key && !expired(last.effective, now) {
		return last.effective, nil
	}
	e := isolation.Resolve(isolation.Input{Server: server, Profiles: profiles.Items, Previous: last.effective, Now: now})
	r.memo[name] = resolved{key: key, effective: e}
	return e, nil
}

// Forget drops what is remembered of a server that is gone.
func (r *Resolver) Forget(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memo, name)
}

func expired(e *isolation.Effective, now time.Time) bool {
	return !e.NextExpiry.IsZero() && !now.Before(e.NextExpiry)
}

// memoKey is the same as long as no spec changes. It adds up, so that the order
// of the list does not matter.
func memoKey(server *v1alpha1.DstackServer, profiles []v1alpha1.IsolationProfile) uint64 {
	key := objectKey(string(server.UID), server.Generation)
	for i := range profiles {
		key += objectKey(string(profiles[i].UID), profiles[i].Generation)
	}
	return key
}

func objectKey(uid string, generation int64) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d", uid, generation)
	return h.Sum64()
}
