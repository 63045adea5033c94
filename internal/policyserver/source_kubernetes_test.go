package policyserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policy"
)

// apiServer is a real kube-apiserver, started by the first test that needs it.
var apiServer struct {
	sync.Once
	environment *envtest.Environment
	config      *rest.Config
	client      client.Client
	err         error
}

func TestMain(m *testing.M) {
	logf.SetLogger(logr.Discard())
	code := m.Run()
	if apiServer.environment != nil {
		if err := apiServer.environment.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop kube-apiserver:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func startAPIServer() error {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return fmt.Errorf("KUBEBUILDER_ASSETS is not set: it must name a folder with kube-apiserver and etcd; \"make test\" builds them and sets it")
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	environment := &envtest.Environment{CRDDirectoryPaths: []string{"../../config/crd"}, ErrorIfCRDPathMissing: true}
	config, err := environment.Start()
	if err != nil {
		return err
	}
	apiServer.environment, apiServer.config = environment, config
	apiServer.client, err = client.New(config, client.Options{Scheme: scheme})
	return err
}

// namespaced is a client for a new namespace, and the name of a DstackServer in
// it that does not exist yet.
func namespaced(t *testing.T) (client.Client, types.NamespacedName) {
	t.Helper()
	apiServer.Do(func() { apiServer.err = startAPIServer() })
	if apiServer.err != nil {
		t.Fatal(apiServer.err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "dstack-"}}
	if err := apiServer.client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return apiServer.client, types.NamespacedName{Namespace: ns.Name, Name: "main"}
}

func clusterServer(name types.NamespacedName) *v1alpha1.DstackServer {
	return &v1alpha1.DstackServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Spec: v1alpha1.DstackServerSpec{
			Workload:          v1alpha1.WorkloadReference{Kind: v1alpha1.WorkloadDeployment, Name: "dstack-server"},
			UnmatchedProjects: v1alpha1.UnmatchedProjects{Level: v1alpha1.LevelOpen, Enforcement: v1alpha1.EnforcementEnforce},
		},
	}
}

func clusterProfile(name types.NamespacedName, profile string) *v1alpha1.IsolationProfile {
	p := newProfile(profile, v1alpha1.LevelRestricted, "research-*")
	p.Namespace, p.Generation = name.Namespace, 0
	return &p
}

func startKubernetes(t *testing.T, config *rest.Config, name types.NamespacedName, options Options) *running {
	t.Helper()
	log, out := newLog(0)
	source, err := NewKubernetesSource(config, name, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out.String() != "" {
			t.Errorf("the source logged errors: %s", out)
		}
	})
	options.Source = source
	return startServer(t, nil, options)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// soon waits for a change to be served. It takes tens of milliseconds on an
// idle machine; the limit leaves room for a busy one.
func soon(t testing.TB, condition func() bool) {
	t.Helper()
	start := time.Now()
	eventually(t, condition)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	} else {
		t.Logf("served after %s", took.Round(time.Millisecond))
	}
}

func (r *running) refuses(t testing.TB, body string) bool {
	t.Helper()
	return decoded(t, r.post(runPath, body)).Error != nil
}

func TestKubernetesSource(t *testing.T) {
	c, name := namespaced(t)
	ctx := t.Context()
	r := startKubernetes(t, apiServer.config, name, Options{TokenFile: writeToken(t, "s3cret")})
	privileged := string(capturedCase(t, "0.22.5/task-privileged").Request)

	// Without a DstackServer: ready, and everything is refused.
	eventually(t, func() bool { return r.current.Load() != nil })
	a := decoded(t, r.post(runPath, plainTask(t)))
	if a.Error == nil || !strings.Contains(*a.Error, "DstackServer "+name.String()+" does not exist") {
		t.Errorf("got error %v", a.Error)
	}

	// It comes: its policy is served, and Python delivery needs the token.
	server := clusterServer(name)
	must(t, c.Create(ctx, server))
	soon(t, func() bool { return r.current.Load().Effective != nil })
	if now := r.current.Load(); !now.TokenRequired || now.Running != (policy.Running{}) || now.ServerGeneration != 1 {
		t.Errorf("got %+v", now)
	}
	if w := r.post(runPath, privileged); w.Code != 401 {
		t.Errorf("without token: got %d", w.Code)
	}

	// A pod that still uses the built-in rest_plugin sends no token.
	server.Status.Running = &v1alpha1.RunningSettings{
		Pods: 2, PolicyPods: 2, NetworkMode: v1alpha1.NetworkModeHostForDistributed,
		Deliveries: []v1alpha1.Delivery{v1alpha1.DeliveryPython, v1alpha1.DeliveryREST},
	}
	must(t, c.Status().Update(ctx, server))
	soon(t, func() bool { return !r.current.Load().TokenRequired })
	if got := r.current.Load().Running.NetworkMode; got != v1alpha1.NetworkModeHostForDistributed {
		t.Errorf("got running mode %d", got)
	}
	if r.refuses(t, privileged) {
		t.Error("refused although unmatched projects are open")
	}

	// Profiles come and go.
	profile := clusterProfile(name, "research")
	must(t, c.Create(ctx, profile))
	soon(t, func() bool { return r.refuses(t, privileged) })
	profile.Spec.Level = v1alpha1.LevelOpen
	must(t, c.Update(ctx, profile))
	soon(t, func() bool { return !r.refuses(t, privileged) })
	if got := r.get(r.decisionHandler(), dstack.PathRevision+"?profiles", "Authorization", "Bearer s3cret").Body.String(); !strings.Contains(got, `"generations":{"server":1,"profiles":{"research":2}}`) {
		t.Errorf("got %s", got)
	}
	must(t, c.Delete(ctx, profile))
	soon(t, func() bool { return len(r.current.Load().Effective.Profiles) == 0 })

	server.Spec.UnmatchedProjects.Level = v1alpha1.LevelRestricted
	must(t, c.Update(ctx, server))
	soon(t, func() bool { return r.refuses(t, privileged) })
}

// Profiles of other servers and namespaces have no say, and writes of statuses
// do not resolve again.
func TestKubernetesSourceLooksAtItsOwn(t *testing.T) {
	c, name := namespaced(t)
	_, elsewhere := namespaced(t)
	ctx := t.Context()
	must(t, c.Create(ctx, clusterServer(name)))
	must(t, c.Create(ctx, clusterServer(types.NamespacedName{Namespace: name.Namespace, Name: "other"})))
	must(t, c.Create(ctx, clusterProfile(elsewhere, "elsewhere")))
	other := clusterProfile(name, "of-other")
	other.Spec.ServerRef.Name = "other"
	must(t, c.Create(ctx, other))
	own := clusterProfile(name, "own")
	must(t, c.Create(ctx, own))
	r := startKubernetes(t, apiServer.config, name, Options{})
	eventually(t, func() bool { return r.current.Load() != nil && r.current.Load().Effective != nil })
	if profiles := r.current.Load().Effective.Profiles; len(profiles) != 1 || profiles[0].Name != "own" {
		t.Errorf("got %d profiles", len(profiles))
	}
	before := r.current.Load()
	for generation := range int64(3) {
		own.Status.ObservedGeneration = generation + 1
		must(t, c.Status().Update(ctx, own))
	}
	time.Sleep(10 * settle)
	if r.current.Load() != before {
		t.Error("a status was worth a resolve")
	}
}

// While the DstackServer is released and gone, the last policy is decided by;
// when it comes back, its own.
func TestKubernetesSourceOutlivesItsServer(t *testing.T) {
	c, name := namespaced(t)
	ctx := t.Context()
	server, profile := clusterServer(name), clusterProfile(name, "research")
	server.Finalizers = []string{v1alpha1.Finalizer}
	must(t, c.Create(ctx, server))
	must(t, c.Create(ctx, profile))
	r := startKubernetes(t, apiServer.config, name, Options{})
	privileged := string(capturedCase(t, "0.22.5/task-privileged").Request)
	eventually(t, func() bool { return r.current.Load() != nil && r.current.Load().Effective != nil })
	revision := r.current.Load().revision()
	expect := func(stale Stale) {
		t.Helper()
		soon(t, func() bool { return r.current.Load().Stale == stale })
		if !r.refuses(t, privileged) || r.current.Load().revision() != revision {
			t.Errorf("the policy changed while kept for %q", stale)
		}
	}
	expect("")
	must(t, c.Delete(ctx, server))
	expect(StaleServerDeleted)
	must(t, c.Delete(ctx, profile))
	time.Sleep(10 * settle)
	expect(StaleServerDeleted)
	// What the pods run with is still followed.
	must(t, c.Get(ctx, name, server))
	server.Status.Running = &v1alpha1.RunningSettings{Pods: 1, NetworkMode: v1alpha1.NetworkModeBridge}
	must(t, c.Status().Update(ctx, server))
	soon(t, func() bool { return r.current.Load().Running.NetworkMode == v1alpha1.NetworkModeBridge })
	server.Finalizers = nil
	must(t, c.Update(ctx, server))
	expect(StaleServerGone)

	must(t, c.Create(ctx, clusterServer(name)))
	soon(t, func() bool { return !r.refuses(t, privileged) && r.current.Load().Stale == "" })
}

// The manager's ServiceAccount is not ours: two lists and two watches in one
// namespace must be enough.
func TestKubernetesSourceNeedsNoMorePermissions(t *testing.T) {
	c, name := namespaced(t)
	ctx := t.Context()
	must(t, c.Create(ctx, clusterServer(name)))
	user, err := apiServer.environment.AddUser(envtest.User{Name: "policy-server"}, nil)
	must(t, err)
	r := startKubernetes(t, user.Config(), name, Options{})
	time.Sleep(500 * time.Millisecond)
	if w := r.get(r.decisionHandler(), dstack.PathReady); w.Code != 503 {
		t.Errorf("without permission: got %d", w.Code)
	}
	must(t, grant(ctx, c, name))
	eventually(t, func() bool { return r.get(r.decisionHandler(), dstack.PathReady).Code == 200 })
}

func grant(ctx context.Context, c client.Client, name types.NamespacedName) error {
	role := client.ApplyConfigurationFromUnstructured(unstructuredRole(name))
	binding := client.ApplyConfigurationFromUnstructured(unstructuredBinding(name))
	for _, object := range []runtime.ApplyConfiguration{role, binding} {
		if err := c.Apply(ctx, object, client.FieldOwner("test")); err != nil {
			return err
		}
	}
	return nil
}

func unstructuredRole(name types.NamespacedName) *unstructured.Unstructured {
	verbs := []any{"get", "list", "watch"}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
		"metadata": map[string]any{"namespace": name.Namespace, "name": "policy-server"},
		"rules": []any{
			map[string]any{"apiGroups": []any{v1alpha1.Group}, "resources": []any{"dstackservers"}, "resourceNames": []any{name.Name}, "verbs": verbs},
			map[string]any{"apiGroups": []any{v1alpha1.Group}, "resources": []any{"isolationprofiles"}, "verbs": verbs},
		},
	}}
}

func unstructuredBinding(name types.NamespacedName) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
		"metadata": map[string]any{"namespace": name.Namespace, "name": "policy-server"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "policy-server"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "policy-server"}},
	}}
}

// While the API server is away the last policy stays, and readiness too.
func TestKubernetesSourceOutlivesTheAPIServer(t *testing.T) {
	c, name := namespaced(t)
	ctx := t.Context()
	must(t, c.Create(ctx, clusterServer(name)))
	must(t, c.Create(ctx, clusterProfile(name, "research")))
	link := newLink(t, apiServer.config.Host)
	defer link.cut() // before the server ends, which checks for leaks
	config := rest.CopyConfig(apiServer.config)
	config.Host = link.address
	r := startKubernetes(t, config, name, Options{})
	privileged := string(capturedCase(t, "0.22.5/task-privileged").Request)
	eventually(t, func() bool { return r.current.Load() != nil && r.current.Load().Effective != nil })
	link.cut()
	time.Sleep(500 * time.Millisecond)
	if !r.refuses(t, privileged) || r.refuses(t, plainTask(t)) {
		t.Error("the policy went with the API server")
	}
	if w := r.get(r.decisionHandler(), dstack.PathReady); w.Code != 200 {
		t.Errorf("/readyz: got %d", w.Code)
	}
	profile := clusterProfile(name, "research")
	must(t, c.Delete(ctx, profile))
	link.mend(t)
	eventually(t, func() bool { return !r.refuses(t, privileged) })
}

// link forwards TCP connections until it is cut.
type link struct {
	address, target string
	mu              sync.Mutex
	listener        net.Listener
	conns           []net.Conn
	running         sync.WaitGroup
}

func newLink(t *testing.T, target string) *link {
	l := &link{target: strings.Trim(strings.TrimPrefix(target, "https:"), "/"), address: "127.0.0.1:0"}
	l.mend(t)
	return l
}

func (l *link) mend(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", l.address)
	must(t, err)
	l.mu.Lock()
	l.listener, l.address = listener, listener.Addr().String()
	l.mu.Unlock()
	l.running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", l.target)
			if err != nil {
				near.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, near, far)
			l.mu.Unlock()
			l.running.Go(func() { _, _ = io.Copy(near, far); near.Close() })
			l.running.Go(func() { _, _ = io.Copy(far, near); far.Close() })
		}
	})
}

func (l *link) cut() {
	l.mu.Lock()
	l.listener.Close()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
	l.mu.Unlock()
	l.running.Wait()
}
