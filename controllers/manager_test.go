package controllers_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/policyserver"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// traffic is what one user sends to the API server.
type traffic struct {
	mu     sync.Mutex
	writes []string
	// denied are the requests for which the user has no permission.
	denied []string
}

// watch counts what goes through a configuration.
func (t *traffic) watch(c *rest.Config) {
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(req)
			t.mu.Lock()
			defer t.mu.Unlock()
			line := req.Method + " " + req.URL.Path
			if req.Method != http.MethodGet {
				t.writes = append(t.writes, line)
			}
			if err == nil && res.StatusCode == http.StatusForbidden {
				t.denied = append(t.denied, line)
			}
			return res, err
		})
	})
}

// take returns the writes since the last call.
func (t *traffic) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.writes
	t.writes = nil
	return out
}

func (t *traffic) deniedRequests() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.denied...)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// as is access for a user who has exactly the rights of one of the Roles in
// config/rbac.
func (w *world) as(role string) *rest.Config {
	GinkgoHelper()
	raw, err := os.ReadFile(filepath.Join("..", "config", "rbac", role+".yaml"))
	Expect(err).NotTo(HaveOccurred())
	var r rbacv1.Role
	Expect(yaml.UnmarshalStrict(raw, &r)).To(Succeed())
	r.Namespace = w.ns
	user := w.ns + ":" + r.Name
	binding := &rbacv1.RoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: r.Name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	binding.Name = r.Name
	w.create(&r, binding)
	c := rest.CopyConfig(api.Config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user}
	// As in a pod: the API server's own flow control limits requests.
	c.QPS, c.Burst = -1, 0
	return c
}

// startManager runs a manager as the process does, with the rights of its Role.
func (w *world) startManager() *traffic {
	GinkgoHelper()
	access, seen := w.as("role"), &traffic{}
	seen.watch(access)
	mgr, err := ctrl.NewManager(access, ctrl.Options{
		Scheme: testkit.NewScheme(), Logger: logr.Discard(), Cache: controllers.CacheOptions(w.ns),
		Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		// Each spec has its own manager, and they would share the names in metrics.
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	Expect(err).NotTo(HaveOccurred())
	Expect(controllers.SetupIndexes(context.Background(), mgr.GetFieldIndexer())).To(Succeed())
	now, recorder := clock.RealClock{}, mgr.GetEventRecorder("dstack-isolation")
	c := w.config
	c.Client, c.Live, c.Recorder, c.Clock = mgr.GetClient(), mgr.GetAPIReader(), recorder, now
	c.Resolver = controllers.NewResolver(mgr.GetClient(), now)
	Expect(controllers.NewDstackServerReconciler(c).SetupWithManager(mgr)).To(Succeed())
	Expect(controllers.NewIsolationProfileReconciler(mgr.GetClient(), c.Resolver, recorder, now).SetupWithManager(mgr)).To(Succeed())
	runUntilEnd(mgr.Start)
	return seen
}

// startPolicyServer runs a policy server as its pods do, at the addresses of
// all of them.
func (w *world) startPolicyServer(replicas int) {
	GinkgoHelper()
	token := filepath.Join(GinkgoT().TempDir(), "token")
	Expect(os.WriteFile(token, []byte(w.token()), 0o600)).To(Succeed())
	source, err := policyserver.NewKubernetesSource(w.as("policy_server_role"), types.NamespacedName{Namespace: w.ns, Name: "main"}, logr.Discard())
	Expect(err).NotTo(HaveOccurred())
	decisions, health := listener(), listener()
	server, err := policyserver.New(policyserver.Options{
		Source: source, Listener: decisions, HealthListener: health, TokenFile: token, Version: "v1", Log: logr.Discard(),
	})
	Expect(err).NotTo(HaveOccurred())
	for i := range replicas {
		w.network.at(fmt.Sprintf("10.0.1.%d:8080", i+1), decisions.Addr().String())
	}
	runUntilEnd(server.Run)
	w.policyServersReady(replicas)
}

func listener() net.Listener {
	GinkgoHelper()
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	return l
}

// runUntilEnd runs a process until the spec is over, and waits for its end.
func runUntilEnd(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	DeferCleanup(func() {
		cancel()
		Eventually(ended).WithTimeout(eventually).Should(Receive(BeNil()))
	})
}
