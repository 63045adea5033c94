package contract_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// Of all that these servers run with, decisions depend on the network mode. The
// policy of this context plans mode 3, which a policy server without Kubernetes
// takes as running; a Python plugin says with each request what its own process
// runs with, and the weaker of the two counts.
var _ = Describe("What the dstack server process really runs with", Ordered, func() {
	const twoNodesOnTheHost = `host networking is not allowed in project "research-nlp", and this 2-node task would use it: set nodes to 1 (profile dstack/research, control hostNetwork).`

	BeforeAll(func(ctx context.Context) { servers.serves(ctx, "host-network") })
	AfterAll(func(ctx context.Context) { servers.serves(ctx, "policy") })

	It("is network mode 2: two nodes would get the network of the host, and are refused", func() {
		expectRefusal(withPython, askPlan(withPython, member, research, run(demoRun("two-nodes"))), twoNodesOnTheHost, "")
	})
	It("is network mode 2: one node is not refused, or a server that waits for its restart would refuse everything", func() {
		expectAccepted(askPlan(withPython, member, research, run(demoRun("harmless-task"))))
	})
	It("is network mode 3: two nodes do not get the network of the host, and are accepted", func() {
		Expect(servers.dstack[withPythonOnBridge].out.raw(0)).To(ContainSubstring("Job network mode: FORCED_BRIDGE (3)"))
		expectAccepted(askPlan(withPythonOnBridge, member, research, run(demoRun("two-nodes"))))
	})
	It("is told by the Python plugin only: what was planned counts for "+withREST, func() {
		expectAccepted(askPlan(withREST, member, research, run(demoRun("two-nodes"))))
	})
	It("does not change what is refused otherwise", func() {
		for _, server := range []string{withPython, withREST, withPythonOnBridge} {
			expectRefusal(server, askPlan(server, member, research, run(demoRun("privileged-task"))), privileged, "")
		}
	})
})
