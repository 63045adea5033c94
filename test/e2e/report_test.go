//go:build e2e

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// maxErrorLines is how many errors the manager may log in one spec: lost races
// and a dstack server that is away for a moment are worth a line, not a flood.
const maxErrorLines = 10

// watchOver shows the state of the site after a spec that failed, and reads what
// the manager has logged after each.
func (s *site) watchOver() {
	var started time.Time
	BeforeEach(func() { started = time.Now() })
	AfterEach(func() {
		if CurrentSpecReport().Failed() {
			out, _ := run("", filepath.Join(root, "hack/e2e"), "diagnose", s.namespace)
			GinkgoWriter.Print(out)
		}
		s.checkManagerLog(started)
	})
}

// checkManagerLog expects no panic, no missing permission and no flood of errors
// in what the managers have logged since a moment, and prints the errors.
func (s *site) checkManagerLog(since time.Time) {
	GinkgoHelper()
	errors := 0
	for _, pod := range s.pods("app.kubernetes.io/component=manager") {
		log, err := s.try("logs", pod.Name, "--since-time="+since.UTC().Format(time.RFC3339))
		if err != nil {
			GinkgoWriter.Printf("no log of %s: %v\n", pod.Name, err)
			continue
		}
		for line := range strings.SplitSeq(log, "\n") {
			lower := strings.ToLower(line)
			Expect(lower).NotTo(ContainSubstring("panic"), "the manager must not panic")
			Expect(lower).NotTo(ContainSubstring("forbidden"), "the manager must have the rights that it uses")
			var entry struct{ Level string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "ERROR" {
				GinkgoWriter.Println("manager: " + line)
				errors++
			}
		}
	}
	Expect(errors).To(BeNumerically("<=", maxErrorLines), "the manager must not flood its log with errors")
}

// expectNoRestarts expects that no container of the operator has ever ended.
func (s *site) expectNoRestarts() {
	GinkgoHelper()
	for _, pod := range s.pods("app.kubernetes.io/name=dstack-isolation") {
		for _, c := range pod.Status.ContainerStatuses {
			Expect(c.RestartCount).To(BeZero(), "container %s of pod %s must not restart", c.Name, pod.Name)
		}
	}
}
