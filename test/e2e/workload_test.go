//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

func workloadSpecs(s *site) {
	It("sets exactly its own items, which the user's tools do not see", func() {
		s.isolate()
		s.expectIsolated()

		By("taking out what is the operator's")
		live := s.workload()
		takeOut(template(live))
		Expect(cmp.Diff(s.before.spec, givenOf(live).spec)).To(BeEmpty(), "all else must be the user's own (-before +now)")
		Expect(givenOf(live).annotations).To(Equal(s.before.annotations))

		By("kubectl diff of the user's manifest")
		out, err := run(s.manifest, "kubectl", "--namespace", s.namespace, "diff", "-f", "-")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(BeEmpty())

		By("kubectl apply of the same manifest")
		version := s.workload().GetResourceVersion()
		s.apply(s.manifest)
		Expect(s.workload().GetResourceVersion()).To(Equal(version))
	})

	It("stays in a workload that the user changes", func() {
		s.isolate()
		p := s.probe(300 * time.Millisecond)

		By("another image and one more variable by kubectl apply")
		// The same image by its whole name: the kubelet has no other.
		other := strings.ReplaceAll(s.manifest, "image: dstack-server:", "image: docker.io/library/dstack-server:")
		other = strings.Replace(other, "- env:\n", "- env:\n        - name: EXAMPLE\n          value: \"1\"\n", 1)
		Expect(other).NotTo(Equal(s.manifest))
		before := s.serverPod()
		s.apply(other)
		s.rolledOut()
		pod := s.serverPod()
		Expect(pod.UID).NotTo(Equal(before.UID))
		Expect(pod.Spec.Containers[0].Image).To(HavePrefix("docker.io/library/"))
		Expect(pod.Spec.Containers[0].Env).To(ContainElement(And(HaveField("Name", "EXAMPLE"), HaveField("Value", "1"))))
		s.waitReady("main")
		Eventually(func() int { status, _ := s.plan(privileged); return status }).WithTimeout(soon).Should(Equal(http.StatusBadRequest))
		s.expectIsolated()

		By("the first manifest again")
		s.apply(s.manifest)
		s.rolledOut()
		s.waitReady("main")
		live := s.workload()
		takeOut(template(live))
		Expect(cmp.Diff(s.before.spec, givenOf(live).spec)).To(BeEmpty())
		p.expectNoRefusal()
		s.expectIsolated()
	})

	It("waits while the user has paused the rollout, and says so", func() {
		s.releaseAll()
		s.kubectl("rollout", "pause", "deployment/dstack-server")
		resume := func() {
			s.kubectl("patch", "deployment", "dstack-server", "--type=merge", "-p", `{"spec":{"paused":null}}`)
		}
		DeferCleanup(resume)
		s.applySamples()
		Eventually(s.serverCondition(v1alpha1.ConditionSettingsApplied)).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(Equal(
			"False/RolloutBlocked: Deployment " + s.namespace + "/dstack-server is paused: resume its rollout (kubectl -n " + s.namespace + " rollout resume deployment/dstack-server)"))
		Expect(condition(s.profile("research").Status.Conditions, v1alpha1.ConditionReady)).To(HavePrefix("False/"))
		s.expectOpen()
		resume()
		s.waitReady("main")
		s.expectIsolated()
	})
}
