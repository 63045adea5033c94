package testkit

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// assets is the variable that names the directory with kube-apiserver and etcd.
const assets = "KUBEBUILDER_ASSETS"

// APIServer is a real kube-apiserver with its etcd, and with the operator's
// CustomResourceDefinitions. No controller runs: no Deployment has pods, and no
// namespace that is deleted ever goes.
type APIServer struct {
	// Config reaches it as an administrator.
	Config *rest.Config
	// Client talks to it without a cache.
	Client client.WithWatch
}

// StartAPIServer starts an API server and stops it when the test, or in a
// ginkgo suite's BeforeSuite the suite, is over. Without the programs it fails
// rather than skips, since a skipped test proves nothing. In ginkgo, t is
// GinkgoTB().
func StartAPIServer(t testing.TB) *APIServer {
	t.Helper()
	if os.Getenv(assets) == "" {
		t.Fatalf("%s is not set: run the tests with `make test`, or set it to the directory with kube-apiserver and etcd, which `hack/cluster/binaries envtest` builds and prints", assets)
	}
	root, err := repositoryRoot()
	if err != nil {
		t.Fatalf("find the repository: %v", err)
	}
	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join(root, "config", "crd")},
		ErrorIfCRDPathMissing: true,
	}
	config, err := env.Start()
	// A server that started by half must be stopped too.
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop the API server: %v", err)
		}
	})
	if err != nil {
		t.Fatalf("start the API server: %v", err)
	}
	// Tests ask more often than a client may by default.
	config.QPS, config.Burst = 1000, 2000
	c, err := client.NewWithWatch(config, client.Options{Scheme: NewScheme()})
	if err != nil {
		t.Fatalf("make a client: %v", err)
	}
	return &APIServer{Config: config, Client: c}
}

// Namespace creates a namespace of a new name, so that tests on one API server
// do not see one another.
func (a *APIServer) Namespace(t testing.TB) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "dstack-"}}
	if err := a.Client.Create(context.Background(), ns); err != nil {
		t.Fatalf("create a namespace: %v", err)
	}
	return ns.Name
}

// NewScheme knows Kubernetes' own kinds and the operator's.
func NewScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			panic("kinds always register: " + err.Error())
		}
	}
	return s
}

// repositoryRoot is the first directory above the test's own that holds PROJECT:
// go.mod stands above the tests of other modules too.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "PROJECT")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", os.ErrNotExist
		}
		dir = parent
	}
}
