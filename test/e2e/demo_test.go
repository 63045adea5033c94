//go:build e2e

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
)

var _ = Describe("A server in a Deployment", Ordered, ContinueOnFailure, Label("demo"), func() {
	s := &site{}
	BeforeAll(func() {
		*s = *demoSite()
		s.helmInstall()
		// The demo has an SSH proxy, and may have had the other delivery.
		if _, err := s.try("get", "dstackserver", "main"); err == nil {
			s.releaseAll()
		}
		s.serve()
		s.isolate()
	})
	s.watchOver()

	idleSpecs(s)
	kubectlSpecs(s)
	workloadSpecs(s)
	configSpecs(s)
	profileSpecs(s)
	policyServerSpecs(s)
	releaseSpecs(s)
	uninstallSpecs(s)

	It("has not made the operator's processes restart", func() {
		s.expectNoRestarts()
	})
})
