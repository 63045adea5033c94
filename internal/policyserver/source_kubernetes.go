package policyserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// settle is how long further changes are waited for after the first one, so
// that a folder applied at once is resolved once.
const settle = 20 * time.Millisecond

// retryAfter is how soon objects are listed again that could not be.
const retryAfter = time.Second

// KubernetesSource is the policy in the API server: it watches one DstackServer
// and the profiles of its namespace. While the API server is away, the last
// known policy stays.
type KubernetesSource struct {
	server  types.NamespacedName
	cache   cache.Cache
	changed chan struct{}
	log     logr.Logger
}

// NewKubernetesSource prepares the watches. It asks the API server nothing yet:
// an API server that is away, or has the kinds not yet, is waited for.
func NewKubernetesSource(config *rest.Config, server types.NamespacedName, log logr.Logger) (*KubernetesSource, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register kinds: %w", err)
	}
	// Known kinds need no discovery, for which there may be no permission.
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1alpha1.GroupVersion})
	for _, kind := range []string{"DstackServer", "IsolationProfile", "IsolationProfileList"} {
		mapper.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	noCopy := true
	watched, err := cache.New(config, cache.Options{
		Scheme: scheme, Mapper: mapper,
		DefaultNamespaces:           map[string]cache.Config{server.Namespace: {}},
		ReaderFailOnMissingInformer: true,
		// Resolve only reads.
		DefaultUnsafeDisableDeepCopy: &noCopy,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.DstackServer{}:     {Field: fields.OneTermEqualSelector("metadata.name", server.Name), Transform: strip},
			&v1alpha1.IsolationProfile{}: {Transform: strip},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("prepare watches: %w", err)
	}
	return &KubernetesSource{server: server, cache: watched, changed: make(chan struct{}, 1), log: log}, nil
}

// strip keeps what decisions need: thousands of profiles stay in memory.
func strip(in any) (any, error) {
	switch obj := in.(type) {
	case *v1alpha1.IsolationProfile:
		obj.ManagedFields, obj.Annotations, obj.Labels = nil, nil, nil
		obj.Status = v1alpha1.IsolationProfileStatus{}
	case *v1alpha1.DstackServer:
		obj.ManagedFields, obj.Annotations, obj.Labels = nil, nil, nil
		obj.Status = v1alpha1.DstackServerStatus{Running: obj.Status.Running}
	}
	return in, nil
}

// Run publishes once both kinds are known.
func (k *KubernetesSource) Run(ctx context.Context, publish func(*Snapshot)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := k.cache.Start(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		told, err := k.subscribe(ctx)
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if !k.cache.WaitForCacheSync(ctx) || !toolscache.WaitForCacheSync(ctx.Done(), told...) {
			return nil // ctx ended
		}
		// What is there at first is resolved once.
		select {
		case <-k.changed:
		default:
		}
		k.follow(ctx, publish)
		return nil
	})
	return group.Wait()
}

// subscribe wakes follow at each change that decisions depend on. What it
// returns tells whether the handlers have been told of all that is there.
func (k *KubernetesSource) subscribe(ctx context.Context) ([]toolscache.InformerSynced, error) {
	wake := func() {
		select {
		case k.changed <- struct{}{}:
		default: // already awake
		}
	}
	var told []toolscache.InformerSynced
	for _, kind := range []client.Object{&v1alpha1.DstackServer{}, &v1alpha1.IsolationProfile{}} {
		informer, err := k.cache.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, err
		}
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { wake() },
			DeleteFunc: func(any) { wake() },
			UpdateFunc: func(before, now any) {
				if matters(before, now) {
					wake()
				}
			},
		})
		if err != nil {
			return nil, err
		}
		told = append(told, registration.HasSynced)
	}
	return told, nil
}

// matters leaves out the manager's writes of statuses, of which one change can
// bring thousands.
func matters(before, now any) bool {
	a, b := before.(client.Object), now.(client.Object)
	if a.GetGeneration() != b.GetGeneration() || a.GetUID() != b.GetUID() ||
		(a.GetDeletionTimestamp() == nil) != (b.GetDeletionTimestamp() == nil) {
		return true
	}
	server, isServer := now.(*v1alpha1.DstackServer)
	if !isServer {
		return false
	}
	old := before.(*v1alpha1.DstackServer)
	return runningOf(old) != runningOf(server) || tokenRequired(old) != tokenRequired(server)
}

func (k *KubernetesSource) follow(ctx context.Context, publish func(*Snapshot)) {
	var last *Snapshot
	for {
		var expiry *time.Timer
		if now, err := k.resolve(ctx, last); err != nil {
			// The cache is in memory and synced: only its end can be the cause.
			k.log.Error(err, "Kept the last policy, because the objects cannot be listed")
			expiry = time.NewTimer(retryAfter)
		} else {
			last = now
			publish(last)
			expiry = nextChange(last)
		}
		select {
		case <-ctx.Done():
			expiry.Stop()
			return
		case <-expiry.C:
			continue
		case <-k.changed:
			expiry.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
		select {
		case <-k.changed:
		default:
		}
	}
}

// resolve makes a snapshot of the objects as they are now. When the DstackServer
// goes, the last policy stays.
func (k *KubernetesSource) resolve(ctx context.Context, last *Snapshot) (*Snapshot, error) {
	var server v1alpha1.DstackServer
	err := k.cache.Get(ctx, k.server, &server)
	switch {
	case apierrors.IsNotFound(err) && last != nil && last.Effective != nil:
		return last.kept(StaleServerGone), nil
	case apierrors.IsNotFound(err):
		return &Snapshot{Server: k.server}, nil
	case err != nil:
		return nil, err
	}
	now := &Snapshot{Server: k.server, ServerGeneration: server.Generation, Running: runningOf(&server), TokenRequired: tokenRequired(&server)}
	if server.DeletionTimestamp != nil && last != nil && last.Effective != nil {
		now.Effective, now.Stale = last.Effective, StaleServerDeleted
		return now, nil
	}
	var profiles v1alpha1.IsolationProfileList
	// The objects are only read, so the cache's own may be looked at.
	if err := k.cache.List(ctx, &profiles, client.InNamespace(k.server.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	start := time.Now()
	in := isolation.Input{Server: &server, Profiles: profiles.Items, Now: start}
	if last != nil {
		in.Previous = last.Effective
	}
	now.Effective = isolation.Resolve(in)
	now.ResolveDuration = time.Since(start)
	return now, nil
}

// runningOf is what the server's pods run with; unknown without a status.
func runningOf(server *v1alpha1.DstackServer) policy.Running {
	if server.Status.Running == nil {
		return policy.Running{}
	}
	return policy.Running{NetworkMode: server.Status.Running.NetworkMode}
}

// tokenRequired tells whether every request of the dstack server carries a
// token: the built-in rest_plugin can send none, so that while a pod still uses
// it, requests without token must be answered.
func tokenRequired(server *v1alpha1.DstackServer) bool {
	if server.Spec.PolicyPlugin.Delivery == v1alpha1.DeliveryREST {
		return false
	}
	running := server.Status.Running
	return running == nil || !slices.Contains(running.Deliveries, v1alpha1.DeliveryREST)
}
