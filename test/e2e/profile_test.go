//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// profileServed is how soon every policy server must decide by an edited profile:
// a second on a machine that does nothing else.
const profileServed = 3 * time.Second

func profileSpecs(s *site) {
	It("follows the edit of a profile within a second, without a restart", func() {
		s.isolate()
		pod, generation := s.serverPod(), s.workload().GetGeneration()

		By("allowing privileged containers")
		s.kubectl("patch", "isolationprofile", "research", "--type=merge", "-p", `{"spec":{"controls":{"privileged":"Allowed"}}}`)
		DeferCleanup(func() {
			s.kubectl("patch", "isolationprofile", "research", "--type=merge", "-p", `{"spec":{"controls":{"privileged":null}}}`)
			s.waitReady("main")
		})
		allowed := s.until(http.StatusOK)
		s.waitReady("main")

		By("denying them again")
		s.kubectl("patch", "isolationprofile", "research", "--type=merge", "-p", `{"spec":{"controls":{"privileged":"Denied"}}}`)
		denied := s.until(http.StatusBadRequest)
		s.waitReady("main")
		s.expectIsolated()
		AddReportEntry("edit of a profile", fmt.Sprintf("allowed after %s, refused after %s", allowed, denied))

		now := s.serverPod()
		Expect(now.UID).To(Equal(pod.UID), "the server's pod must stay")
		Expect(now.Status.ContainerStatuses[0].RestartCount).To(Equal(pod.Status.ContainerStatuses[0].RestartCount))
		Expect(s.workload().GetGeneration()).To(Equal(generation), "the workload must not change")
	})

	It("says what is wrong with a profile", func() {
		s.isolate()
		for _, c := range []struct{ name, spec, kind, want string }{
			{
				"wrong-server", `{serverRef: {name: nowhere}, projects: {include: [x]}, level: Open}`, v1alpha1.ConditionAccepted,
				`False/ServerNotFound: there is no DstackServer "nowhere" in namespace ` + s.namespace + `: create it, or create this profile again with another spec.serverRef`,
			},
			{
				"ssh-denied", `{serverRef: {name: main}, projects: {include: [x]}, level: Baseline}`, v1alpha1.ConditionProgrammed,
				`False/ControlNotEnforceable: `,
			},
			{
				"ssh-exception", `{serverRef: {name: main}, projects: {include: [x]}, level: Restricted, controls: {hostSSH: Allowed}, exceptions: [{name: e, users: [ada], controls: [hostSSH], reason: none}]}`,
				v1alpha1.ConditionAccepted, `False/InvalidException: `,
			},
		} {
			By("profile " + c.name)
			s.apply("apiVersion: isolation.dstack.ai/v1alpha1\nkind: IsolationProfile\nmetadata: {name: " + c.name + "}\nspec: " + c.spec + "\n")
			DeferCleanup(func() { s.kubectl("delete", "isolationprofile", c.name, "--ignore-not-found", "--timeout=30s") })
			Eventually(func() string { return condition(s.profile(c.name).Status.Conditions, c.kind) }).
				WithTimeout(soon).WithPolling(200 * time.Millisecond).Should(HavePrefix(c.want))
			Expect(condition(s.profile(c.name).Status.Conditions, v1alpha1.ConditionReady)).To(HavePrefix("False/"))
			Expect(condition(s.profile(c.name).Status.Conditions, v1alpha1.ConditionStalled)).To(HavePrefix("True/"))
			GinkgoWriter.Println(condition(s.profile(c.name).Status.Conditions, c.kind))
		}
		By("a level that does not exist")
		out, err := run(strings.Replace(s.sample("isolationprofile.yaml"), "level: Restricted", "level: Paranoid", 1), "kubectl", "--namespace", s.namespace, "apply", "-f", "-")
		Expect(err).To(HaveOccurred())
		Expect(out).To(ContainSubstring(`spec.level: Unsupported value: "Paranoid": supported values: "Open", "Baseline", "Restricted"`))
		s.expectIsolated()
	})
}

// until asks for the plan of a privileged run until it is answered with the
// status, and returns how long that took.
func (s *site) until(want int) time.Duration {
	GinkgoHelper()
	started := time.Now()
	Eventually(func() int { status, _ := s.plan(privileged); return status }).
		WithTimeout(profileServed).WithPolling(20*time.Millisecond).Should(Equal(want), "every policy server must follow within %s", profileServed)
	return time.Since(started).Round(10 * time.Millisecond)
}
