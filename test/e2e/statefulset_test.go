//go:build e2e

package e2e

import (
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

var _ = Describe("A server in a StatefulSet", Ordered, ContinueOnFailure, Label("variants"), func() {
	s := &site{}
	BeforeAll(func() {
		*s = *ownSite("e2e-statefulset", "test/e2e/testdata/statefulset")
		s.serverDir = "home/server"
		s.create()
		s.serve()
	})
	s.watchOver()

	It("becomes isolated", func() {
		config, p := s.configFile(), s.probe(probing)
		s.isolate()
		s.expectIsolated()
		p.expectNoRefusal()
		Expect(s.configFile()).To(Equal(config))
		live := s.workload()
		takeOut(template(live))
		Expect(cmp.Diff(s.before.spec, givenOf(live).spec)).To(BeEmpty(), "all else must be the user's own (-before +now)")
	})

	It("takes the settings back when the first pod with them fails, though a StatefulSet waits for that pod for ever", func() {
		s.releaseAll()
		before := s.configFile()
		s.writeConfigFile(oddConfig)
		DeferCleanup(func() { s.writeConfigFile(before) })
		s.applySamples()
		Eventually(func() string { return condition(s.dstackServer(Default, "main").Status.Conditions, "Stalled") }).
			WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(HavePrefix("True/InjectionFailed: "))
		s.rolledOut()
		s.expectUsersOwn(s.workload())
		s.expectOpen()
		Expect(s.configFile()).To(Equal(oddConfig))
	})

	It("tries again when something is changed, here to delivery REST, and gives the server back", func() {
		s.applySamples()
		s.deliver(v1alpha1.DeliveryREST)
		s.waitReady("main")
		s.expectIsolated()
		config, p := s.configFile(), s.probe(probing)
		s.kubectl("delete", "dstackserver", "main", "--timeout=180s")
		s.expectGivenBack("main", config)
		p.expectNoRefusal()
	})

	It("says what keeps its pod from being replaced, on the way in and on the way out", func() {
		s.releaseAll()
		config, pod := s.configFile(), s.serverPod().UID
		By("strategy OnDelete")
		s.updateStrategy(`{"type":"OnDelete","rollingUpdate":null}`)
		DeferCleanup(func() { s.updateStrategy(rollingUpdate) })
		s.applySamples()
		Eventually(s.serverCondition(v1alpha1.ConditionSettingsApplied)).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(Equal(
			"False/RolloutBlocked: StatefulSet e2e-statefulset/dstack-server has update strategy OnDelete: delete its pods to let them start with the new settings"))
		Expect(condition(s.profile("research").Status.Conditions, v1alpha1.ConditionReady)).To(HavePrefix("False/"))
		s.expectOpen()
		Expect(s.serverPod().UID).To(Equal(pod), "whoever chose OnDelete says when")
		s.kubectl("delete", "pod", "dstack-server-0", "--timeout=60s")
		s.waitReady("main")
		s.expectIsolated()

		By("a partition")
		s.updateStrategy(`{"type":"RollingUpdate","rollingUpdate":{"partition":1}}`)
		s.kubectl("delete", "dstackserver", "main", "--wait=false")
		Eventually(s.serverCondition(v1alpha1.ConditionSettingsApplied)).WithTimeout(soon).Should(
			ContainSubstring("StatefulSet e2e-statefulset/dstack-server updates only pods from ordinal 1 on (partition): lower the partition to 0"))
		s.expectIsolated()
		s.updateStrategy(rollingUpdate)
		s.kubectl("wait", "--for=delete", "dstackserver/main", "--timeout=180s")
		s.expectGivenBack("main", config)
	})

	It("has not made the operator's processes restart", func() {
		s.expectNoRestarts()
	})

	It("does not hold up the deletion of its namespace", func() {
		s.isolate()
		started := time.Now()
		_, err := run("", "kubectl", "delete", "namespace", s.namespace, "--timeout=180s")
		Expect(err).NotTo(HaveOccurred(), "the namespace must go while the manager runs in it")
		AddReportEntry("deletion of a namespace with its manager", time.Since(started).Round(time.Second).String())
		Expect(s.configFile()).NotTo(ContainSubstring("dstack_isolation"))
	})
})

// rollingUpdate is the strategy of a StatefulSet that names none.
const rollingUpdate = `{"type":"RollingUpdate","rollingUpdate":{"partition":0}}`

func (s *site) updateStrategy(strategy string) {
	GinkgoHelper()
	s.kubectl("patch", "statefulset", "dstack-server", "--type=merge", "-p", `{"spec":{"updateStrategy":`+strategy+`}}`)
}
