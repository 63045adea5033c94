//go:build e2e

package e2e

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func kubectlSpecs(s *site) {
	It("feels at home in kubectl", func() {
		s.isolate()

		By("kubectl get dsrv,isop")
		Expect(table(s.kubectl("get", "dsrv", "main"))).To(Equal([][]string{
			{"NAME", "WORKLOAD", "RELEASE", "PROFILES", "READY", "REASON", "AGE"},
			{"main", "dstack-server", "0.22.5", "1", "True", "Ready", "AGE"},
		}))
		Expect(table(s.kubectl("get", "isop", "research"))).To(Equal([][]string{
			{"NAME", "SERVER", "LEVEL", "ENFORCEMENT", "READY", "REASON", "AGE"},
			{"research", "main", "Restricted", "Enforce", "True", "Ready", "AGE"},
		}))

		By("kubectl get dsrv,isop -o wide")
		wide := s.kubectl("get", "dsrv", "main", "-o", "wide")
		Expect(strings.Fields(wide)).To(ContainElements("DELIVERY", "NETWORKMODE", "MESSAGE", "Python", "1"))
		Expect(wide).To(MatchRegexp(`all 1 server pods ask the policy server; 1 profiles, policy revision [0-9a-f]{8}, network mode 1`))

		By("kubectl get dstack")
		Expect(strings.Fields(s.kubectl("get", "dstack", "-o", "name"))).To(ConsistOf(
			"dstackserver.isolation.dstack.ai/main", "isolationprofile.isolation.dstack.ai/research"))

		By("kubectl wait")
		Expect(s.kubectl("wait", "--for=condition=Ready", "--timeout=5s", "dstackserver/main", "isolationprofile/research")).To(
			And(ContainSubstring("dstackserver.isolation.dstack.ai/main condition met"), ContainSubstring("isolationprofile.isolation.dstack.ai/research condition met")))

		By("kubectl describe")
		Expect(s.kubectl("describe", "isop", "research")).To(And(
			MatchRegexp(`Control:\s+sharedInstances\s+Effective:\s+Denied\s+Enforced By:\s+policy plugin\s+Message:\s+jobs share nodes on .*\s+Standing:\s+Bypassable`),
			MatchRegexp(`Platform Limits:\s+Controls:\s+privileged\s+instanceVolumes\s+hostNetwork\s+Message:\s+on hosts with dstack's agent, .*\s+Name:\s+HostAgent`),
			MatchRegexp(`Control:\s+privileged\s+Effective:\s+Denied\s+Enforced By:\s+policy plugin\s+Message:\s+users may log in to hosts by SSH \(hostSSH Allowed\): .*\s+Standing:\s+Bypassable`)))
		Expect(s.kubectl("describe", "dsrv", "main")).To(And(
			MatchRegexp(`Name:\s+initContainer dstack-isolation-inject\s+State:\s+Applied`),
			MatchRegexp(`Normal\s+Ready\s+.*dstack-isolation\s+Ready is True: all 1 server pods ask the policy server`)))

		By("kubectl explain")
		Expect(s.kubectl("explain", "isolationprofile.spec.controls.privileged")).To(And(
			ContainSubstring("FIELD: privileged"), ContainSubstring("Denied")))
		Expect(s.kubectl("explain", "dstackserver.spec.unmatchedProjects")).To(And(
			ContainSubstring("-required-"), ContainSubstring("policy for projects that no profile names")))

		By("kubectl auth can-i, for the policy server's account")
		account := "system:serviceaccount:" + s.namespace + ":" + s.pods("app.kubernetes.io/component=policy-server")[0].Spec.ServiceAccountName
		Expect(account).To(HaveSuffix(":dstack-isolation-policy-server"))
		Expect(s.canI(account, "list", "isolationprofiles")).To(Equal("yes"))
		for _, no := range [][2]string{{"get", "secrets"}, {"patch", "dstackservers"}, {"patch", "deployments"}, {"list", "pods"}} {
			Expect(s.canI(account, no[0], no[1])).To(Equal("no"), "%s %s", no[0], no[1])
		}
	})
}

func (s *site) canI(account, verb, resource string) string {
	out, _ := s.try("auth", "can-i", verb, resource, "--as="+account) // "no" is an error too
	fields := strings.Fields(out)
	return fields[len(fields)-1]
}

// table is the output of kubectl get; the last column, AGE, is left open.
func table(out string) [][]string {
	var rows [][]string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		fields[len(fields)-1] = "AGE"
		rows = append(rows, fields)
	}
	return rows
}
