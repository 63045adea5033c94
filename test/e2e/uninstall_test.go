//go:build e2e

package e2e

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

func uninstallSpecs(s *site) {
	It("gives everything back on helm uninstall, and isolates again on helm install", func() {
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		s.helmUninstall()
		s.expectUninstalled(config)
		p.expectNoRefusal()

		s.helmInstall()
		s.waitReady("main")
		s.expectIsolated()
	})
}

// expectUninstalled expects nothing of the operator to be left but the
// CustomResourceDefinitions and the user's own objects of them.
func (s *site) expectUninstalled(config string) {
	GinkgoHelper()
	s.expectGivenBack("main", config)
	out := s.kubectl("get", "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,jobs", "-o", "name")
	for name := range strings.FieldsSeq(out) {
		Expect(name).NotTo(ContainSubstring("isolation"), "helm uninstall must leave nothing")
	}
	Expect(s.kubectl("get", "crd", "-o", "name")).To(And(
		ContainSubstring("dstackservers.isolation.dstack.ai"), ContainSubstring("isolationprofiles.isolation.dstack.ai")))
	server := s.dstackServer(Default, "main")
	Expect(server.Finalizers).To(BeEmpty(), "the DstackServer must be free to go")
	Expect(s.profile("research").Name).To(Equal("research"))
	Expect(condition(server.Status.Conditions, v1alpha1.ConditionReady)).NotTo(HavePrefix("True"), "a server that was given back is not ready")
	Expect(condition(s.profile("research").Status.Conditions, v1alpha1.ConditionReady)).NotTo(HavePrefix("True"), "a profile that nothing enforces is not ready")
}
