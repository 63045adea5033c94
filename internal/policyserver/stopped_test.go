package policyserver

import (
	"net/http"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// An API server that ends, and another on the same data: requests are answered
// all the time, and the probes of the policy server give nobody a reason to
// restart it.
func TestKubernetesSourceOutlivesAStoppedAPIServer(t *testing.T) {
	environment := &envtest.Environment{
		CRDDirectoryPaths: []string{"../../config/crd"}, ErrorIfCRDPathMissing: true,
		ControlPlaneStopTimeout: 2 * time.Second,
	}
	server := environment.ControlPlane.GetAPIServer()
	server.CertDir = t.TempDir() // It comes back with the same certificate.
	config, err := environment.Start()
	// It waits for its watches to end, and is killed because they do not.
	ends := func(stop func() error) {
		if err := stop(); err != nil {
			t.Log(err)
		}
	}
	t.Cleanup(func() { ends(environment.Stop) })
	must(t, err)
	scheme := runtime.NewScheme()
	must(t, v1alpha1.AddToScheme(scheme))
	must(t, corev1.AddToScheme(scheme))
	c, err := client.New(config, client.Options{Scheme: scheme})
	must(t, err)
	ctx, name := t.Context(), types.NamespacedName{Namespace: "dstack", Name: "main"}
	profile := clusterProfile(name, "research")
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name.Namespace}}, clusterServer(name), profile,
	} {
		must(t, c.Create(ctx, o))
	}
	r := startKubernetes(t, config, name, Options{})
	privileged, plain := string(capturedCase(t, "0.22.5/task-privileged").Request), plainTask(t)
	eventually(t, func() bool { return r.current.Load() != nil && r.current.Load().Effective != nil })
	before := r.current.Load()
	decides := func(when string) {
		t.Helper()
		if !r.refuses(t, privileged) || r.refuses(t, plain) {
			t.Errorf("%s: the policy is another one", when)
		}
		for _, probe := range []string{dstack.PathReady, "/healthz"} {
			if w := r.get(r.healthHandler(), probe); w.Code != http.StatusOK {
				t.Errorf("%s: %s answers %d", when, probe, w.Code)
			}
		}
	}

	decides("before")
	ends(server.Stop)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		decides("without an API server")
	}
	if r.current.Load() != before {
		t.Error("something was resolved without an API server")
	}

	must(t, server.Start())
	decides("with the next one")
	profile.Spec.Level = v1alpha1.LevelOpen
	must(t, c.Update(ctx, profile))
	// A watch is tried again after half a minute at most.
	gomega.NewWithT(t).Eventually(func() bool { return r.refuses(t, privileged) }, time.Minute).Should(gomega.BeFalse())
}
