//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// userConfig is a config.yml as a user writes it: comments, odd indentation, and
// a list of plugins that dstack reads and that cannot be added to by machine.
const (
	userConfig = "# of the platform team\nprojects:\n- name: main\n  backends: []   # none yet\n\nencryption:\n    keys: []\n"
	oddConfig  = userConfig + "plugins: &plugins []\n"
)

// probing is how often a prober asks while a server is given back.
const probing = 200 * time.Millisecond

func releaseSpecs(s *site) {
	It("gives the server back when its DstackServer is deleted", func() {
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		s.kubectl("delete", "dstackserver", "main", "--cascade=background", "--timeout=180s")
		s.expectGivenBack("main", config)
		p.expectNoRefusal()
		Expect(condition(s.profile("research").Status.Conditions, v1alpha1.ConditionReady)).To(HavePrefix("False/ServerNotFound"))
	})

	It("takes the settings back when the first pod with them fails", func() {
		s.releaseAll()
		By("writing a config.yml that dstack reads and the operator cannot add to")
		before := s.configFile()
		s.writeConfigFile(oddConfig)
		DeferCleanup(func() {
			if s.configFile() == oddConfig {
				s.writeConfigFile(before)
			}
		})
		s.applySamples()
		Eventually(func() string {
			return condition(s.dstackServer(Default, "main").Status.Conditions, v1alpha1.ConditionStalled)
		}).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(And(
			HavePrefix("True/InjectionFailed: the settings were taken back and the server runs without them"),
			ContainSubstring("plugins is written in a way that cannot be added to by machine: write it as a plain list, or add dstack_isolation to it yourself. Nothing was changed"),
			ContainSubstring("kubectl -n %s annotate --overwrite dstackserver main isolation.dstack.ai/retry=", s.namespace)))
		s.rolledOut()
		s.expectUsersOwn(s.workload())
		s.expectOpen()
		Expect(s.configFile()).To(Equal(oddConfig), "the user's config.yml must be as it was")

		By("not trying again by itself")
		generation := s.workload().GetGeneration()
		Consistently(func() int64 { return s.workload().GetGeneration() }).WithTimeout(10 * time.Second).WithPolling(time.Second).Should(Equal(generation))

		By("mending config.yml and trying again")
		s.writeConfigFile(userConfig)
		s.kubectl("annotate", "--overwrite", "dstackserver", "main", "isolation.dstack.ai/retry=mended")
		s.waitReady("main")
		s.expectIsolated()
		Expect(s.configFile()).To(Equal(userConfig), "the user's config.yml must be as it was")
	})

	It("changes the delivery, and gives the server back when its DstackServer is deleted in the foreground", func() {
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		By("changing to delivery REST, which has no token")
		s.deliver(v1alpha1.DeliveryREST)
		s.waitReady("main")
		s.expectIsolated()
		Expect(s.askWithoutToken()).To(Equal(http.StatusOK))
		By("changing back to delivery Python")
		s.deliver(v1alpha1.DeliveryPython)
		s.waitReady("main")
		s.expectIsolated()
		Eventually(s.askWithoutToken).WithTimeout(soon).Should(Equal(http.StatusUnauthorized))

		By("deleting it")
		s.kubectl("delete", "dstackserver", "main", "--cascade=foreground", "--timeout=180s")
		s.expectGivenBack("main", config)
		p.expectNoRefusal()
	})

	It("becomes ready although the manager is killed again and again", func() {
		s.releaseAll()
		s.applySamples()
		By("killing the manager when the policy servers are under way")
		Eventually(func() []string { return s.children("main") }).WithTimeout(soon).WithPolling(50 * time.Millisecond).
			Should(ContainElement("deployment.apps/isolation-policy-main"))
		s.killManager()
		By("killing the manager when the server has just been told")
		Eventually(func() bool { return len(template(s.workload()).Spec.InitContainers) > 0 }).
			WithTimeout(readyTimeout).WithPolling(50 * time.Millisecond).Should(BeTrue())
		s.killManager()
		s.waitReady("main")
		s.expectIsolated()
		By("killing the manager when the server is given back")
		s.kubectl("delete", "dstackserver", "main", "--wait=false")
		s.killManager()
		s.kubectl("wait", "--for=delete", "dstackserver/main", "--timeout=180s")
		s.expectGivenBack("main", s.configFile())
	})

	It("gives the server back while injection is Disabled", func() {
		s.isolate()
		config, p := s.configFile(), s.probe(probing)
		s.kubectl("patch", "dstackserver", "main", "--type=merge", "-p", `{"spec":{"injection":"Disabled"}}`)
		DeferCleanup(func() {
			s.kubectl("patch", "dstackserver", "main", "--type=merge", "-p", `{"spec":{"injection":"Enabled"}}`)
		})
		Eventually(func() string {
			return condition(s.dstackServer(Default, "main").Status.Conditions, v1alpha1.ConditionSettingsApplied)
		}).WithTimeout(releaseTimeout).Should(HavePrefix("False/Disabled: spec.injection is Disabled: all settings were given back"))
		s.expectGivenBack("main", config)
		Expect(condition(s.profile("research").Status.Conditions, v1alpha1.ConditionProgrammed)).To(HavePrefix("False/Disabled"))

		By("setting it to Enabled again")
		s.kubectl("patch", "dstackserver", "main", "--type=merge", "-p", `{"spec":{"injection":"Enabled"}}`)
		s.waitReady("main")
		p.expectNoRefusal()
		s.expectIsolated()
		Expect(s.configFile()).To(Equal(config))
	})

	It("lets a DstackServer go whose server is scaled to zero", func() {
		s.isolate()
		config := s.configFile()
		s.kubectl("scale", "deployment", "dstack-server", "--replicas=0")
		DeferCleanup(func() { s.kubectl("scale", "deployment", "dstack-server", "--replicas=1") })
		Eventually(func() int { return len(s.pods("app=dstack-server")) }).WithTimeout(60 * time.Second).Should(BeZero())
		s.kubectl("delete", "dstackserver", "main", "--timeout=60s")
		s.kubectl("scale", "deployment", "dstack-server", "--replicas=1")
		s.expectGivenBack("main", config)
	})

	It("lets the next DstackServer of the workload take over", func() {
		s.isolate()
		second := strings.Replace(s.sample("dstackserver.yaml"), "name: main", "name: second", 1)
		s.apply(second)
		DeferCleanup(func() { s.kubectl("delete", "dstackserver", "second", "--ignore-not-found", "--timeout=180s") })
		Eventually(func() string {
			return condition(s.dstackServer(Default, "second").Status.Conditions, v1alpha1.ConditionAccepted)
		}).WithTimeout(soon).Should(Equal("False/WorkloadClaimed: Deployment dstack-server belongs to DstackServer main, which is older: delete one of the two"))
		s.expectIsolated()
		Expect(s.children("second")).To(BeEmpty())

		By("deleting the first")
		config, p := s.configFile(), s.probe(probing)
		s.kubectl("delete", "dstackserver", "main", "--timeout=180s")
		s.waitReady("second")
		s.rolledOut()
		s.expectNoChildren("main")
		Expect(s.children("second")).NotTo(BeEmpty())
		p.expectNoRefusal()

		By("deleting the second, which gives back all")
		s.kubectl("delete", "dstackserver", "second", "--timeout=180s")
		s.expectGivenBack("second", config)
	})

	It("makes a config.yml where there is none, and leaves all others alone", func() {
		s.releaseAll()
		s.kubectl("scale", "deployment", "dstack-server", "--replicas=0")
		DeferCleanup(func() { s.kubectl("scale", "deployment", "dstack-server", "--replicas=1") })
		Eventually(func() int { return len(s.pods("app=dstack-server")) }).WithTimeout(60 * time.Second).Should(BeZero())
		Expect(os.Remove(s.configPath())).To(Succeed())
		s.applySamples()
		Eventually(func() int { return len(template(s.workload()).Spec.InitContainers) }).WithTimeout(readyTimeout).Should(Equal(1),
			"a server with no pods must be told too")
		s.kubectl("scale", "deployment", "dstack-server", "--replicas=1")
		s.waitReady("main")
		s.expectIsolated()
		Expect(s.configFile()).NotTo(ContainSubstring("dstack_isolation"), "the plugin must only be named in the merged copy")
		Expect(s.configFile()).To(ContainSubstring("projects: []"))
	})
}

// killManager ends the manager as kill -9 does; its kubelet starts it anew.
func (s *site) killManager() {
	GinkgoHelper()
	var killed int
	Eventually(func() int {
		killed += s.kill("manager")
		return killed
	}).WithTimeout(soon).WithPolling(100*time.Millisecond).Should(BeNumerically(">", 0), "a manager must run")
	DeferCleanup(func() {
		// Its restarts are not those of a manager that failed.
		s.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=manager", "--timeout=60s")
		s.scaledTo(s.release+"-manager", 1)
	})
}

// kill kills the processes of the operator that run a subcommand in the namespace,
// which the node of the cluster, this machine, sees as its own.
func (s *site) kill(subcommand string) (killed int) {
	GinkgoHelper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	Expect(err).NotTo(HaveOccurred())
	for _, process := range processes {
		command, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(process, "environ"))
		args := strings.Split(string(command), "\x00")
		ours := len(args) > 1 && filepath.Base(args[0]) == "dstack-isolation" && args[1] == subcommand
		if !ours || !slices.Contains(strings.Split(string(environ), "\x00"), "POD_NAMESPACE="+s.namespace) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(process))
		Expect(err).NotTo(HaveOccurred())
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// deliver changes how the plugin gets into the server.
func (s *site) deliver(delivery v1alpha1.Delivery) {
	GinkgoHelper()
	s.kubectl("patch", "dstackserver", "main", "--type=merge", "-p", `{"spec":{"policyPlugin":{"delivery":"`+string(delivery)+`"}}}`)
}
