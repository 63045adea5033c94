package helm_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/kube"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dstack-isolation/operator/test/sharing"
)

// helm3 merges three ways in the client.
type helm3 struct {
	config    *action.Configuration
	namespace string
}

func newHelm3(w *sharing.Workload) helm {
	GinkgoHelper()
	kube.ManagedFieldsManager = manager
	settings := cli.New()
	settings.KubeConfig = kubeconfig
	settings.SetNamespace(w.Namespace)
	config := &action.Configuration{}
	Expect(config.Init(settings.RESTClientGetter(), w.Namespace, "secret", GinkgoWriter.Printf)).To(Succeed())
	return helm3{config, w.Namespace}
}

func (h helm3) chart(manifest *unstructured.Unstructured) *chart.Chart {
	return &chart.Chart{
		Metadata:  &chart.Metadata{APIVersion: chart.APIVersionV2, Name: "dstack-server", Version: "0.1.0"},
		Templates: []*chart.File{{Name: template, Data: []byte(sharing.YAML(manifest))}},
	}
}

func (h helm3) install(manifest *unstructured.Unstructured) error {
	install := action.NewInstall(h.config)
	install.ReleaseName, install.Namespace = release, h.namespace
	_, err := install.Run(h.chart(manifest), nil)
	return err
}

func (h helm3) upgrade(manifest *unstructured.Unstructured) error {
	return h.upgradeWith(manifest, false)
}

func (h helm3) replace(manifest *unstructured.Unstructured) error {
	return h.upgradeWith(manifest, true)
}

func (h helm3) upgradeWith(manifest *unstructured.Unstructured, force bool) error {
	upgrade := action.NewUpgrade(h.config)
	upgrade.Namespace, upgrade.Force = h.namespace, force
	_, err := upgrade.Run(release, h.chart(manifest), nil)
	return err
}

func (h helm3) rollback(revision int) error {
	rollback := action.NewRollback(h.config)
	rollback.Version = revision
	return rollback.Run(release)
}

func (h helm3) installOperator(values map[string]any) []*unstructured.Unstructured {
	GinkgoHelper()
	install := action.NewInstall(h.config)
	install.ReleaseName, install.Namespace = operator, h.namespace
	r, err := install.Run(h.operatorsChart(), values)
	Expect(err).NotTo(HaveOccurred())
	return objectsOf(r.Manifest, h.namespace)
}

func (h helm3) upgradeOperator(values map[string]any) []*unstructured.Unstructured {
	GinkgoHelper()
	upgrade := action.NewUpgrade(h.config)
	upgrade.Namespace, upgrade.ReuseValues = h.namespace, true
	r, err := upgrade.Run(operator, h.operatorsChart(), values)
	Expect(err).NotTo(HaveOccurred())
	return objectsOf(r.Manifest, h.namespace)
}

func (h helm3) uninstallOperator() {
	GinkgoHelper()
	uninstall := action.NewUninstall(h.config)
	uninstall.DisableHooks = true
	_, err := uninstall.Run(operator)
	Expect(err).NotTo(HaveOccurred())
}

func (h helm3) uninstallWithHooks() error {
	uninstall := action.NewUninstall(h.config)
	uninstall.Timeout = hookTimeout
	_, err := uninstall.Run(operator)
	return err
}

func (h helm3) rollbackOperator(revision int) {
	GinkgoHelper()
	rollback := action.NewRollback(h.config)
	rollback.Version = revision
	Expect(rollback.Run(operator)).To(Succeed())
}

func (h helm3) renderOperator(values map[string]any) []*unstructured.Unstructured {
	GinkgoHelper()
	install := action.NewInstall(&action.Configuration{})
	install.ReleaseName, install.Namespace = operator, h.namespace
	install.DryRun, install.ClientOnly = true, true
	version, err := chartutil.ParseKubeVersion(renderedFor)
	Expect(err).NotTo(HaveOccurred())
	install.KubeVersion = version
	r, err := install.Run(h.operatorsChart(), values)
	Expect(err).NotTo(HaveOccurred())
	objects := objectsOf(r.Manifest, h.namespace)
	for _, hook := range r.Hooks {
		objects = append(objects, objectsOf(hook.Manifest, h.namespace)...)
	}
	return objects
}

func (h helm3) operatorsChart() *chart.Chart {
	GinkgoHelper()
	c, err := loader.Load(operatorsDir)
	Expect(err).NotTo(HaveOccurred())
	return c
}
