package controllers_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var _ = Describe("A profile with rules", func() {
	const wrong = "spec.rules[1].expression: the expression of rule typo does not compile, so every run of its projects is refused: " +
		"line 1, column 1: undeclared reference to 'objct'"

	It("is accepted when they compile, and its policy has them", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Rule("fine", `user != "eve"`, "not by Eve").Obj())
		w.bringUp()
		Expect(w.conditionOf(w.profile("research"), "Accepted")).To(HavePrefix("Accepted=True "))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
		before := w.server().Status.PolicyRevision.Served
		servers := w.policyServersUp()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Rules[0].Expression = `user != "bob"` })
		w.catchUp(servers)
		w.pass()
		Expect(w.server().Status.PolicyRevision.Served).NotTo(Equal(before))
	})

	It("of which one does not compile says so with line and column, and all else stands", func() {
		w := usual(
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().
				Rule("fine", `user != "eve"`, "not by Eve").Rule("typo", `objct.x`, "no").Obj(),
			testkit.MakeProfile("vision").AllowHostSSH().Rule("fine", `user != "eve"`, "not by Eve").Obj())
		w.bringUp()
		broken := w.profile("research")
		Expect(w.conditionOf(broken, "Accepted")).To(Equal("Accepted=False InvalidSpec: " + wrong))
		Expect(w.conditionOf(broken, "Ready")).To(Equal("Ready=False InvalidSpec: " + wrong))
		Expect(w.conditionOf(broken, "Stalled")).To(Equal("Stalled=True InvalidSpec: " + wrong))
		Expect(w.conditionOf(broken, "Programmed")).To(HavePrefix("Programmed=True "), "its other controls are in force")
		Expect(w.conditionOf(w.profile("vision"), "Ready")).To(HavePrefix("Ready=True "))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "), "the server serves what it is asked to")
		before := w.versions()
		w.pass()
		Expect(w.versions()).To(Equal(before))

		servers := w.policyServersUp()
		change(w, broken, func(p *v1alpha1.IsolationProfile) { p.Spec.Rules[1].Expression = `object.x == 1` })
		w.catchUp(servers)
		w.pass()
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
	})
})
