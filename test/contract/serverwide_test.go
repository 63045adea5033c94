package contract_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/internal/dstack"
)

var _ = Describe("A server that is told to refuse what all policies deny", func() {
	// submitted is what becomes of a run in a project whose policy denies nothing.
	submitted := func(server, name, configuration string) answer {
		GinkgoHelper()
		got, err := servers.dstack[server].members[member].post("/api/project/"+open+"/runs/apply", map[string]any{
			"plan": map[string]any{"run_spec": run(configuration).with("run_name", name)}, "force": true,
		})
		Expect(err).NotTo(HaveOccurred())
		return got
	}

	It("refuses runs that reach the server", func() {
		const reaching = `{"type": "task", "commands": ["true"], "dstack": true}`
		Expect(submitted(withPythonOnBridge, "reaching", reaching).message()).To(Equal("This dstack-server installation forbids `dstack: true` in run configurations."))
		Expect(submitted(withPython, "reaching", reaching).message()).NotTo(ContainSubstring("forbids"))
	})

	It("refuses services that have no gateway", func() {
		const service = `{"type": "service", "port": 80, "commands": ["true"]}`
		Expect(submitted(withPythonOnBridge, "service", service).message()).To(Equal(
			"This dstack-server installation forbids services without a gateway. Please configure a gateway."))
		Expect(submitted(withPython, "service", service).message()).NotTo(ContainSubstring("forbids"))
	})

	It("lists to its administrator what was submitted, and when", func(ctx context.Context) {
		before := time.Now().Add(-time.Second)
		expectAccepted(submitted(withPython, "listed", `{"type": "task", "commands": ["true"]}`))
		client := &dstack.Client{HTTP: direct, BaseURL: servers.dstack[withPython].admin.url, Token: adminToken}
		for _, q := range []dstack.RunsQuery{{OnlyActive: true}, {Since: before}} {
			runs, all, err := client.Runs(ctx, q)
			Expect(err).NotTo(HaveOccurred())
			Expect(all).To(BeTrue())
			Expect(runs).NotTo(BeEmpty())
			Expect(runs[0]).To(And(HaveField("Project", open), HaveField("Name", "listed")))
			Expect(runs[0].SubmittedAt).To(BeTemporally("~", time.Now(), 5*time.Minute))
		}
		runs, _, err := client.Runs(ctx, dstack.RunsQuery{Since: time.Now().Add(time.Hour)})
		Expect(err).NotTo(HaveOccurred())
		Expect(runs).To(BeEmpty())
	})
})
