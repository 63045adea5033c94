//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// The API server is stopped for everybody, so this runs alone.
var _ = Describe("While the API server is away", Ordered, Label("alone"), func() {
	s := &site{}
	BeforeAll(func() {
		*s = *demoSite()
		s.sshProxy = &v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{
			Image: standIn, Address: sshName, TerminationGracePeriodSeconds: 10, Service: v1alpha1.SSHProxyService{Type: v1alpha1.SSHProxyClusterIP},
		}}
		s.serve()
		s.isolate()
	})
	s.watchOver()

	It("for a minute, the server goes on to refuse and to accept, users are let in by the SSH proxy alone, and nothing restarts", func() {
		before := s.restarts()
		Expect(before).To(HaveLen(7), "a manager, two policy servers, three SSH proxies and the server")
		status := s.dstackServer(Default, "main").Status.SSHProxy
		user := newSSHClient(s.service("isolation-ssh-main")+":22", status.Address, status.KnownHosts)
		api := apiServerProcess()
		Expect(api.Signal(syscall.SIGSTOP)).To(Succeed())
		DeferCleanup(func() { _ = api.Signal(syscall.SIGCONT) })
		started := time.Now()
		Consistently(func(g Gomega) {
			status, answer := s.plan(privileged)
			g.Expect(status).To(Equal(http.StatusBadRequest), answer)
			g.Expect(answer).To(ContainSubstring("[isolation rev="))
			status, answer = s.plan(harmless)
			g.Expect(status).To(Equal(http.StatusOK), answer)
			g.Expect(user.login()).To(Succeed())
		}).WithTimeout(time.Minute).WithPolling(500 * time.Millisecond).Should(Succeed())
		Expect(api.Signal(syscall.SIGCONT)).To(Succeed())
		AddReportEntry("API server away", time.Since(started).Round(time.Second).String())

		s.waitReady("main")
		s.expectIsolated()
		Expect(s.told()).To(ConsistOf(sshVariables))
		Consistently(s.restarts).WithTimeout(15 * time.Second).WithPolling(time.Second).Should(Equal(before))
		By("following an edit again")
		s.kubectl("patch", "isolationprofile", "research", "--type=merge", "-p", `{"spec":{"hint":"Ask the platform team."}}`)
		Eventually(func() string { _, answer := s.plan(privileged); return answer }).WithTimeout(soon).Should(ContainSubstring("Ask the platform team."))
		s.kubectl("patch", "isolationprofile", "research", "--type=merge", "-p", `{"spec":{"hint":null}}`)
	})
})

// restarts are the pods of the server and of the operator, with how often their
// containers have started anew.
func (s *site) restarts() map[types.UID]int32 {
	GinkgoHelper()
	found := map[types.UID]int32{}
	for _, selector := range []string{"app=dstack-server", "app.kubernetes.io/name=dstack-isolation"} {
		for _, pod := range s.pods(selector) {
			found[pod.UID] = pod.Status.ContainerStatuses[0].RestartCount
		}
	}
	return found
}

// apiServerProcess is the one of the cluster that hack/cluster/up has started.
func apiServerProcess() *os.Process {
	GinkgoHelper()
	content, err := os.ReadFile("/run/dstack-isolation/pids/kube-apiserver.pid")
	Expect(err).NotTo(HaveOccurred())
	pid, err := strconv.Atoi(strings.Fields(string(content))[0])
	Expect(err).NotTo(HaveOccurred())
	process, err := os.FindProcess(pid)
	Expect(err).NotTo(HaveOccurred())
	return process
}
