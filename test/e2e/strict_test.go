//go:build e2e

package e2e

import (
	"os"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/workload"
)

// bounds are a quota and limits as a platform sets them, under which every pod
// must have requests and limits.
const bounds = `apiVersion: v1
kind: ResourceQuota
metadata: {name: bounds}
spec: {hard: {pods: "20", requests.cpu: "2", requests.memory: 4Gi, limits.cpu: "20", limits.memory: 16Gi}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: bounds}
spec:
  limits:
    - {type: Container, default: {cpu: "1", memory: 1Gi}, defaultRequest: {cpu: 20m, memory: 64Mi}, MIN}
`

// strictConfig is a config.yml in a ConfigMap, with the default permissions that the
// sample asks for, and a line of plugins.
func strictConfig(plugins string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dstack-config}\ndata:\n  config.yml: |\n    projects: []\n" +
		"    default_permissions: {allow_non_admins_create_projects: false}\n    " + plugins + "\n"
}

var _ = Describe("A server in a namespace that is strict about pods", Ordered, ContinueOnFailure, Label("settings"), func() {
	s := &site{}
	bound := func(least string) { s.apply(strings.ReplaceAll(bounds, "MIN", "min: {memory: "+least+"}")) }
	settings := func() string {
		return condition(s.dstackServer(Default, "main").Status.Conditions, v1alpha1.ConditionSettingsApplied)
	}
	isolate := func() {
		GinkgoHelper()
		const workload = "  workload:\n"
		sample := s.sample("dstackserver.yaml")
		Expect(strings.Count(sample, workload)).To(Equal(1))
		s.apply(strings.Replace(sample, workload, "  serverDir: /srv/dstack\n"+workload+"    container: server\n", 1))
		s.apply(s.sample("isolationprofile.yaml"))
	}
	BeforeAll(func() {
		*s = *ownSite("e2e-strict", "test/e2e/testdata/strict")
		s.serverDir = "dstack"
		s.create()
		s.kubectl("label", "namespace", s.namespace, "pod-security.kubernetes.io/enforce=baseline")
		bound("8Mi")
		// A volume of the host takes no group from the pod.
		Expect(os.MkdirAll(s.dataDir, 0o755)).To(Succeed())
		Expect(os.Chown(s.dataDir, 65534, 65534)).To(Succeed())
		s.serve()
	})
	AfterAll(func() {
		for _, args := range [][]string{{"delete", "namespace", s.namespace}, {"delete", "persistentvolume", "e2e-strict"}} {
			_, err := run("", "kubectl", append(args, "--ignore-not-found", "--timeout=180s")...)
			Expect(err).NotTo(HaveOccurred())
		}
	})
	s.watchOver()

	It("has its settings taken back with the API server's words when their first pod is refused", func() {
		bound("48Mi")
		isolate()
		Eventually(settings).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(And(
			HavePrefix("False/InjectionFailed: the settings were taken back and the server runs without them, because their first pod failed: the API server refuses it: "),
			ContainSubstring("minimum memory usage per Container is 48Mi, but request is 32Mi")))
		s.rolledOut()
		s.expectUsersOwn(s.workload())
		s.expectOpen()
		bound("8Mi")
	})

	It("becomes isolated as another user, with the init containers and containers that it has", func() {
		isolate()
		s.kubectl("annotate", "--overwrite", "dstackserver", "main", "isolation.dstack.ai/retry=mended")
		s.waitReady("main")
		s.expectIsolated()
		pod := s.serverPod()
		var order []string
		for _, c := range pod.Spec.InitContainers {
			order = append(order, c.Name)
		}
		Expect(order).To(Equal([]string{"greet", "beside", workload.InjectContainer}))
		for _, c := range pod.Spec.Containers {
			if c.Name == "agent" {
				Expect(c.Env).To(BeEmpty(), "only the server's container is touched")
			}
		}
		live := s.workload()
		mounts := template(live).Spec.Containers[0].VolumeMounts
		for i := range mounts {
			mounts[i].MountPath = strings.Replace(mounts[i].MountPath, "/srv/dstack/", "/root/.dstack/server/", 1)
		}
		takeOut(template(live))
		Expect(cmp.Diff(s.before.spec, givenOf(live).spec)).To(BeEmpty(), "all else must be the user's own (-before +now)")
	})

	It("is given back", func() {
		config := s.configFile()
		s.kubectl("delete", "dstackserver", "main", "--timeout=180s")
		s.expectGivenBack("main", config)
	})

	It("is told which line its own ConfigMap lacks, where that is mounted at exactly config.yml", func() {
		s.apply(strictConfig("plugins: []"))
		s.manifest = strings.NewReplacer(
			"        - mountPath: /srv\n          name: data\n", "        - mountPath: /srv\n          name: data\n        - mountPath: /srv/dstack/config.yml\n          name: config\n          subPath: config.yml\n",
			"      volumes:\n", "      volumes:\n      - configMap:\n          name: dstack-config\n        name: config\n",
		).Replace(s.manifest)
		Expect(s.manifest).To(And(ContainSubstring("subPath: config.yml"), ContainSubstring("name: dstack-config")))
		s.apply(s.manifest)
		s.rolledOut()
		generation := s.workload().GetGeneration()
		isolate()
		Eventually(settings).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(HavePrefix(
			`False/ConfigMountClash: volume "config" is mounted at exactly /srv/dstack/config.yml, where no copy can be put over it: write ` +
				"`plugins: [dstack_isolation]` into key config.yml of ConfigMap dstack-config"))
		Expect(s.workload().GetGeneration()).To(Equal(generation), "the workload must not be written")

		By("writing the line")
		s.apply(strictConfig("plugins: [dstack_isolation]"))
		s.waitReady("main")
		s.expectIsolated()
		Expect(s.serverPod().Spec.Volumes).NotTo(ContainElement(HaveField("Name", "dstack-isolation-config")), "there is no copy")
	})

	It("makes its profile not ready within a minute when its ConfigMap loses the line, and back", func() {
		ready := func() string { return condition(s.profile("research").Status.Conditions, v1alpha1.ConditionReady) }
		s.apply(strictConfig("plugins: [dstack-isolation]"))
		Eventually(ready).WithTimeout(90 * time.Second).WithPolling(time.Second).Should(HavePrefix(
			"False/SettingsNotRunning: the server's config.yml may not name the plugin: see SettingsApplied of DstackServer main"))
		Expect(settings()).To(HavePrefix("False/ConfigMountClash: "))
		s.expectIsolated()
		s.apply(strictConfig("plugins: [dstack_isolation]"))
		s.waitReady("main")
	})

	It("does not start again when its ConfigMap loses the line", func() {
		s.apply(strictConfig("plugins: []"))
		Eventually(settings).WithTimeout(90 * time.Second).WithPolling(time.Second).Should(And(
			HavePrefix("False/ConfigMountClash: "), HaveSuffix(". Until then no new pod of the server starts")))
		s.expectIsolated()
		s.kubectl("delete", "pod", s.serverPod().Name, "--timeout=60s")
		Eventually(func() string { return injectMessage(s.pods("app=dstack-server")) }).WithTimeout(readyTimeout).WithPolling(time.Second).
			Should(ContainSubstring("/isolation/source/config.yml does not name the plugin"))
		status, _ := s.plan(privileged)
		Expect(status).To(BeZero(), "the server must not answer")

		By("writing it again")
		s.apply(strictConfig("plugins: [dstack_isolation]"))
		s.kubectl("delete", "pod", "-l", "app=dstack-server", "--timeout=60s")
		s.waitReady("main")
		s.expectIsolated()
	})

	It("has not made the operator's processes restart", func() {
		s.expectNoRestarts()
	})
})

// injectMessage is what the init container wrote when it ended last; "" for
// nothing.
func injectMessage(pods []corev1.Pod) string {
	for i := range pods {
		for _, status := range pods[i].Status.InitContainerStatuses {
			for _, state := range []corev1.ContainerState{status.State, status.LastTerminationState} {
				if status.Name == workload.InjectContainer && state.Terminated != nil && state.Terminated.Message != "" {
					return state.Terminated.Message
				}
			}
		}
	}
	return ""
}
