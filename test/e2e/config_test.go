//go:build e2e

package e2e

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// inServer is config.yml as the server's container sees it.
const inServer = "/root/.dstack/server/config.yml"

func configSpecs(s *site) {
	It("shows the server a merged copy of config.yml, and leaves the user's file and directory alone", func() {
		s.isolate()
		config, pod := s.configFile(), s.serverPod().Name
		Expect(s.kubectl("exec", pod, "--", "cat", inServer)).To(ContainSubstring("dstack_isolation"))
		Expect(config).NotTo(ContainSubstring("dstack_isolation"))

		By("writing to the copy")
		_, err := s.try("exec", pod, "--", "sh", "-c", "echo >>"+inServer)
		Expect(err).To(MatchError(ContainSubstring("Read-only file system")))

		By("writing beside it")
		beside := filepath.Join(filepath.Dir(s.configPath()), "written-by-the-server")
		DeferCleanup(os.RemoveAll, beside)
		s.kubectl("exec", pod, "--", "touch", filepath.Join(filepath.Dir(inServer), filepath.Base(beside)))
		Expect(beside).To(BeAnExistingFile(), "the directory must be the user's volume still")
		Expect(s.configFile()).To(Equal(config))
	})

	It("reads a config.yml that only the server's own user may read", func() {
		s.releaseAll()
		before, err := os.Stat(s.configPath())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.Chmod, s.configPath(), before.Mode().Perm())
		Expect(os.Chmod(s.configPath(), 0o600)).To(Succeed())
		config := s.configFile()
		s.isolate()
		s.expectIsolated()
		now, err := os.Stat(s.configPath())
		Expect(err).NotTo(HaveOccurred())
		Expect(now.Mode().Perm()).To(Equal(os.FileMode(0o600)))
		Expect(s.configFile()).To(Equal(config))
	})
}
