//go:build e2e

// Package e2e tests the operator as its users meet it: on a real cluster, with a
// stock dstack server, the real helm and the real kubectl. hack/e2e runs it.
//
// The specs with label demo work in the namespace that hack/demo has set up,
// those with labels variants and settings in namespaces of their own, so that
// three processes can run them side by side. Each spec brings its site into the
// state that it needs, so that one that fails does not take others with it.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/dstack-isolation/operator/internal/app"
)

var (
	// root of the repository.
	root string
	// cluster is not cached, so what it reads is what is.
	cluster client.Client
	// kinds of the cluster's objects.
	kinds discovery.DiscoveryInterface
)

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	suite, reporter := GinkgoConfiguration()
	reporter.Verbose = true
	reporter.ShowNodeEvents = false
	RunSpecs(t, "end to end", suite, reporter)
}

var _ = BeforeSuite(func() {
	log.SetLogger(GinkgoLogr)
	var err error
	root, err = filepath.Abs("../..")
	Expect(err).NotTo(HaveOccurred())
	for _, program := range []string{"kubectl", "helm"} {
		_, err = exec.LookPath(program)
		Expect(err).NotTo(HaveOccurred(), "run these tests by hack/e2e, which builds what they need")
	}
	Expect(os.Getenv("KUBECONFIG")).NotTo(BeEmpty(), "KUBECONFIG must name the cluster of hack/cluster/up: run these tests by hack/e2e")
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	Expect(err).NotTo(HaveOccurred())
	config.QPS, config.Burst = 50, 100
	scheme, err := app.NewScheme()
	Expect(err).NotTo(HaveOccurred())
	cluster, err = client.New(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	kinds, err = discovery.NewDiscoveryClientForConfig(config)
	Expect(err).NotTo(HaveOccurred())
})
