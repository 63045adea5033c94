package contract_test

import (
	"context"
	"net/http"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// unavailable is what the Python plugin says without a decision.
func unavailable(kind, reason string) string {
	return "This " + kind + " is refused because the isolation policy could not be asked." +
		" Your configuration is not the reason: try again in a minute, and if this persists, tell the administrator of this dstack server." +
		" Administrator: " + reason + "; check `kubectl -n dstack describe dstackserver main`."
}

// These specs take a policy server away from the running dstack servers, and
// show that they go on when it is back, without a restart of theirs.
var _ = Describe("Without a decision", func() {
	harmlessTask := run(`{"type":"task","commands":["x"]}`)

	expectMessage := func(got answer, message string) {
		GinkgoHelper()
		Expect(got.message()).To(Equal(message))
		Expect(got.status).To(Equal(http.StatusBadRequest))
	}
	goesOn := func(server string) {
		GinkgoHelper()
		Expect(servers.dstack[server].process.hasEnded()).To(BeFalse())
		expectAccepted(askPlan(server, member, research, harmlessTask))
		expectRefusal(server, askPlan(server, member, research, run(demoRun("privileged-task"))), privileged, researchHint)
	}

	for _, server := range deliveries {
		It("everything is refused while the policy server is stopped, by "+server, func(ctx context.Context) {
			s := servers.dstack[server]
			goesOn(server) // by a connection that is kept alive, where there is one
			Expect(s.policy.process.terminate()).To(Succeed())
			DeferCleanup(func(ctx context.Context) {
				if s.policy.process.hasEnded() {
					Expect(s.policy.start(ctx)).To(Succeed())
				}
			})

			says := map[string]string{
				withPython: "the policy server cannot be asked: it refuses connections",
				withREST:   "Could not connect to plugin service at " + s.policy.url(),
			}[server]
			for _, k := range otherKinds {
				message := says
				if server == withPython {
					message = unavailable(k.kind, says)
				}
				expectMessage(k.ask(server), message)
			}
			message := says
			if server == withPython {
				message = unavailable("run", says)
			}
			expectMessage(askPlan(server, member, research, harmlessTask), message)
			expectMessage(askPlan(server, member, open, harmlessTask), message)

			Expect(s.policy.start(ctx)).To(Succeed())
			goesOn(server)
		})
	}

	It("everything is refused in time while the policy server hangs", func() {
		for _, server := range deliveries {
			p := servers.dstack[server].policy.process
			Expect(p.signal(syscall.SIGSTOP)).To(Succeed())
			DeferCleanup(func() { Expect(p.signal(syscall.SIGCONT)).To(Succeed()) })
		}
		type late struct {
			server string
			answer
			took time.Duration
		}
		answers := make(chan late)
		for _, server := range deliveries {
			go func() {
				started := time.Now()
				got, err := servers.dstack[server].getPlan(member, research, harmlessTask)
				if err != nil {
					got.body = []byte(err.Error())
				}
				answers <- late{server, got, time.Since(started)}
			}()
		}
		for range deliveries {
			got := <-answers
			want := "Request to the plugin service failed"
			if got.server == withPython {
				want = unavailable("run", "the policy server cannot be asked: it did not answer in time")
			}
			expectMessage(got.answer, want)
			// dstack's own plugin gives up after 8 seconds, ours after 7; the rest is for a busy machine.
			Expect(got.took).To(BeNumerically("<", 20*time.Second), got.server)
		}
		for _, server := range deliveries {
			Expect(servers.dstack[server].policy.process.signal(syscall.SIGCONT)).To(Succeed())
			goesOn(server)
		}
	})

	It("everything is refused while the token is not the policy server's, by "+withPython, func() {
		p := servers.forPython
		accepted := func() (bool, error) { return p.accepts(policyToken) }
		Expect(p.setToken("another-token")).To(Succeed())
		DeferCleanup(func() {
			Expect(p.setToken(policyToken)).To(Succeed())
			Eventually(accepted).WithTimeout(30 * time.Second).Should(BeTrue())
		})
		Eventually(accepted).WithTimeout(30 * time.Second).Should(BeFalse())
		got := askPlan(withPython, member, research, harmlessTask)
		expectMessage(got, unavailable("run", "the policy server does not accept the token in DSTACK_ISOLATION_TOKEN (HTTP 401)"))
		Expect(servers.dstack[withPython].out.raw(outputsBefore[withPython])).To(And(
			ContainSubstring("Refused a run, policy could not be asked: the policy server does not accept the token in DSTACK_ISOLATION_TOKEN (HTTP 401)"),
			Not(ContainSubstring(policyToken))))
		for _, out := range servers.outputs() {
			Expect(out.raw(0)).NotTo(ContainSubstring("another-token"))
		}

		Expect(p.setToken(policyToken)).To(Succeed())
		Eventually(accepted).WithTimeout(30 * time.Second).Should(BeTrue())
		goesOn(withPython)
	})

	It("nothing of a run is in the policy servers' logs, nor in the plugin's", func() {
		const secret = "hunter2-in-the-environment"
		for _, server := range deliveries {
			expectAccepted(askPlan(server, member, research, run(`{"type":"task","commands":["x"],"env":{"PASSWORD":"`+secret+`"}}`)))
			got := askPlan(server, member, research, run(`{"type":"task","commands":["x"],"privileged":true,"env":{"PASSWORD":"`+secret+`"}}`))
			expectRefusal(server, got, privileged, researchHint)
		}
		for name, out := range servers.outputs() {
			Expect(out.raw(0)).NotTo(ContainSubstring(secret), name)
		}
	})
})
