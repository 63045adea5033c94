package contract_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/internal/dstack"
)

var _ = Describe("Loading", func() {
	output := func(server string) string { return servers.dstack[server].out.raw(0) }

	It("happens on the release that is named", func(ctx context.Context) {
		for _, s := range servers.dstack {
			release, err := (&dstack.Client{HTTP: direct, BaseURL: s.admin.url}).Release(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(release).To(Equal(dstackRelease))
		}
	})

	It("is logged by dstack, for each delivery and for no other server", func() {
		Expect(output(withPython)).To(And(
			ContainSubstring("Loaded plugin dstack_isolation"),
			ContainSubstring("asks the policy server at "+servers.forPython.address),
			Not(ContainSubstring("Loaded plugin rest_plugin"))))
		Expect(output(withREST)).To(And(
			ContainSubstring("Loaded plugin rest_plugin"),
			Not(ContainSubstring("dstack_isolation"))))
		Expect(output(withoutPolicy)).NotTo(ContainSubstring("Loaded plugin"))
		for _, server := range allServers {
			Expect(output(server)).NotTo(ContainSubstring("Enabled plugins not found"))
		}
	})

	It("rests on a copy of config.yml, in which the user's settings hold", func() {
		s := servers.dstack[withPython]
		Expect(os.ReadFile(s.userConfig())).To(BeEquivalentTo(userConfig))
		Expect(os.ReadFile(filepath.Join(s.serverDir(), dstack.ConfigFile))).To(BeEquivalentTo(
			"# Settings of this server; read at its start.\nplugins: [\"dstack_isolation\"]\n" + userConfig[len("# Settings of this server; read at its start.\n"):]))
		got, err := s.members[member].post("/api/projects/create", map[string]string{"project_name": "own"})
		Expect(err).NotTo(HaveOccurred())
		Expect(got.status).To(Equal(http.StatusForbidden), got.String())
	})

	It("works where the user had no config.yml", func() {
		s := servers.dstack[withREST]
		Expect(s.inject.raw(0)).To(ContainSubstring("Created " + s.userConfig() + ", there was none: without it dstack loads no plugin"))
		Expect(os.ReadFile(filepath.Join(s.serverDir(), dstack.ConfigFile))).To(ContainSubstring("plugins: [\"rest_plugin\"]\nprojects: []\n"))
	})

	It("takes over the permissions that are asked for", func() {
		s := servers.dstack[withREST]
		Expect(s.inject.raw(0)).To(ContainSubstring("Set default_permissions.allow_managers_manage_secrets to true\nSet default_permissions.allow_non_admins_create_projects to false\n"))
		got, err := s.members[member].post("/api/projects/create", map[string]string{"project_name": "own"})
		Expect(err).NotTo(HaveOccurred())
		Expect(got.status).To(Equal(http.StatusForbidden), got.String())
	})

	It("does not come to a first start with a token that the policy server does not accept", func(ctx context.Context) {
		target := filepath.Join(GinkgoT().TempDir(), dstack.ConfigFile)
		out, err := runInject(ctx, "another-token", "--target", target, "--policy-url", servers.forPython.url(), "--timeout", "3s")
		Expect(err).To(MatchError("exit status 1"))
		Expect(out).To(HaveSuffix("dstack-isolation: policy server at " + servers.forPython.url() +
			": not ready within 3s: it does not accept the token (HTTP 401). The dstack server was not started with the plugin, which would refuse every run\n"))
		Expect(out).NotTo(ContainSubstring("another-token"))
	})

	It("shows no token in any output", func() {
		for name, out := range servers.outputs() {
			Expect(out.raw(0)).NotTo(ContainSubstring(policyToken), name)
		}
	})
})
