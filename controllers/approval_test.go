package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

func onApproval(s *v1alpha1.DstackServer) { s.Spec.Rollout = v1alpha1.RolloutOnApproval }

// approves sets the approving annotation.
func approves(revision string) func(*v1alpha1.DstackServer) {
	return func(s *v1alpha1.DstackServer) {
		s.Annotations = map[string]string{v1alpha1.AnnotationApprove: revision}
	}
}

func (w *world) pendingChange() *v1alpha1.PendingChange { return w.server().Status.PendingChange }

var _ = Describe("With spec.rollout OnApproval", func() {
	restricted := func() *v1alpha1.IsolationProfile {
		return testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj()
	}
	generation := func(w *world) int64 { return w.deployment().Generation }

	// approved is a server that has mode 1 by approval.
	approved := func() *world {
		w := usual(restricted())
		change(w, w.server(), onApproval)
		w.pass()
		w.policyServersUp()
		w.pass()
		change(w, w.server(), approves(w.pendingChange().Revision))
		w.pass()
		Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		Expect(w.pendingChange()).To(BeNil())
		return w
	}

	It("nothing is written before it is approved, and status shows what would be", func() {
		w := usual(restricted())
		change(w, w.server(), onApproval)
		before := generation(w)
		w.pass()
		w.policyServersUp()
		w.pass()
		w.pass()
		Expect(generation(w)).To(Equal(before))
		pending := w.pendingChange()
		Expect(pending.Revision).To(MatchRegexp("^[0-9a-f]{8}$"))
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False WaitingForApproval: spec.rollout is OnApproval, and settings revision " + pending.Revision +
			" waits; see status.pendingChange and approve it: kubectl -n NS annotate --overwrite dstackserver main isolation.dstack.ai/approve=" + pending.Revision))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True WaitingForApproval"))
		Expect(pending.Items).To(ContainElements(
			v1alpha1.PendingItem{Name: dstack.EnvJobNetworkMode, Action: v1alpha1.ChangeAdd, Why: "mode 1, because profile " + w.ns + "/research asks for hostNetwork Denied and unmatchedProjects of " + w.ns + "/main leaves more"},
			v1alpha1.PendingItem{Name: "volume " + manifests.PluginVolume, Action: v1alpha1.ChangeAdd, Why: "the policy plugin: spec.policyPlugin.delivery is Python"}))
		Expect(pending.Message).To(Equal("the dstack server restarts: for that time its API does not answer and nobody new can log in to a run; runs go on"))
		Expect(pending.ActiveRuns).To(BeNil(), "there is no admin token")

		By("approving something else")
		change(w, w.server(), approves("another"))
		w.pass()
		Expect(generation(w)).To(Equal(before))
		Expect(w.condition("SettingsApplied")).To(ContainSubstring(`waits (the annotation approves "another", which is another one); see`))

		By("approving it")
		change(w, w.server(), approves(pending.Revision))
		w.pass()
		Expect(generation(w)).To(Equal(before + 1))
		Expect(w.server().Status.PendingChange).To(BeNil())
	})

	It("what was approved last is repaired while a change waits, by a manager that has just started too", func() {
		w := approved()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		before := generation(w)
		w.pass()
		w.pass()
		Expect(generation(w)).To(Equal(before), "the change waits")
		Expect(w.pendingChange().Items).To(Equal([]v1alpha1.PendingItem{{
			Name: dstack.EnvJobNetworkMode, Action: v1alpha1.ChangeRemove,
			Why: "mode 2, which is dstack's own, because no policy that enforces denies hostNetwork",
		}}))
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False WaitingForApproval"))
		settled := w.versions()
		w.pass()
		Expect(w.versions()).To(Equal(settled), "and an idle pass writes nothing")

		By("taking a variable out")
		w.restart()
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			var left []corev1.EnvVar
			for _, e := range c.Env {
				if e.Name != dstack.EnvJobNetworkMode {
					left = append(left, e)
				}
			}
			c.Env = left
		})
		Expect(w.env(dstack.EnvJobNetworkMode).Set).To(BeFalse())
		w.pass()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))

		By("changing the profile back")
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelRestricted })
		w.settle()
		Expect(w.pendingChange()).To(BeNil())
	})

	It("what is applied when approval is asked for first counts as approved", func() {
		w := usual(restricted())
		w.bringUp()
		before := generation(w)
		change(w, w.server(), onApproval)
		w.pass()
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		Expect(generation(w)).To(Equal(before))
		Expect(get(w, manifests.ApprovedName("main"), &corev1.ConfigMap{}).Data).To(HaveKey(manifests.ApprovedKey))

		By("Automatic again, with a change")
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		w.pass()
		Expect(w.pendingChange()).NotTo(BeNil())
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Rollout = v1alpha1.RolloutAutomatic })
		w.pass()
		Expect(generation(w)).To(Equal(before + 1))
		Expect(w.pendingChange()).To(BeNil())
	})

	It("what was applied is repaired also when approval is asked for together with a change", func() {
		w := usual(restricted())
		w.bringUp()
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			onApproval(s)
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(false)}
		})
		w.pass()
		Expect(w.pendingChange()).NotTo(BeNil())
		By("rolling the settings back")
		w.restart()
		stock := testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName).Spec.Template
		change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Template = stock })
		Expect(w.injected()).To(BeFalse())
		w.pass()
		Expect(w.injected()).To(BeTrue())
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
		Expect(w.pendingChange()).NotTo(BeNil(), "and the change waits still")
	})

	It("what somebody else wrote into the kept settings is not applied", func() {
		w := approved()
		change(w, get(w, manifests.ApprovedName("main"), &corev1.ConfigMap{}), func(c *corev1.ConfigMap) {
			c.Data[manifests.ApprovedKey] = `{"container":"server","revision":"x"}`
		})
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		before := generation(w)
		w.pass()
		Expect(generation(w)).To(Equal(before))
		Expect(w.server().Status.Warnings).To(ContainElement("in ConfigMap isolation-approved-main, the settings that were approved last are not those of their revision: a drift of them is not repaired"))
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
	})

	It("a release needs no approval, and leaves nothing", func() {
		w := approved()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		w.pass()
		Expect(api.Client.Delete(context.Background(), w.server())).To(Succeed())
		w.pass()
		Expect(w.injected()).To(BeFalse())
	})
})

var _ = Describe("Settings that change several times within a moment", func() {
	It("restart the server once", func() {
		w := usual(testkit.MakeProfile("a").AllowHostSSH().Obj(), testkit.MakeProfile("b").AllowHostSSH().Obj())
		w.config.Settle = 2 * time.Second
		w.restart()
		w.bringUp()
		before := w.deployment().Generation
		change(w, w.profile("a"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelRestricted })
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False RolloutInProgress: the planned settings have just changed: what else changes with them is waited for, so that the server restarts once"))
		Expect(w.result.RequeueAfter).To(And(BeNumerically(">", 0), BeNumerically("<=", 2*time.Second)))
		w.clock.SetTime(w.clock.Now().Add(time.Second))
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(false)}
		})
		w.pass()
		w.clock.SetTime(w.clock.Now().Add(1500 * time.Millisecond))
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before), "the second change began anew")
		w.clock.SetTime(w.clock.Now().Add(600 * time.Millisecond))
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before + 1))
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
	})
})
