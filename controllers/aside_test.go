package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var _ = Describe("A condition beside Ready", func() {
	It("and an event tell that an exception has ended, each in its second", func(ctx context.Context) {
		w := usual()
		ends := time.Date(w.clock.Now().Year()+1, 12, 31, 23, 59, 59, 0, time.UTC)
		w.create(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().
			Exception("nlp-lead", ends, v1alpha1.ControlPrivileged).
			Exception("intern", ends.Add(time.Hour), v1alpha1.ControlTags).Obj())
		w.bringUp()
		w.events()
		said := func() string { return w.conditionOf(w.profile("research"), "ExceptionsCurrent") }
		states := func() (all []v1alpha1.ExceptionState) {
			for _, x := range w.profile("research").Status.Exceptions {
				all = append(all, x.State)
			}
			return all
		}
		expect := func(at time.Time, condition, event string, wake time.Duration, want ...v1alpha1.ExceptionState) {
			GinkgoHelper()
			w.clock.SetTime(at)
			result, err := w.profiles.Reconcile(ctx, w.profile("research"))
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(Equal(wake))
			Expect(said()).To(Equal("ExceptionsCurrent=" + condition))
			Expect(states()).To(Equal(want))
			if event == "" {
				Expect(w.events()).To(BeEmpty())
				return
			}
			Expect(w.events()).To(ConsistOf(event))
		}
		const active, expired = v1alpha1.ExceptionActive, v1alpha1.ExceptionExpired
		day := ends.Format("2006-01-02")
		one := "exception nlp-lead ended on " + day + " at 23:59 UTC"
		two := one + ", exception intern ended on " + ends.Add(time.Hour).Format("2006-01-02") + " at 00:59 UTC"
		const remedy = ": remove what has ended from spec.exceptions, or set a later expiresAt"
		const warning = "Warning ExceptionExpired ExceptionsCurrent is False: "

		expect(ends.Add(-time.Second), "True NoneExpired: no exception has ended", "", time.Second, active, active)
		expect(ends, "False ExceptionExpired: "+one+remedy, warning+one+remedy, time.Hour, expired, active)
		expect(ends.Add(time.Minute), "False ExceptionExpired: "+one+remedy, "", 59*time.Minute, expired, active)
		expect(ends.Add(time.Hour), "False ExceptionExpired: "+two+remedy, warning+two+remedy, 0, expired, expired)
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))

		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Exceptions = nil })
		w.passProfiles()
		Expect(said()).To(Equal("ExceptionsCurrent=True NoneExpired: no exception has ended"))
		Expect(w.events()).To(ContainElement("Normal NoneExpired ExceptionsCurrent is True: no exception has ended"))
	})

	It("and an event of the server tell of a rule that does not compile, and the server stays Ready", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Rule("typo", `objct.x`, "no").Obj(),
			testkit.MakeProfile("vision").AllowHostSSH().Obj())
		w.pass()
		const wrong = "1 of 2 profiles is not accepted: research (spec.rules[0].expression): see condition Accepted of each"
		Expect(w.events()).To(ContainElement("Warning RulesInvalid ProfilesAccepted is False: " + wrong))
		w.bringUp()
		Expect(w.condition("ProfilesAccepted")).To(Equal("ProfilesAccepted=False RulesInvalid: " + wrong))
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=False "))
		w.events()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Rules = nil })
		w.pass()
		Expect(w.condition("ProfilesAccepted")).To(Equal("ProfilesAccepted=True Accepted: all 2 profiles are accepted"))
		Expect(w.events()).To(ContainElement("Normal Accepted ProfilesAccepted is True: all 2 profiles are accepted"))
	})
})
