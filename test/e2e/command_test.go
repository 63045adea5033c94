//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// commandTimeout is more than any command here may take: each waits less itself.
const commandTimeout = 6 * time.Minute

// run runs a program and returns what it printed.
func run(stdin, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// try runs kubectl in the site's namespace.
func (s *site) try(args ...string) (string, error) {
	return run("", "kubectl", append([]string{"--namespace", s.namespace}, args...)...)
}

// kubectl runs kubectl in the site's namespace and expects success.
func (s *site) kubectl(args ...string) string {
	GinkgoHelper()
	out, err := s.try(args...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

// apply is kubectl apply of YAML, as a user does it.
func (s *site) apply(yaml string) {
	GinkgoHelper()
	out, err := run(yaml, "kubectl", "--namespace", s.namespace, "apply", "-f", "-")
	Expect(err).NotTo(HaveOccurred())
	GinkgoWriter.Print(out)
}

// helmInstall installs or upgrades the operator in the site's namespace.
func (s *site) helmInstall() {
	GinkgoHelper()
	By("helm install in namespace " + s.namespace)
	_, err := run("", "helm", "upgrade", "--install", s.release, filepath.Join(root, "charts/dstack-isolation"),
		"--namespace", s.namespace, "--set", "image.repository=dstack-isolation", "--set", "image.tag=dev",
		"--set", fmt.Sprintf("crds.enabled=%t", s.ownsCRDs), "--wait", "--timeout", "180s")
	Expect(err).NotTo(HaveOccurred())
}

func (s *site) helmUninstall() {
	GinkgoHelper()
	By("helm uninstall in namespace " + s.namespace)
	out, err := run("", "helm", "uninstall", s.release, "--namespace", s.namespace, "--wait", "--timeout", "180s")
	Expect(err).NotTo(HaveOccurred())
	GinkgoWriter.Print(out)
}

// kustomize builds a folder of the repository.
func kustomize(folder string) string {
	GinkgoHelper()
	out, err := run("", "kubectl", "kustomize", filepath.Join(root, folder))
	Expect(err).NotTo(HaveOccurred())
	return out
}
