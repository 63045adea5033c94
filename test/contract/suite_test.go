// Package contract_test holds the operator to what real dstack servers do: it
// starts unmodified ones as processes, one with each delivery of the plugin, and
// a real policy server beside them, and asks them as an ordinary member of a
// project, over HTTP. Nothing leaves this machine's loopback.
package contract_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/format"

	"github.com/dstack-isolation/operator/internal/app"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// releases are the releases of dstack under test, from oldest to newest.
// hack/python/venv installs them, unmodified.
var releases = readReleases()

// dstackRelease is the newest one, on which all is tried.
var dstackRelease = releases[len(releases)-1]

func readReleases() []string {
	const list = "../../hack/python/releases"
	content, err := os.ReadFile(list)
	if err != nil {
		panic(err)
	}
	var all []string
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	if !slices.IsSortedFunc(all, compareReleases) || len(all) == 0 {
		panic(list + ": the releases must be there, from oldest to newest")
	}
	return all
}

func compareReleases(a, b string) int {
	switch {
	case a == b:
		return 0
	case dstack.Older(a, b) == a:
		return -1
	}
	return 1
}

// asOperator makes the test's own binary the operator's: policy server and init
// container run as processes of their own, with the code under test, and with the
// race detector when the test has it.
const asOperator = "CONTRACT_TEST_AS_OPERATOR"

func TestMain(m *testing.M) {
	if os.Getenv(asOperator) != "" {
		os.Exit(app.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	format.TruncatedDiff = false // messages are compared to the letter
	RegisterFailHandler(Fail)
	RunSpecs(t, "Contract with dstack")
}

// servers are what all specs share. A spec that changes the policy, or keeps a
// policy server from answering, restores it.
var servers *world

var _ = BeforeSuite(func(ctx context.Context) {
	venv, err := pythonEnvironment(ctx, dstackRelease)
	Expect(err).NotTo(HaveOccurred())
	servers = newWorld(GinkgoT().TempDir(), venv, allServers...)
	// Registered first, so that what a failed start leaves behind is ended too.
	DeferCleanup(func() { Expect(servers.stop()).To(Succeed()) })
	progress("starting %d dstack servers %s and two policy servers", len(allServers), dstackRelease)
	started := time.Now()
	Expect(servers.start(ctx)).To(Succeed())
	progress("all answer after %s", time.Since(started).Round(time.Second))
}, NodeTimeout(20*time.Minute))

var outputsBefore map[string]int

var _ = BeforeEach(func() { outputsBefore = servers.outputSizes() })

var _ = AfterEach(func() {
	if CurrentSpecReport().Failed() {
		servers.printOutputs(GinkgoWriter, outputsBefore)
	}
})

// pythonEnvironment returns the folder of a virtual environment with dstack. The
// first time it takes minutes, in which pip downloads.
func pythonEnvironment(ctx context.Context, release string) (string, error) {
	progress("preparing Python with dstack %s; the first time this takes a minute or two", release)
	cmd := exec.CommandContext(ctx, "../../hack/python/venv", "dstack", release)
	var said strings.Builder
	cmd.Stderr = io.MultiWriter(os.Stderr, &said)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("hack/python/venv dstack %s: %w; it says:\n%s", release, err, said.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1], nil
}

// progress is for whoever waits: go test shows it at once with -v.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "contract: "+format+"\n", args...)
}
