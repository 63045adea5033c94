//go:build e2e

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func idleSpecs(s *site) {
	It("writes nothing during an idle minute", func() {
		s.isolate()
		before := s.settledVersions()
		writes := map[string]int{"PATCH": 0, "POST": 0, "DELETE": 0, "PUT": 0}
		for method := range writes {
			writes[method] = s.requests(method)
		}
		started := time.Now()
		Consistently(func() []string { return changed(before, s.versions()) }).
			WithTimeout(time.Minute).WithPolling(5*time.Second).Should(BeEmpty(), "no object may change")
		for _, method := range []string{"PATCH", "POST", "DELETE"} {
			Expect(s.requests(method)).To(Equal(writes[method]), "%s requests of the manager during an idle minute", method)
		}
		// The lease of the leader is renewed every two seconds.
		renewals := s.requests("PUT") - writes["PUT"]
		Expect(renewals).To(BeNumerically("<=", int(time.Since(started)/(2*time.Second))+2), "PUT requests beyond the renewals of the lease")
		AddReportEntry("idle minute", "no object changed; requests of the manager: no PATCH, POST or DELETE")
	})

	It("changes nothing in a second reconcile", func() {
		s.isolate()
		before := s.settledVersions()
		passes := s.metric("controller_runtime_reconcile_total", `controller="dstackserver"`)
		s.kubectl("annotate", "dstackserver", "main", "example.com/touched=yes")
		DeferCleanup(func() { s.kubectl("annotate", "dstackserver", "main", "example.com/touched-") })
		Eventually(func() int { return s.metric("controller_runtime_reconcile_total", `controller="dstackserver"`) }).
			WithTimeout(soon).Should(BeNumerically(">", passes), "the annotation must wake the reconciler")
		Consistently(func() []string { return changed(before, s.versions()) }).
			WithTimeout(5*time.Second).WithPolling(time.Second).Should(Equal([]string{"DstackServer/main"}), "only the touched object may change")
	})
}
