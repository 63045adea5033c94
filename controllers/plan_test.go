package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// setMode is a control's value for the profiles of these specs.
func hostNetwork(v v1alpha1.HostNetwork) func(*v1alpha1.Controls) {
	return func(c *v1alpha1.Controls) { c.HostNetwork = v }
}

// catchUp lets the policy servers decide by the present objects.
func (w *world) catchUp(servers []*policyServer) {
	GinkgoHelper()
	for _, s := range servers {
		s.set(w.revision(), "v1")
	}
}

var _ = Describe("The network mode of the server", func() {
	DescribeTable("is planned from what is enforced anywhere, and runs once every pod has it",
		func(unmatched v1alpha1.HostNetwork, research v1alpha1.HostNetwork, want v1alpha1.NetworkMode) {
			// A profile for all projects stands for unmatchedProjects, whose presets
			// deny hostSSH too.
			w := usual(
				testkit.MakeProfile("all").Include("*").AllowHostSSH().Controls(hostNetwork(unmatched)).Obj(),
				testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Controls(hostNetwork(research)).Obj())
			change(w, w.server(), func(s *v1alpha1.DstackServer) {
				s.Spec.UnmatchedProjects.Level = map[v1alpha1.HostNetwork]v1alpha1.Level{
					v1alpha1.HostNetworkAllowed: v1alpha1.LevelOpen, v1alpha1.HostNetworkDistributedOnly: v1alpha1.LevelBaseline,
					v1alpha1.HostNetworkDenied: v1alpha1.LevelRestricted,
				}[unmatched]
			})
			w.inject()
			Expect(w.server().Status.PlannedNetworkMode).To(Equal(want))
			Expect(w.server().Status.Running.NetworkMode).To(BeEquivalentTo(2), "what runs decides, not what is planned")
			w.roll("dstack-server-0")
			w.settle()
			Expect(w.server().Status.Running.NetworkMode).To(Equal(want))
			v := w.env(dstack.EnvJobNetworkMode)
			if want == v1alpha1.NetworkModeHostWhenPossible {
				Expect(v.Set).To(BeFalse(), "dstack's own default is not set")
			} else {
				Expect(v.Value).To(Equal(map[v1alpha1.NetworkMode]string{1: "1", 3: "3"}[want]))
			}
			w.expectProfile(w.profile("research"), "profile-mode-"+string(unmatched)+"-"+string(research))
		},
		Entry("all allowed", v1alpha1.HostNetworkAllowed, v1alpha1.HostNetworkAllowed, v1alpha1.NetworkModeHostWhenPossible),
		Entry("some denied", v1alpha1.HostNetworkAllowed, v1alpha1.HostNetworkDenied, v1alpha1.NetworkModeHostForDistributed),
		Entry("only for distributed tasks", v1alpha1.HostNetworkDistributedOnly, v1alpha1.HostNetworkDenied, v1alpha1.NetworkModeHostForDistributed),
		Entry("all denied", v1alpha1.HostNetworkDenied, v1alpha1.HostNetworkDenied, v1alpha1.NetworkModeBridge),
	)

	It("is the weakest of all pods, those that are ending included", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.inject()
		w.rollingOut()
		w.startPod("dstack-server-1")
		w.ready("dstack-server-1", "10.0.0.2")
		w.terminate("dstack-server-0")
		w.pass()
		Expect(w.server().Status.Running).To(Equal(&v1alpha1.RunningSettings{
			Pods: 2, PolicyPods: 1, NetworkMode: 2, Deliveries: []v1alpha1.Delivery{v1alpha1.DeliveryPython},
		}))
		w.rolledOut()
		w.pass()
		Expect(w.condition("Ready")).To(Equal("Ready=False RolloutInProgress: waiting for the pods of Deployment NS/dstack-server to be replaced and ready"))
		w.end("dstack-server-0")
		w.pass()
		Expect(w.server().Status.Running.NetworkMode).To(BeEquivalentTo(1))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})
})

var _ = Describe("An edit of a profile", func() {
	It("that changes no setting of the whole server leaves the workload alone", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		servers := w.policyServersUp()
		before := w.deployment()
		settings := w.server().Status.SettingsRevision
		edits := map[string]func(*v1alpha1.IsolationProfile){
			"a hint":                  func(p *v1alpha1.IsolationProfile) { p.Spec.Hint = "Ask #gpu-platform." },
			"another control":         func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.DistributedTasks = v1alpha1.Allowed },
			"other projects":          func(p *v1alpha1.IsolationProfile) { p.Spec.Projects.Include = []v1alpha1.ProjectPattern{"vision"} },
			"a control of the plugin": func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.Privileged = v1alpha1.Allowed },
		}
		for name, edit := range edits {
			By(name)
			change(w, w.profile("research"), edit)
			w.pass()
			Expect(w.condition("PolicyPluginReady")).To(Equal("PolicyPluginReady=False RevisionBehind: 2 of 2 policy servers do not decide by policy revision REV yet"))
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
			w.catchUp(servers)
			w.settle()
			Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
			Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
		}
		Expect(w.deployment().ResourceVersion).To(Equal(before.ResourceVersion))
		Expect(w.server().Status.SettingsRevision).To(Equal(settings))
	})

	It("that changes one restarts the server, and is not in force before it has", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		servers := w.policyServersUp()
		before := w.deployment().Generation
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.HostNetwork = v1alpha1.HostNetworkAllowed })
		w.catchUp(servers)
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before), "a looser one is said first")
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before + 1))
		w.expectStatus("setting-changed")
		w.rollingOut()
		w.pass()
		w.expectStatus("setting-rolling-out")
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(Equal("Ready=True Ready: all 1 server pods ask the policy server; 1 profiles, policy revision REV, network mode 2"))
	})

	It("of another keeps a profile programmed while the policy servers catch up", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj(), testkit.MakeProfile("vision").AllowHostSSH().Obj())
		w.bringUp()
		servers := w.policyServersUp()
		change(w, w.profile("vision"), func(p *v1alpha1.IsolationProfile) { p.Spec.Hint = "Ask us." })
		w.pass()
		Expect(w.conditionOf(w.profile("vision"), "Ready")).To(Equal(
			"Ready=False PolicyServersNotReady: waiting for every policy server to decide by policy revision REV"))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
		w.catchUp(servers)
		w.settle()
		Expect(w.conditionOf(w.profile("vision"), "Ready")).To(HavePrefix("Ready=True "))
	})
})

var _ = Describe("An exception that ends", func() {
	It("wakes the profile, whose status names whom it is for", func(ctx context.Context) {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().
			Exception("lead", time.Time{}, v1alpha1.ControlTags).Obj())
		w.bringUp()
		result, err := w.profiles.Reconcile(ctx, w.profile("research"))
		Expect(err).NotTo(HaveOccurred())
		Expect(result).To(BeZero(), "it does not end")

		ends := w.clock.Now().Add(time.Hour)
		w.create(testkit.MakeProfile("research-too").Include("research-*").AllowHostSSH().Level(v1alpha1.LevelRestricted).
			Exception("lead", ends, v1alpha1.ControlPrivileged).Obj())
		w.pass()
		for _, name := range []string{"research", "research-too"} {
			result, err = w.profiles.Reconcile(ctx, w.profile(name))
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(Equal(time.Hour), name)
		}
		w.clock.SetTime(ends)
		result, err = w.profiles.Reconcile(ctx, w.profile("research"))
		Expect(err).NotTo(HaveOccurred())
		Expect(result).To(BeZero(), "it has ended")
	})

	It("wakes the manager, which plans again", func() {
		w := newWorld(testkit.MakeServer("main").Level(v1alpha1.LevelRestricted).Obj(),
			testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName))
		ends := w.clock.Now().Add(time.Hour)
		w.create(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().
			Exception("lead", ends, v1alpha1.ControlHostNetwork).Obj())
		w.startPod("dstack-server-0")
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.bringUp()
		Expect(w.server().Status.PlannedNetworkMode).To(BeEquivalentTo(1))
		Expect(w.result.RequeueAfter).To(Equal(time.Minute), "Secrets are looked at long before")
		before := w.deployment().Generation

		w.clock.SetTime(ends.Add(-time.Second))
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before))
		Expect(w.result.RequeueAfter).To(Equal(time.Second))

		w.clock.SetTime(ends)
		w.pass()
		Expect(w.server().Status.PlannedNetworkMode).To(BeEquivalentTo(3))
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("3"))
		Expect(get(w, testkit.WorkloadName, &appsv1.Deployment{}).Generation).To(Equal(before + 1))
	})

	It("wakes the manager also when it ends while a pass resolves", func() {
		w := usual()
		ends := w.clock.Now().Add(time.Hour)
		w.create(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().
			Exception("lead", ends, v1alpha1.ControlHostNetwork).Obj())
		w.bringUp()
		w.config.Clock = clocktesting.NewFakePassiveClock(ends.Add(time.Millisecond)) // The resolver's is behind.
		w.reconciler = controllers.NewDstackServerReconciler(w.config)
		Expect(w.try("main")).To(Succeed())
		Expect(w.result.RequeueAfter).To(And(BeNumerically(">", 0), BeNumerically("<", time.Second)))
	})
})

var _ = Describe("What dstack itself is told to refuse", func() {
	forbids := func(w *world) []bool {
		return []bool{w.env(dstack.EnvForbidDstackInRuns).Set, w.env(dstack.EnvForbidServicesWithoutGateway).Set}
	}

	It("is what all policies deny, and one change of several profiles is one rollout", func() {
		w := stock(testkit.MakeServer("main").Level(v1alpha1.LevelRestricted), testkit.MakeServerPod().Data(),
			testkit.MakeProfile("a").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.UnmatchedProjects.Level = v1alpha1.LevelRestricted })
		w.bringUp()
		Expect(forbids(w)).To(Equal([]bool{true, true}))
		before := w.deployment().Generation

		change(w, w.profile("a"), func(p *v1alpha1.IsolationProfile) {
			p.Spec.Level = v1alpha1.LevelBaseline
		})
		w.pass()
		w.policyServersUp()
		w.pass()
		w.pass()
		Expect(forbids(w)).To(Equal([]bool{false, false}))
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
		Expect(w.deployment().Generation).To(Equal(before+1), "both variables and the network mode in one write")
	})
})

var _ = Describe("Default permissions", func() {
	no := false
	args := func(w *world) []string { return w.deployment().Spec.Template.Spec.InitContainers[0].Args }

	It("go into the copy of config.yml, and a change of them restarts the server", func() {
		w := usual()
		w.bringUp()
		Expect(args(w)).NotTo(ContainElement(HavePrefix("--default-permission")))
		before := w.deployment().Generation
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: &no, AllowNonAdminsManageSSHFleets: &no}
		})
		w.pass()
		Expect(args(w)).To(ContainElements("--default-permission=allow_non_admins_create_projects=false", "--default-permission=allow_non_admins_manage_ssh_fleets=false"))
		Expect(w.deployment().Generation).To(Equal(before + 1))
		Expect(w.server().Status.Warnings).To(ContainElement(ContainSubstring("may create a project")), "they still may on the pod that runs")
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.server().Status.Running.DefaultPermissions).To(Equal([]string{"allow_non_admins_create_projects=false", "allow_non_admins_manage_ssh_fleets=false"}))
		Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("may create a project")))
	})

	It("that the release does not know are left out, and status names the release", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data())
		w.ready("dstack-server-0", "10.0.0.1").release = "0.20.17"
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: &no, AllowManagersManageSecrets: &no}
		})
		w.pass()
		w.policyServersUp()
		w.pass()
		w.roll("dstack-server-0")
		w.ready("dstack-server-0", "10.0.0.1").release = "0.20.17"
		w.settle()
		Expect(args(w)).To(ContainElement("--default-permission=allow_non_admins_create_projects=false"))
		Expect(args(w)).NotTo(ContainElement(ContainSubstring("secrets")))
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False ReleaseTooOld: a server pod runs dstack 0.20.17, and " +
			"spec.defaultPermissions.allowManagersManageSecrets needs 0.20.18 or later, so it is not set: upgrade dstack, or leave the field out"))
	})

	It("that an old release does not know stay out while its pods do not answer", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data())
		w.ready("dstack-server-0", "10.0.0.1").release = "0.20.17"
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowManagersManageSecrets: &no}
		})
		w.inject()
		before := w.deployment().Generation
		w.network.gone("10.0.0.1:3000")
		for range 3 {
			w.pass()
		}
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False Unreachable: "))
		Expect(w.server().Status.Release).To(Equal("0.20.17"), "as it was seen last")
		Expect(w.deployment().Generation).To(Equal(before), "dstack 0.20.17 would not start with the key")
		Expect(args(w)).NotTo(ContainElement(ContainSubstring("secrets")))
	})

	It("that only some releases know wait until a pod has told its release", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data())
		w.network.gone("10.0.0.1:3000")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowManagersManageSecrets: &no}
		})
		w.inject()
		w.startPod("dstack-server-1")
		w.rolledOut()
		Expect(args(w)).NotTo(ContainElement(ContainSubstring("secrets")))

		By("it has")
		w.end("dstack-server-1")
		w.roll("dstack-server-0")
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=Unknown Unreachable: no server pod has said yet which release of dstack it runs, " +
			"and spec.defaultPermissions.allowManagersManageSecrets needs 0.20.18 or later, so it is not set yet: see Connected"))
		Expect(w.result.RequeueAfter).To(Equal(200*time.Millisecond), "the release is known at the end of the pass")
		w.pass()
		Expect(args(w)).To(ContainElement("--default-permission=allow_managers_manage_secrets=false"))

		By("what is set stays while nothing answers")
		before := w.deployment().Generation
		w.network.gone("10.0.0.1:3000")
		w.pass()
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before))
	})
})
