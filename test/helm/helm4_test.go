package helm_test

import (
	"log/slog"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	helmrelease "helm.sh/helm/v4/pkg/release"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dstack-isolation/operator/test/sharing"
)

// helm4 lets the API server merge, unless clientSide is set. Upgrades and
// rollbacks go on as the release was installed, as by default.
type helm4 struct {
	config     *action.Configuration
	namespace  string
	clientSide bool
	// force is --force-conflicts, with which Flux runs.
	force bool
}

func newHelm4(w *sharing.Workload, clientSide, force bool) helm {
	GinkgoHelper()
	kube.ManagedFieldsManager = manager
	settings := cli.New()
	settings.KubeConfig = kubeconfig
	settings.SetNamespace(w.Namespace)
	config := action.NewConfiguration(action.ConfigurationSetLogger(slog.NewTextHandler(GinkgoWriter, nil)))
	Expect(config.Init(settings.RESTClientGetter(), w.Namespace, "secret")).To(Succeed())
	return helm4{config, w.Namespace, clientSide, force}
}

func (h helm4) chart(manifest *unstructured.Unstructured) *chart.Chart {
	return &chart.Chart{
		Metadata:  &chart.Metadata{APIVersion: chart.APIVersionV2, Name: "dstack-server", Version: "0.1.0"},
		Templates: []*common.File{{Name: template, Data: []byte(sharing.YAML(manifest))}},
	}
}

func (h helm4) install(manifest *unstructured.Unstructured) error {
	_, err := h.newInstall(release).Run(h.chart(manifest), nil)
	return err
}

func (h helm4) newInstall(name string) *action.Install {
	GinkgoHelper()
	install := action.NewInstall(h.config)
	install.ReleaseName, install.Namespace = name, h.namespace
	install.WaitStrategy = kube.HookOnlyStrategy
	Expect(install.ServerSideApply).To(BeTrue(), "what follows is about Helm's own default")
	install.ServerSideApply, install.ForceConflicts = !h.clientSide, h.force
	return install
}

func (h helm4) upgrade(manifest *unstructured.Unstructured) error {
	upgrade := h.newUpgrade()
	upgrade.ForceConflicts = h.force
	_, err := upgrade.Run(release, h.chart(manifest), nil)
	return err
}

func (h helm4) replace(manifest *unstructured.Unstructured) error {
	upgrade := h.newUpgrade()
	upgrade.ForceReplace = true
	upgrade.ServerSideApply = "false" // Helm refuses the two together.
	_, err := upgrade.Run(release, h.chart(manifest), nil)
	return err
}

func (h helm4) newUpgrade() *action.Upgrade {
	upgrade := action.NewUpgrade(h.config)
	upgrade.Namespace, upgrade.WaitStrategy = h.namespace, kube.HookOnlyStrategy
	return upgrade
}

func (h helm4) rollback(revision int) error {
	rollback := action.NewRollback(h.config)
	rollback.Version, rollback.WaitStrategy, rollback.ForceConflicts = revision, kube.HookOnlyStrategy, h.force
	return rollback.Run(release)
}

func (h helm4) installOperator(values map[string]any) []*unstructured.Unstructured {
	GinkgoHelper()
	r, err := h.newInstall(operator).Run(h.operatorsChart(), values)
	Expect(err).NotTo(HaveOccurred())
	return h.objectsOf(r)
}

func (h helm4) upgradeOperator(values map[string]any) []*unstructured.Unstructured {
	GinkgoHelper()
	upgrade := h.newUpgrade()
	upgrade.ForceConflicts, upgrade.ReuseValues = h.force, true
	r, err := upgrade.Run(operator, h.operatorsChart(), values)
	Expect(err).NotTo(HaveOccurred())
	return h.objectsOf(r)
}

func (h helm4) uninstallOperator() {
	GinkgoHelper()
	uninstall := action.NewUninstall(h.config)
	uninstall.DisableHooks, uninstall.WaitStrategy = true, kube.HookOnlyStrategy
	_, err := uninstall.Run(operator)
	Expect(err).NotTo(HaveOccurred())
}

func (h helm4) uninstallWithHooks() error {
	uninstall := action.NewUninstall(h.config)
	uninstall.WaitStrategy, uninstall.Timeout = kube.HookOnlyStrategy, hookTimeout
	_, err := uninstall.Run(operator)
	return err
}

func (h helm4) rollbackOperator(revision int) {
	GinkgoHelper()
	rollback := action.NewRollback(h.config)
	rollback.Version, rollback.WaitStrategy, rollback.ForceConflicts = revision, kube.HookOnlyStrategy, h.force
	Expect(rollback.Run(operator)).To(Succeed())
}

func (h helm4) renderOperator(values map[string]any) []*unstructured.Unstructured {
	GinkgoHelper()
	install := action.NewInstall(action.NewConfiguration())
	install.ReleaseName, install.Namespace, install.DryRunStrategy = operator, h.namespace, action.DryRunClient
	version, err := common.ParseKubeVersion(renderedFor)
	Expect(err).NotTo(HaveOccurred())
	install.KubeVersion = version
	r, err := install.Run(h.operatorsChart(), values)
	Expect(err).NotTo(HaveOccurred())
	objects := h.objectsOf(r)
	a, err := helmrelease.NewAccessor(r)
	Expect(err).NotTo(HaveOccurred())
	for _, hook := range a.Hooks() {
		accessor, err := helmrelease.NewHookAccessor(hook)
		Expect(err).NotTo(HaveOccurred())
		objects = append(objects, objectsOf(accessor.Manifest(), h.namespace)...)
	}
	return objects
}

func (h helm4) objectsOf(r helmrelease.Releaser) []*unstructured.Unstructured {
	GinkgoHelper()
	a, err := helmrelease.NewAccessor(r)
	Expect(err).NotTo(HaveOccurred())
	return objectsOf(a.Manifest(), h.namespace)
}

func (h helm4) operatorsChart() *chart.Chart {
	GinkgoHelper()
	c, err := loader.Load(operatorsDir)
	Expect(err).NotTo(HaveOccurred())
	return c
}
