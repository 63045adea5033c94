package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var _ = Describe("A profile", func() {
	It("of no server says so, until there is one", func() {
		w := newWorld(testkit.MakeProfile("research").Server("mian").Obj())
		w.passProfiles()
		w.expectProfile(w.profile("research"), "profile-server-missing")
		before := w.versions()
		w.passProfiles()
		Expect(w.versions()).To(Equal(before))
		w.create(testkit.MakeServer("mian").Obj())
		w.passProfiles()
		Expect(w.conditionOf(w.profile("research"), "Accepted")).To(HavePrefix("Accepted=True "))
	})

	It("of a server that is not accepted says so", func() {
		w := newWorld(testkit.MakeServer("main").Obj(), testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.pass()
		w.expectProfile(w.profile("research"), "profile-server-not-accepted")
	})

	It("is programmed when it is served everywhere and every pod asks", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.pass()
		w.expectProfile(w.profile("research"), "profile-policy-servers-starting")
		w.policyServersUp()
		w.pass()
		w.expectProfile(w.profile("research"), "profile-settings-applied")
		w.roll("dstack-server-0")
		w.settle()
		w.expectProfile(w.profile("research"), "profile-programmed")
		Expect(w.profile("research").Status.PlatformLimits).To(ContainElement(And(
			HaveField("Name", v1alpha1.PlatformLimitHostAgent),
			HaveField("Controls", ConsistOf(v1alpha1.ControlPrivileged, v1alpha1.ControlInstanceVolumes, v1alpha1.ControlHostNetwork)))))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("that denies host SSH is never said to be enforced, for nothing enforces it", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelBaseline).Obj())
		w.bringUp()
		w.expectProfile(w.profile("research"), "profile-host-ssh-denied")
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "), "the server has what it can have")
	})

	It("with an exception that cannot work says so, and the rest is in force", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().
			Exception("lead", time.Time{}, v1alpha1.ControlHostSSH, v1alpha1.ControlPrivileged).Obj())
		w.bringUp()
		w.expectProfile(w.profile("research"), "profile-invalid-exception")
	})

	It("in audit mode refuses nothing and moves no setting", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelDedicated).Fleets("a100").Audit().Obj())
		w.bringUp()
		w.expectProfile(w.profile("research"), "profile-audit")
		Expect(w.server().Status.PlannedNetworkMode).To(BeEquivalentTo(2))
	})

	It("tells what its projects gain and lose by others", func() {
		w := usual(
			testkit.MakeProfile("strict").Level(v1alpha1.LevelRestricted).AllowHostSSH().
				Controls(func(c *v1alpha1.Controls) { c.DistributedTasks = v1alpha1.Allowed }).Obj(),
			testkit.MakeProfile("loose").Obj(),
			testkit.MakeProfile("all").Include("*").AllowHostSSH().Controls(func(c *v1alpha1.Controls) { c.Privileged = v1alpha1.Denied }).Obj())
		w.bringUp()
		w.expectProfile(w.profile("strict"), "profile-strict-of-three")
		w.expectProfile(w.profile("loose"), "profile-loose-of-three")
	})

	It("of a server with a policy for all other projects that nothing enforces leaves that to the server's status", func() {
		w := stock(testkit.MakeServer("main").Level(v1alpha1.LevelRestricted), testkit.MakeServerPod().Data(),
			testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		w.expectStatus("unmatched-host-ssh-denied")
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
	})

	It("of a server without an SSH proxy can be ready, where all other projects may log in to hosts", func() {
		w := stock(testkit.MakeServer("main").Level(v1alpha1.LevelRestricted).Controls(func(c *v1alpha1.Controls) { c.HostSSH = v1alpha1.Allowed }),
			testkit.MakeServerPod().Data(), testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		Expect(w.condition("UnmatchedProjectsCovered")).To(Equal(
			"UnmatchedProjectsCovered=True Covered: projects that no profile names are refused what spec.unmatchedProjects denies"))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(w.server().Status.PlannedNetworkMode).To(BeEquivalentTo(3))
	})

	It("that is alone beside controls of all other projects is not warned of", func() {
		w := stock(testkit.MakeServer("main").Controls(func(c *v1alpha1.Controls) { c.Tags = v1alpha1.Denied }), testkit.MakeServerPod().Data())
		w.bringUp()
		Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("refuses nothing")))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.UnmatchedProjects.Controls.Tags = v1alpha1.Allowed })
		w.pass()
		Expect(w.server().Status.Warnings).To(ContainElement(ContainSubstring("spec.unmatchedProjects refuses nothing")))
	})

	It("is left alone while it is being deleted, and moves the policy when it is gone", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		servers := w.policyServersUp()
		Expect(w.server().Status.PlannedNetworkMode).To(BeEquivalentTo(1))
		held := w.profile("research")
		change(w, held, func(p *v1alpha1.IsolationProfile) { p.Finalizers = []string{"example.com/held"} })
		Expect(api.Client.Delete(context.Background(), held)).To(Succeed())
		before := w.profile("research").ResourceVersion
		w.passProfiles()
		Expect(w.profile("research").ResourceVersion).To(Equal(before))
		change(w, held, func(p *v1alpha1.IsolationProfile) { p.Finalizers = nil })
		w.catchUp(servers)
		w.pass()
		Expect(w.server().Status.PlannedNetworkMode).To(BeEquivalentTo(2))
		Expect(w.server().Status.Profiles).To(BeZero())
	})
})
