package controllers_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		Expect(generation(w)).To(Equal(before), "a looser network mode is told to the policy servers first")
		w.policyServersUp()
		w.settle()
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
			c.Data[manifests.ApprovedKey] = strings.Replace(c.Data[manifests.ApprovedKey], `"value":"1"`, `"value":"2"`, 1)
		})
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		before := generation(w)
		w.pass()
		Expect(generation(w)).To(Equal(before))
		Expect(w.server().Status.Warnings).To(ContainElement("in ConfigMap isolation-approved-main, the settings that were approved last do not bear the operator's seal: a drift of them is not repaired"))
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
	})

	It("kept settings that somebody has deleted are known by the workload that carries them", func() {
		w := approved()
		before := generation(w)
		Expect(api.Client.Delete(context.Background(), get(w, manifests.ApprovedName("main"), &corev1.ConfigMap{}))).To(Succeed())
		w.settle()
		Expect(w.pendingChange()).To(BeNil())
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		Expect(generation(w)).To(Equal(before))
		Expect(get(w, manifests.ApprovedName("main"), &corev1.ConfigMap{}).Data).To(HaveKey(manifests.ApprovedKey), "they are kept again")
	})

	It("what was approved for a container that has another name now is no repair, and the change can be approved", func() {
		w := approved()
		d := w.deployment()
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "dstack", Image: "dstackai/dstack:0.22.5", VolumeMounts: testkit.MakeServerPod().Data().Template().Spec.Containers[0].VolumeMounts}}
		Expect(api.Client.Update(context.Background(), d)).To(Succeed())
		w.settle()
		pending := w.pendingChange()
		Expect(w.condition("SettingsApplied")).To(And(HavePrefix("SettingsApplied=False "), ContainSubstring("isolation.dstack.ai/approve="+pending.Revision)))
		Expect(w.server().Status.Warnings).To(ContainElement("the settings that were approved last are for container server, which Deployment " + w.ns + "/dstack-server has no more: they are not repaired"))
		change(w, w.server(), approves(pending.Revision))
		w.settle()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
	})

	It("who takes settings out is told of while another change waits", func() {
		w := approved()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		w.settle()
		w.events()
		w.unset(dstack.EnvJobNetworkMode)
		w.settle()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
		Expect(w.events()).To(ContainElement(HavePrefix("Warning RemovedBy SettingsApplied is False: ")))
		Expect(w.condition("SettingsApplied")).To(And(ContainSubstring("all of it is put back"), ContainSubstring("isolation.dstack.ai/approve="+w.pendingChange().Revision)))
		Expect(w.server().Status.LastRemoval).NotTo(BeNil())
	})

	It("the number of active runs is counted again from time to time, and not with each pass", func() {
		w := stock(testkit.MakeServer("main").AdminToken("admin", "token"), testkit.MakeServerPod().Data(), restricted(),
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "admin"}, StringData: map[string]string{"token": "admin-token"}})
		process := w.ready("dstack-server-0", "10.0.0.1").submitted(w.clock.Now(), "research", "first", false).submitted(w.clock.Now(), "research", "over", true)
		change(w, w.server(), onApproval)
		w.pass()
		w.policyServersUp()
		w.settle()
		Expect(w.pendingChange().ActiveRuns).To(HaveValue(BeEquivalentTo(1)))
		asked := process.asked
		process.submitted(w.clock.Now(), "research", "second", false)
		w.settle()
		Expect(process.asked).To(Equal(asked))
		Expect(w.result.RequeueAfter).To(BeNumerically("<=", 5*time.Minute))
		w.clock.SetTime(w.clock.Now().Add(5 * time.Minute))
		w.settle()
		Expect(w.pendingChange().ActiveRuns).To(HaveValue(BeEquivalentTo(2)))

		By("the server does not answer")
		w.network.gone("10.0.0.1:3000")
		w.clock.SetTime(w.clock.Now().Add(5 * time.Minute))
		w.settle()
		Expect(w.pendingChange().ActiveRuns).To(HaveValue(BeEquivalentTo(2)), "as it was known last")
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

var _ = Describe("Two profiles that disagree", func() {
	It("get the planned network mode and are told what they gained and lost, and a change of both is one rollout", func() {
		w := usual(testkit.MakeProfile("strict").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj(), testkit.MakeProfile("loose").Level(v1alpha1.LevelOpen).AllowHostSSH().Obj())
		w.config.Settle = 2 * time.Second
		w.restart()
		w.bringUp()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
		effects := func(effects []v1alpha1.SettingEffect) (messages []string) {
			for _, e := range effects {
				messages = append(messages, string(e.Control)+": "+w.plain(e.Message))
			}
			return messages
		}
		w.passProfiles()
		Expect(effects(w.profile("loose").Status.Gained)).To(ContainElement(And(HavePrefix("hostNetwork: "), ContainSubstring("NS/strict"))))
		Expect(effects(w.profile("strict").Status.Lost)).To(BeEmpty(), "what it denies is denied all the same, by the plugin")

		By("changing both within two seconds, so that nobody denies the host network")
		before := w.deployment().Generation
		change(w, w.profile("strict"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		w.policyServersUp()
		w.pass()
		w.clock.SetTime(w.clock.Now().Add(time.Second))
		change(w, w.profile("loose"), func(p *v1alpha1.IsolationProfile) {
			p.Spec.Controls = &v1alpha1.Controls{HostSSH: v1alpha1.Allowed, DistributedTasks: v1alpha1.Denied}
		})
		w.policyServersUp()
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before))
		w.clock.SetTime(w.clock.Now().Add(2 * time.Second))
		w.settle()
		Expect(w.deployment().Generation).To(Equal(before + 1))
		Expect(w.env(dstack.EnvJobNetworkMode).Set).To(BeFalse())
		w.roll("dstack-server-0")
		w.settle()
		w.passProfiles()
		Expect(effects(w.profile("loose").Status.Gained)).NotTo(ContainElement(HavePrefix("hostNetwork: ")))
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
