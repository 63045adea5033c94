package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// manual is a stock server whose manifest is its user's alone.
func manual(more ...client.Object) *world {
	GinkgoHelper()
	return stock(testkit.MakeServer("main").Injection(v1alpha1.InjectionManual), testkit.MakeServerPod().Data(), more...)
}

// shownPatch is the patch that the operator shows.
func (w *world) shownPatch() string {
	GinkgoHelper()
	return get(w, manifests.ManualName("main"), &corev1.ConfigMap{}).Data[manifests.PatchKey]
}

// applyAs puts the shown patch into the workload by server-side apply.
func (w *world) applyAs(manager string) {
	GinkgoHelper()
	var patch unstructured.Unstructured
	Expect(yaml.Unmarshal([]byte(w.shownPatch()), &patch.Object)).To(Succeed())
	Expect(api.Client.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(&patch), client.FieldOwner(manager))).To(Succeed())
}

// merge puts the shown patch into the workload, as its user's manifest would.
func (w *world) merge() {
	GinkgoHelper()
	body, err := yaml.YAMLToJSON([]byte(w.shownPatch()))
	Expect(err).NotTo(HaveOccurred())
	Expect(api.Client.Patch(context.Background(), w.deployment(),
		client.RawPatch(types.StrategicMergePatchType, body), client.FieldOwner("kubectl-client-side-apply"))).To(Succeed())
}

var _ = Describe("With spec.injection Manual", func() {
	It("the workload is not written, its patch is shown, and conditions tell when it is in place", func() {
		w := manual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		before := w.deployment()

		By("the policy servers are not ready")
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False WaitingForPolicyServers: put nothing into the workload's manifest before every replica of the policy server is ready"))

		By("they are")
		w.policyServersUp()
		w.settle()
		w.expectStatus("manual-step-needed")
		Expect(w.server().Status.ManualPatch).To(Equal(w.shownPatch()))
		Expect(w.deployment().ResourceVersion).To(Equal(before.ResourceVersion))
		writes := w.countWrites()
		w.pass()
		*writes = 0
		w.pass()
		Expect(*writes).To(BeZero(), "an idle pass writes nothing")

		By("the user's manifest has the patch")
		w.merge()
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False RolloutInProgress: waiting for the pods of Deployment NS/dstack-server to be replaced and ready"))
		Expect(w.server().Status.ManualPatch).To(BeEmpty())
		w.roll("dstack-server-0")
		w.settle()
		w.expectStatus("manual-in-place")
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))

		By("an item is changed and another one taken out")
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			kept := c.Env[:0]
			for _, e := range c.Env {
				switch e.Name {
				case dstack.EnvJobNetworkMode:
					continue
				case dstack.EnvServer:
					e.Value = "dstack/other"
				}
				kept = append(kept, e)
			}
			c.Env = kept
		})
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False ManualStepNeeded: spec.injection is Manual and Deployment NS/dstack-server lacks DSTACK_SERVER_JOB_NETWORK_MODE, DSTACK_ISOLATION_SERVER (it is different): put status.manualPatch into its manifest, which kubectl -n NS get configmap isolation-manual-main -o jsonpath='{.data.patch\\.yaml}' prints too"))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True ManualStepNeeded: "))
	})

	It("settings that the operator has set stay, and are let go of once the user's manifest has them", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionManual })
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(apply.Owns(workload.FromDeployment(w.deployment()))).To(BeTrue(), "nobody else has them")
		before := specOf(w.deployment())

		By("a manifest that is applied from the client's side takes over nothing that is the same")
		w.merge()
		w.settle()
		Expect(apply.Owns(workload.FromDeployment(w.deployment()))).To(BeTrue())

		By("one that is applied from the server's side does")
		w.applyAs("argocd-controller")
		w.settle()
		Expect(apply.Owns(workload.FromDeployment(w.deployment()))).To(BeFalse())
		Expect(specOf(w.deployment())).To(Equal(before))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))

		By("the operator takes them over again, and nothing restarts")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionEnabled })
		w.settle()
		Expect(specOf(w.deployment())).To(Equal(before))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("a release waits until the user has taken the settings out, and says so", func() {
		w := manual()
		w.pass()
		w.policyServersUp()
		w.settle()
		w.merge()
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False Releasing: the settings in Deployment NS/dstack-server are its own manifest's, so they stay: take them out there; the policy server is kept until no server pod asks it"))
		w.allThere()
		Expect(w.cleanup(3*time.Second, "")).To(MatchError(ContainSubstring("the settings in Deployment " + w.ns + "/dstack-server are its own manifest's, so they stay: take them out there")))

		By("the user takes them out")
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			stock := testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName)
			d.Spec.Template = stock.Spec.Template
		})
		w.roll("dstack-server-0")
		w.settle()
		w.nothingLeft()
	})

	It("is not done while the SSH proxy that is to be enforced does not answer", func() {
		w := stock(testkit.MakeServer("main").Injection(v1alpha1.InjectionManual).SSHProxy(managed()), testkit.MakeServerPod().Data(),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())
		w.pass()
		w.policyServersUp()
		w.settle()
		w.merge()
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False WaitingForSSHProxy: "))
	})

	It("an item that stands twice is different", func() {
		w := manual()
		w.pass()
		w.policyServersUp()
		w.settle()
		w.merge()
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			c.Env = append(c.Env, corev1.EnvVar{Name: dstack.EnvServer, Value: "dstack/other"})
		})
		w.pass()
		Expect(w.condition("SettingsApplied")).To(ContainSubstring(" lacks DSTACK_ISOLATION_SERVER (it is different): "))
	})

	It("what the settings cannot work beside is said", func() {
		w := stock(testkit.MakeServer("main").Injection(v1alpha1.InjectionManual),
			testkit.MakeServerPod().Data().Env(dstack.EnvConfigDisabled, "0"))
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False ConfigDisabled: "))
	})
})
