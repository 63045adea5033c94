package controllers_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// update writes the files of testdata/status anew. Read the diff: it is what
// users will read.
var update = flag.Bool("update", false, "write testdata/status anew")

const goldenDir = "testdata/status"

// goldenEntry names the report entries that tell which file a spec looked at:
// the specs run in several processes.
const goldenEntry = "golden file"

// No file may stay that no spec looks at.
var _ = ReportAfterSuite("golden files", func(r Report) {
	if !r.SuiteSucceeded || r.PreRunStats.SpecsThatWillRun != r.PreRunStats.TotalSpecs {
		return
	}
	used := map[string]bool{}
	for i := range r.SpecReports {
		for _, entry := range r.SpecReports[i].ReportEntries {
			if entry.Name == goldenEntry {
				used[entry.StringRepresentation()] = true
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.txt"))
	Expect(err).NotTo(HaveOccurred())
	for _, f := range files {
		Expect(used).To(HaveKey(f), "no spec looks at this file: delete it")
	}
})

// settingsRevision in a message hangs on tokens, which differ from run to run.
var settingsRevision = regexp.MustCompile(`settings revision [0-9a-f]{8} `)

func expectGolden(name, got string) {
	GinkgoHelper()
	file := filepath.Join(goldenDir, name+".txt")
	AddReportEntry(goldenEntry, file, ReportEntryVisibilityNever)
	if *update {
		Expect(os.MkdirAll(goldenDir, 0o755)).To(Succeed())
		Expect(os.WriteFile(file, []byte(got), 0o644)).To(Succeed())
		return
	}
	want, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	Expect(got).To(Equal(string(want)), "%s", file)
}

// expectStatus compares the whole status of DstackServer main with
// testdata/status/NAME.txt.
func (w *world) expectStatus(name string) {
	GinkgoHelper()
	w.expectStatusOf(w.server(), name)
}

func (w *world) expectStatusOf(s *v1alpha1.DstackServer, name string) {
	GinkgoHelper()
	var b strings.Builder
	for _, line := range w.says(s) {
		fmt.Fprintln(&b, settingsRevision.ReplaceAllString(line, "settings revision SETTINGS "))
	}
	st := s.Status
	fmt.Fprintf(&b, "\nrelease %q, %d profiles, planned network mode %d\n", st.Release, st.Profiles, st.PlannedNetworkMode)
	if r := st.Running; r != nil {
		fmt.Fprintf(&b, "%d pods, %d ask the policy server, network mode %d, deliveries %v\n", r.Pods, r.PolicyPods, r.NetworkMode, r.Deliveries)
	}
	fmt.Fprintf(&b, "policy revision desired %t, served %t\n", st.PolicyRevision.Desired == w.revision(), st.PolicyRevision.Served == w.revision())
	fmt.Fprintf(&b, "settings revision applied %t, proven %t, rejected %t\n",
		st.SettingsRevision.Applied != "", st.SettingsRevision.Proven != "", st.SettingsRevision.Rejected != "")
	if ssh := st.SSHProxy; ssh != nil {
		fmt.Fprintf(&b, "SSH proxy at %q, %d fingerprints, %d lines for known_hosts; %d pods enforce it\n",
			ssh.Address, len(ssh.Fingerprints), len(ssh.KnownHosts), ptr.Deref(st.Running, v1alpha1.RunningSettings{}).SSHEnforcedPods)
	}
	for _, item := range st.Injected {
		fmt.Fprintln(&b, strings.TrimSpace(fmt.Sprintf("%s %s %s", item.State, item.Name, item.Manager)))
	}
	replacer := w.replacer()
	for _, warning := range st.Warnings {
		fmt.Fprintln(&b, "warning: "+replacer.Replace(warning))
	}
	expectGolden(name, b.String())
}

// expectProfile compares the whole status of a profile with
// testdata/status/NAME.txt.
func (w *world) expectProfile(p *v1alpha1.IsolationProfile, name string) {
	GinkgoHelper()
	var b strings.Builder
	for _, line := range w.says(p) {
		fmt.Fprintln(&b, line)
	}
	fmt.Fprintln(&b)
	replacer := w.replacer()
	for _, c := range p.Status.Effective {
		fmt.Fprintf(&b, "%s: asked %s, effective %s because of %q, enforced by %q, %s %s\n",
			c.Control, c.Asked, c.Effective, replacer.Replace(c.BecauseOf), c.EnforcedBy, c.Standing, replacer.Replace(c.Message))
	}
	for _, e := range p.Status.Gained {
		fmt.Fprintf(&b, "gained %s: %s\n", e.Control, replacer.Replace(e.Message))
	}
	for _, e := range p.Status.Lost {
		fmt.Fprintf(&b, "lost %s: %s\n", e.Control, replacer.Replace(e.Message))
	}
	expectGolden(name, b.String())
}
