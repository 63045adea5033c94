//go:build e2e

package e2e

import (
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/internal/workload"
)

const policyServers = "isolation.dstack.ai/server=main,app.kubernetes.io/component=policy-server"

func policyServerSpecs(s *site) {
	const deployment = "isolation-policy-main"

	It("refuses nothing for want of a policy server while these are replaced", func() {
		s.isolate()
		s.scaledTo(deployment, 2)
		server := s.serverPod().UID
		p := s.probe(50 * time.Millisecond)

		By("a rolling restart")
		s.kubectl("rollout", "restart", "deployment/"+deployment)
		s.kubectl("rollout", "status", "deployment/"+deployment, "--timeout=120s")
		s.scaledTo(deployment, 2)

		By("deleting one of two pods")
		pod := s.pods(policyServers)[0]
		s.kubectl("delete", "pod", pod.Name, "--timeout=60s")
		s.replaced(pod.UID)

		p.expectNoOutage()
		s.waitReady("main")
		Expect(s.serverPod().UID).To(Equal(server), "the dstack server must not restart")
	})

	It("refuses nothing when a policy server is deleted without grace", func() {
		s.isolate()
		s.scaledTo(deployment, 2)
		p := s.probe(50 * time.Millisecond)
		pod := s.pods(policyServers)[0]
		s.kubectl("delete", "pod", pod.Name, "--grace-period=0", "--force")
		s.replaced(pod.UID)
		p.expectNoOutage()
		s.waitReady("main")
	})

	It("fails closed while no policy server is there, and says so", func() {
		s.isolate()
		server := s.serverPod().UID
		By("stopping the manager, which would repair it, and then the policy servers")
		manager := s.release + "-manager"
		s.kubectl("scale", "deployment", manager, "--replicas=0")
		DeferCleanup(func() {
			s.kubectl("scale", "deployment", manager, "--replicas=1")
			s.scaledTo(manager, 1)
		})
		s.scaledTo(manager, 0)
		s.kubectl("scale", "deployment", deployment, "--replicas=0")
		s.scaledTo(deployment, 0)
		var answer string
		Eventually(func() (status int) {
			status, answer = s.plan(harmless)
			return status
		}).WithTimeout(soon).WithPolling(200 * time.Millisecond).Should(Equal(http.StatusBadRequest))
		Expect(answer).To(And(
			ContainSubstring("This run is refused "+couldNotAsk), ContainSubstring("Your configuration is not the reason"),
			ContainSubstring("kubectl -n %s describe dstackserver main", s.namespace)))
		GinkgoWriter.Println(answer)

		By("starting the manager")
		s.kubectl("scale", "deployment", manager, "--replicas=1")
		s.scaledTo(deployment, 2)
		s.waitReady("main")
		Eventually(func() int { status, _ := s.plan(harmless); return status }).WithTimeout(soon).Should(Equal(http.StatusOK))
		s.expectIsolated()
		Expect(s.serverPod().UID).To(Equal(server), "the dstack server must not restart")
	})

	It("repairs what somebody changes in its own objects", func() {
		s.isolate()
		p := s.probe(100 * time.Millisecond)
		s.kubectl("scale", "deployment", deployment, "--replicas=1")
		s.scaledTo(deployment, 2)
		p.expectNoOutage()

		By("pointing the Service at nothing")
		s.kubectl("patch", "service", deployment, "--type=merge", "-p", `{"spec":{"selector":{"example.com/wrong":"yes"}}}`)
		Eventually(func() string { return s.kubectl("get", "service", deployment, "-o", "jsonpath={.spec.selector}") }).
			WithTimeout(soon).Should(MatchJSON(`{"app.kubernetes.io/component":"policy-server","app.kubernetes.io/name":"dstack-isolation","isolation.dstack.ai/server":"main"}`))
		s.waitReady("main")
		Eventually(func() int { status, _ := s.plan(harmless); return status }).WithTimeout(soon).Should(Equal(http.StatusOK))

		By("deleting the NetworkPolicy and the PodDisruptionBudget")
		s.kubectl("delete", "networkpolicy/"+deployment, "poddisruptionbudget/"+deployment)
		Eventually(func() []string { return s.children("main") }).WithTimeout(soon).Should(ContainElements(
			"networkpolicy.networking.k8s.io/"+deployment, "poddisruptionbudget.policy/"+deployment))
	})

	It("answers nobody without the token", func() {
		s.isolate()
		url := s.policyURL()
		token := string(s.secret(deployment+"-token", "token"))
		Expect(token).NotTo(BeEmpty())
		for _, c := range []struct {
			what, token string
			want        int
		}{
			{"no token", "", http.StatusUnauthorized},
			{"a wrong token", "wrong", http.StatusUnauthorized},
			{"the token with something behind it", token + "x", http.StatusUnauthorized},
			{"the token", token, http.StatusOK},
		} {
			status, _ := call(url, c.token, harmlessBody)
			Expect(status).To(Equal(c.want), c.what)
		}
	})
}

// harmlessBody is what dstack's built-in plugin sends.
const harmlessBody = `{"user":"ada","project":"research-nlp","spec":{"run_name":"r","configuration":{"type":"task","commands":["true"]}}}`

func (s *site) policyURL() string {
	GinkgoHelper()
	return "http://" + s.service("isolation-policy-main") + ":8080/apply_policies/on_run_apply"
}

// askWithoutToken asks a policy server itself, and returns the status.
func (s *site) askWithoutToken() int {
	GinkgoHelper()
	status, _ := call(s.policyURL(), "", harmlessBody)
	return status
}

// replaced waits until two policy servers are ready, none of them the one that
// was deleted.
func (s *site) replaced(deleted types.UID) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		pods := s.pods(policyServers)
		g.Expect(pods).To(HaveLen(2))
		for i := range pods {
			g.Expect(pods[i].UID).NotTo(Equal(deleted))
			g.Expect(workload.Ready(&pods[i])).To(BeTrue(), "pod %s must be ready", pods[i].Name)
		}
	}).WithTimeout(90*time.Second).WithPolling(200*time.Millisecond).Should(Succeed(), "the deleted policy server must be replaced")
	s.scaledTo("isolation-policy-main", 2)
}
