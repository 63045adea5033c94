//go:build e2e

package e2e

import (
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("A server whose manager is gone", Ordered, ContinueOnFailure, Label("variants"), func() {
	s := &site{}
	BeforeAll(func() {
		*s = *ownSite("e2e-orphan", "config/samples/dstack-server")
		s.create()
		s.serve()
	})
	s.watchOver()

	It("is given back by helm uninstall when the manager is scaled to zero", func() {
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		s.kubectl("scale", "deployment", s.release+"-manager", "--replicas=0")
		s.helmUninstall()
		s.expectUninstalled(config)
		p.expectNoRefusal()
	})

	It("is given back by helm uninstall when the manager's Deployment is deleted", func() {
		s.helmInstall()
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		s.deleteManager()
		s.helmUninstall()
		s.expectUninstalled(config)
		p.expectNoRefusal()
	})

	It("is given back by helm uninstall when its DstackServer waits in deletion", func() {
		s.helmInstall()
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		s.deleteManager()
		s.kubectl("delete", "dstackserver", "main", "--wait=false")
		s.expectIsolated()
		s.helmUninstall()
		s.kubectl("wait", "--for=delete", "dstackserver/main", "--timeout=30s")
		s.expectGivenBack("main", config)
		p.expectNoRefusal()
	})

	It("lets its namespace go after the cleanup that is documented for this", func() {
		s.helmInstall()
		s.isolate()
		s.deleteManager()
		_, err := run("", "kubectl", "delete", "namespace", s.namespace, "--wait=false")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() string {
			return s.kubectl("get", "namespace", s.namespace, "-o", `jsonpath={.status.conditions[?(@.type=="NamespaceFinalizersRemaining")].message}`)
		}).WithTimeout(120 * time.Second).WithPolling(time.Second).Should(ContainSubstring("isolation.dstack.ai/release in 1 resource instances"))

		out, err := run("", filepath.Join(root, "bin/dstack-isolation"), "cleanup", "--namespace", s.namespace, "--timeout=60s")
		Expect(err).NotTo(HaveOccurred())
		GinkgoWriter.Print(out)
		_, err = run("", "kubectl", "wait", "--for=delete", "namespace/"+s.namespace, "--timeout=90s")
		Expect(err).NotTo(HaveOccurred())
	})
})

// deleteManager returns when the manager's last pod is gone: one that is still
// stopping would do what nobody is meant to do.
func (s *site) deleteManager() {
	GinkgoHelper()
	s.kubectl("delete", "deployment", s.release+"-manager", "--cascade=foreground", "--timeout=90s")
}
