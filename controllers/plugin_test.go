package controllers_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// upgrade restarts the manager as a later version of the operator.
func (w *world) upgrade() {
	w.config.Manifests.Image = "dstack-isolation:2"
	w.config.Plugin = manifests.PluginFiles{"dstack_isolation/__init__.py": "# a later plugin"}
	w.restart()
}

func (w *world) pluginMaps() []string {
	GinkgoHelper()
	var maps corev1.ConfigMapList
	Expect(api.Client.List(context.Background(), &maps, client.InNamespace(w.ns), client.MatchingLabels{manifests.LabelServer: "main"})).To(Succeed())
	var names []string
	for i := range maps.Items {
		if name := maps.Items[i].Name; strings.HasPrefix(name, "isolation-plugin-") {
			names = append(names, name)
		}
	}
	return names
}

var _ = Describe("An upgrade of the operator", func() {
	first := manifests.PluginConfigMapName("main", plugin)
	later := manifests.PluginConfigMapName("main", manifests.PluginFiles{"dstack_isolation/__init__.py": "# a later plugin"})

	It("restarts the policy servers and not dstack", func() {
		w := usual()
		w.bringUp()
		before := w.deployment()
		w.upgrade()
		w.pass()
		Expect(w.deployment().ResourceVersion).To(Equal(before.ResourceVersion))
		policy := get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{})
		Expect(policy.Spec.Template.Spec.Containers[0].Image).To(Equal("dstack-isolation:2"))
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		w.policyServersUp()
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(w.deployment().ResourceVersion).To(Equal(before.ResourceVersion))
	})

	It("moves image and plugin with the next change of settings, and keeps each plugin as long as a pod has it", func() {
		w := usual()
		w.bringUp()
		w.upgrade()
		w.pass()
		Expect(w.pluginMaps()).To(ConsistOf(first, later))

		w.create(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.policyServersUp()
		w.pass()
		template := w.template()
		Expect(template.Spec.InitContainers[0].Image).To(Equal("dstack-isolation:2"))
		Expect(manifests.LivePlugin(&template.Spec)).To(Equal(later))
		w.pass()
		Expect(w.pluginMaps()).To(ConsistOf(first, later), "the running pod has the first one")

		By("the pod is told to end, and may still be starting a process")
		w.terminate("dstack-server-0")
		w.pass()
		Expect(w.pluginMaps()).To(ConsistOf(first, later))
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.pluginMaps()).To(ConsistOf(later))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("repairs a rolled back workload with its own image", func() {
		w := usual()
		before := w.deployment()
		w.bringUp()
		w.upgrade()
		before.ResourceVersion, before.ManagedFields = "", nil
		Expect(api.Client.Update(context.Background(), before)).To(Succeed())
		w.policyServersUp()
		w.pass()
		w.policyServersUp()
		w.pass()
		Expect(w.template().Spec.InitContainers[0].Image).To(Equal("dstack-isolation:2"))
	})
})
