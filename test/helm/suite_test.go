// Package helm_test lets the user's own chart and the operator share one
// workload, with the real Helm 3 and Helm 4, and installs the operator's own chart
// with both. A module of its own, so that the operator does not depend on either.
package helm_test

import (
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/test/sharing"
)

var (
	api        *testkit.APIServer
	kubeconfig string
)

func TestHelm(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "charts, by Helm 3 and Helm 4")
}

var _ = BeforeSuite(func() {
	api = testkit.StartAPIServer(GinkgoTB())
	kubeconfig = sharing.Kubeconfig(api.Config)
})

const (
	release = "dstack-server"
	// renderedFor is the release of Kubernetes that a chart is rendered for without one.
	renderedFor = "v1.37.0"
	// hookTimeout is how long Helm waits for a hook.
	hookTimeout = 2 * time.Minute
	// manager is the field manager, which Helm would else call like its binary.
	manager = "helm"
)

// helm is one way of Helm's to write. Each revision of the chart has one
// template, the workload.
type helm interface {
	install(manifest *unstructured.Unstructured) error
	upgrade(manifest *unstructured.Unstructured) error
	// replace is an upgrade with --force-replace, which Helm 3 calls --force.
	replace(manifest *unstructured.Unstructured) error
	rollback(revision int) error

	// These are about the operator's own chart, and return the release's objects.
	installOperator(values map[string]any) []*unstructured.Unstructured
	upgradeOperator(values map[string]any) []*unstructured.Unstructured
	uninstallOperator()
	rollbackOperator(revision int)
	// uninstallWithHooks returns once the hooks have run.
	uninstallWithHooks() error
	// renderOperator is what helm template prints, hooks among it.
	renderOperator(values map[string]any) []*unstructured.Unstructured
}

// template is what a chart has of a manifest.
const template = "templates/dstack-server.yaml"
