package policyserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// busy is far more snapshots than any of these sources has a reason to publish:
// one that publishes so many loops.
const busy = 50

// counting counts the snapshots of a source, and ends it when it loops.
type counting struct {
	recorder
	end context.CancelFunc
}

func (c *counting) publish(s *Snapshot) {
	c.recorder.publish(s)
	if _, n := c.last(); n == busy {
		c.end()
	}
}

// expect fails the test unless the source has published so many by now.
func (c *counting) expect(t *testing.T, n int, stale Stale) {
	t.Helper()
	synctest.Wait()
	if last, got := c.last(); got != n || last.Stale != stale {
		t.Fatalf("got %d snapshots, the last one kept for %q; want %d and %q", got, last.Stale, n, stale)
	}
}

func withException(ends time.Time) string {
	return profileYAML + "  exceptions: [{name: x, users: [ada], controls: [hostNetwork], reason: r, expiresAt: \"" +
		ends.UTC().Format(time.RFC3339) + "\"}]\n"
}

// A policy that is kept may have exceptions that ended since: their end is no
// reason to read the folder again and again.
func TestFileSourceRestsWhenAnExceptionOfAKeptPolicyHasEnded(t *testing.T) {
	dir := newFolder(t, "server.yaml", fmt.Sprintf(serverYAML, "main"))
	source, out := dir.source(t, "")
	synctest.Test(t, func(t *testing.T) {
		profile := withException(time.Now().Add(time.Hour))
		dir.write(t, "profile.yaml", profile)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		published := &counting{end: cancel}
		go func() { _ = source.Run(ctx, published.publish) }()
		time.Sleep(time.Minute)
		published.expect(t, 1, "")
		dir.write(t, "wrong.yaml", "kind: [")
		time.Sleep(time.Minute)
		published.expect(t, 2, StaleFolderInvalid)
		time.Sleep(2 * time.Hour)
		published.expect(t, 3, StaleFolderInvalid)
		// It still follows changes, and the next end.
		dir.write(t, "wrong.yaml", "# emptied")
		time.Sleep(time.Minute)
		published.expect(t, 4, "")
		dir.write(t, "profile.yaml", withException(time.Now().Add(time.Hour)))
		time.Sleep(2 * time.Hour)
		published.expect(t, 6, "")
	})
	if got := strings.Count(out.String(), "Kept the last valid policy"); got != 2 {
		t.Errorf("logged %d times:\n%s", got, out)
	}
}

// objectsInMemory is a cache with one DstackServer and its profiles.
type objectsInMemory struct {
	cache.Cache
	sync.Mutex
	server   *v1alpha1.DstackServer
	profiles []v1alpha1.IsolationProfile
	listErr  error
	lists    int
	// loops ends a source that lists again and again.
	loops context.CancelFunc
}

func (o *objectsInMemory) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	o.Lock()
	defer o.Unlock()
	if o.server == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "dstackservers"}, key.Name)
	}
	o.server.DeepCopyInto(into.(*v1alpha1.DstackServer))
	return nil
}

func (o *objectsInMemory) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	o.Lock()
	defer o.Unlock()
	if o.lists++; o.lists == busy {
		o.loops()
	}
	into.(*v1alpha1.IsolationProfileList).Items = o.profiles
	return o.listErr
}

// change changes what is in memory while the source may read it.
func (o *objectsInMemory) change(how func(*objectsInMemory)) {
	o.Lock()
	defer o.Unlock()
	how(o)
}

func TestKubernetesSourceRestsWhenAnExceptionOfAKeptPolicyHasEnded(t *testing.T) {
	for stale, change := range map[Stale]func(*objectsInMemory){
		StaleServerDeleted: func(o *objectsInMemory) { o.server.DeletionTimestamp = &metav1.Time{Time: time.Now()} },
		StaleServerGone:    func(o *objectsInMemory) { o.server = nil },
	} {
		t.Run(string(stale), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, o, published, stop := followed(t)
				defer stop()
				published.expect(t, 1, "")
				o.change(change)
				k.changed <- struct{}{}
				time.Sleep(time.Minute)
				published.expect(t, 2, stale)
				time.Sleep(2 * time.Hour)
				published.expect(t, 3, stale)
			})
		})
	}
}

// followed is a source that follows objects in memory, of which a profile has an
// exception that ends in an hour.
func followed(t *testing.T) (*KubernetesSource, *objectsInMemory, *counting, func()) {
	t.Helper()
	profile := newProfile("research", v1alpha1.LevelRestricted, "research-*")
	profile.UID = "profile"
	profile.Spec.Exceptions = []v1alpha1.Exception{{
		Name: "x", Users: []string{"ada"}, Controls: []v1alpha1.ControlName{"hostNetwork"},
		ExpiresAt: &metav1.Time{Time: time.Now().Add(time.Hour)},
	}}
	o := &objectsInMemory{
		server: &v1alpha1.DstackServer{ObjectMeta: metav1.ObjectMeta{
			Namespace: serverName.Namespace, Name: serverName.Name, UID: "server", Generation: 7,
		}},
		profiles: []v1alpha1.IsolationProfile{profile},
	}
	log, _ := newLog(0)
	k := &KubernetesSource{server: serverName, cache: o, changed: make(chan struct{}, 1), log: log}
	ctx, cancel := context.WithCancel(t.Context())
	o.loops = cancel
	published := &counting{end: cancel}
	ended := make(chan struct{})
	go func() { k.follow(ctx, published.publish); close(ended) }()
	return k, o, published, func() { cancel(); <-ended }
}

// Objects that cannot be listed when an exception ends are listed again, after a
// pause each time.
func TestKubernetesSourceListsAgainAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, o, published, stop := followed(t)
		defer stop()
		published.expect(t, 1, "")
		o.change(func(o *objectsInMemory) { o.listErr = errors.New("no list") })
		time.Sleep(time.Hour + 10*time.Second + time.Millisecond)
		synctest.Wait()
		published.expect(t, 1, "")
		if o.lists < 3 || o.lists > 13 {
			t.Errorf("listed %d times in 10 s", o.lists-1)
		}
		o.change(func(o *objectsInMemory) { o.listErr = nil })
		time.Sleep(time.Hour)
		published.expect(t, 2, "")
	})
}

func TestUntilChange(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration, stale Stale) *Snapshot {
		return &Snapshot{Server: types.NamespacedName{}, Effective: &isolation.Effective{NextExpiry: now.Add(d)}, Stale: stale}
	}
	for name, tc := range map[string]struct {
		snapshot *Snapshot
		want     time.Duration
	}{
		"nothing known":              {nil, never},
		"no policy":                  {&Snapshot{}, never},
		"no exception":               {&Snapshot{Effective: &isolation.Effective{}}, never},
		"one that ends":              {at(time.Hour, ""), time.Hour},
		"one that has just ended":    {at(-time.Millisecond, ""), 0},
		"one that ends, kept":        {at(time.Hour, StaleServerGone), time.Hour},
		"one that has ended, kept":   {at(0, StaleServerGone), never},
		"one that ended early, kept": {at(-time.Hour, StaleFolderInvalid), never},
	} {
		if got := untilChange(tc.snapshot, now); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}
