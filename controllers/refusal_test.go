package controllers_test

import (
	"context"
	"errors"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// acknowledge accepts the loss of the database.
func acknowledge(s *v1alpha1.DstackServer) {
	s.Annotations = map[string]string{v1alpha1.AnnotationAcknowledgeDataLoss: "true"}
}

var _ = Describe("A workload that must not be written", func() {
	// refused goes as far as it can get and expects that nothing was written.
	refused := func(w *world) {
		GinkgoHelper()
		before := w.deployment().Generation
		w.pass()
		if strings.HasPrefix(w.condition("Accepted"), "Accepted=True ") {
			w.policyServersUp()
			w.pass()
		}
		Expect(w.deployment().Generation).To(Equal(before))
		Expect(w.injected()).To(BeFalse())
		settled := w.versions()
		w.pass()
		Expect(w.versions()).To(Equal(settled), "and a further pass writes nothing")
	}

	DescribeTable("is left alone, and status says why and what to do",
		func(golden string, server *testkit.Server, pod *testkit.ServerPod, more ...client.Object) {
			w := stock(server, pod, more...)
			refused(w)
			w.expectStatus(golden)
		},
		Entry("the database is on no volume", "would-lose-database",
			testkit.MakeServer("main"), testkit.MakeServerPod()),
		Entry("the database is on an emptyDir", "would-lose-database-emptydir",
			testkit.MakeServer("main"), testkit.MakeServerPod().
				Volume("data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}).
				Mount(corev1.VolumeMount{Name: "data", MountPath: "/root/.dstack"})),
		Entry("the database is on no volume, and the object of envFrom names no other", "would-lose-database",
			testkit.MakeServer("main"), testkit.MakeServerPod().EnvFrom("settings"),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"DSTACK_DATABASE": "x"}}),
		Entry("the database is on no volume, and the object of envFrom is not there", "would-lose-database",
			testkit.MakeServer("main"), testkit.MakeServerPod().EnvFrom("missing")),
		Entry("the server reads no config.yml", "config-disabled",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().Env(dstack.EnvConfigDisabled, "")),
		Entry("the mount cannot be repeated", "sub-path-expr",
			testkit.MakeServer("main"), testkit.MakeServerPod().Env("WHERE", "x").
				Volume("data", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}}).
				Mount(corev1.VolumeMount{Name: "data", MountPath: "/root/.dstack/server", SubPathExpr: "$(WHERE)"})),
		Entry("the server reads no config.yml, for a key of another object", "config-disabled-hidden",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFrom("settings"),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{dstack.EnvConfigDisabled: ""}}),
		Entry("the path of Python comes from another object", "python-path-hidden",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFrom("settings"),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{dstack.EnvPythonPath: "/plugins"}}),
		Entry("the server's directory comes from another object", "server-dir-hidden",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFrom("settings"),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{dstack.EnvServerDir: "/srv"}}),
		Entry("specs would go through a proxy", "proxy-in-the-way",
			testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST), testkit.MakeServerPod().Data().Env("HTTP_PROXY", "http://proxy:3128")),
		Entry("the server's directory is another one", "server-dir",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().Env(dstack.EnvServerDir, "/data/dstack")),
		Entry("the server's directory cannot be known", "server-dir-unknown",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFromSecret(dstack.EnvServerDir, "dstack", "dir")),
		Entry("the server has another home", "server-dir-home",
			testkit.MakeServer("main"), testkit.MakeServerPod().Env("HOME", "/data").EnvFromSecret(dstack.EnvDatabaseURL, "dstack", "url").
				Volume("home", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}).
				Mount(corev1.VolumeMount{Name: "home", MountPath: "/data"})),
		Entry("the server is another user than root", "server-dir-user",
			testkit.MakeServer("main"), testkit.MakeServerPod().EnvFromSecret(dstack.EnvDatabaseURL, "dstack", "url").
				With(func(t *corev1.PodTemplateSpec) {
					t.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), RunAsNonRoot: ptr.To(true)}
				})),
		Entry("the server's command gives it another directory", "server-dir-command",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().WithServer(func(c *corev1.Container) {
				c.Command = []string{"sh", "-c", "export DSTACK_SERVER_DIR=/data/dstack; exec dstack server --host 0.0.0.0"}
			})),
		Entry("the server's home comes from another object", "server-dir-home-hidden",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFrom("settings"),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"HOME": "/data"}}),
		Entry("Python ignores its path", "python-ignores-path",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().WithServer(func(c *corev1.Container) {
				c.Command, c.Args = []string{"python", "-E"}, []string{"/usr/local/bin/dstack", "server", "--host", "0.0.0.0"}
			})),
		Entry("there is no such container", "container-missing",
			testkit.MakeServer("main").Container("dstack"), testkit.MakeServerPod().Data()),
		Entry("there are several containers", "container-ambiguous",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().Sidecar("agent")),
		Entry("a part of the plugin is somebody else's", "plugin-conflict",
			testkit.MakeServer("main"), testkit.MakeServerPod().Data().Env(dstack.EnvPythonPath, "/plugins")),
		Entry("the API server refuses the result", "invalid-workload",
			testkit.MakeServer("main").Container("server"), testkit.MakeServerPod().Data().Sidecar("dstack-isolation-inject")),
	)

	It("is written once the loss of the database is acknowledged", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod())
		refused(w)
		change(w, w.server(), acknowledge)
		w.pass()
		Expect(w.injected()).To(BeTrue())
		w.roll("dstack-server-0")
		w.settle()
		w.expectStatus("ready-without-volume")
	})

	It("is written at once where an external database is named", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().EnvFromSecret(dstack.EnvDatabaseURL, "dstack", "url"))
		w.bringUp()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("is written at once where an external database is named by envFrom, behind a prefix", func() {
		pod := testkit.MakeServerPod().WithServer(func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{
				Prefix: "DSTACK_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "dstack"}},
			}}
		})
		w := stock(testkit.MakeServer("main"), pod, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "dstack"}, StringData: map[string]string{"DATABASE_URL": "postgresql://dstack:hunter2@db/dstack"},
		})
		w.bringUp()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "), "and the operator does not ask for the key to be removed")
		Expect(specAndStatus(w.server())).NotTo(ContainSubstring("hunter2"))
	})

	It("is written at once where a proxy is not used for the policy server", func() {
		w := stock(testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST),
			testkit.MakeServerPod().Data().Env("HTTP_PROXY", "http://proxy:3128").Env("NO_PROXY", "localhost,.svc"))
		w.bringUp()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("does not exist, and then does", func() {
		w := newWorld(testkit.MakeServer("main").Obj())
		w.pass()
		w.expectStatus("workload-missing")
		w.create(testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName))
		w.startPod("dstack-server-0")
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.bringUp()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("vanishes later", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		Expect(api.Client.Delete(context.Background(), w.deployment())).To(Succeed())
		w.pass()
		w.expectStatus("workload-vanished")
		w.expectProfile(w.profile("research"), "profile-workload-vanished")
	})
})

var _ = Describe("A container that the user renames", func() {
	It("is missed, and served under its new name once the spec names that", func() {
		w := stock(testkit.MakeServer("main").Container("server"), testkit.MakeServerPod().Data())
		w.bringUp()
		// As a client-side apply does it: the item goes, and ours in it.
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			c.Name, c.Env, c.VolumeMounts = "dstack", nil, c.VolumeMounts[:1]
		})
		w.pass()
		w.expectStatus("container-renamed")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Workload.Container = "dstack" })
		w.pass()
		Expect(w.env(dstack.EnvToken).Set).To(BeTrue())
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})
})

var _ = Describe("A conflict about the network mode", func() {
	It("leaves out that variable, and says so until it is solved", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().Env(dstack.EnvJobNetworkMode, "2"),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.inject()
		w.roll("dstack-server-0")
		w.settle()
		w.expectStatus("network-mode-conflict")
		w.expectProfile(w.profile("research"), "profile-network-mode-conflict")
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("2"))

		By("the settings have worked, which the init container must know")
		Expect(get(w, manifests.StateName("main"), &corev1.ConfigMap{}).Data).To(HaveKey(manifests.ProvenKey))

		By("the user removes the variable")
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			c.Env = c.Env[1:]
		})
		w.pass()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})

	It("does not keep a first injection that fails", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().Env(dstack.EnvJobNetworkMode, "2"),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.inject()
		w.failInit("dstack-server-0")
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False InjectionFailed: "))
	})
})

var _ = Describe("A variable that comes by envFrom", func() {
	settings := func(data map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: data}
	}

	It("and that the operator decides about keeps the server from being called isolated, until it is gone", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFrom("settings"),
			settings(map[string]string{dstack.EnvJobNetworkMode: "2", "OTHER": "x"}),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False SettingHidden: container server takes DSTACK_SERVER_JOB_NETWORK_MODE from " +
			"key DSTACK_SERVER_JOB_NETWORK_MODE of ConfigMap settings by envFrom, and the operator decides about it: remove the key"))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True SettingHidden"))
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"), "what is set in the container wins meanwhile")

		By("the key is gone")
		change(w, get(w, "settings", &corev1.ConfigMap{}), func(c *corev1.ConfigMap) { delete(c.Data, dstack.EnvJobNetworkMode) })
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "), "what is set in the container has won all the time")

		By("a key of a variable that the container does not set comes and goes, and the pod that started with it runs on, also for another manager")
		change(w, get(w, "settings", &corev1.ConfigMap{}), func(c *corev1.ConfigMap) { c.Data[dstack.EnvServerSSHProxyEnforced] = "1" })
		w.roll("dstack-server-0")
		w.settle()
		w.nextSecond()
		change(w, get(w, "settings", &corev1.ConfigMap{}), func(c *corev1.ConfigMap) { delete(c.Data, dstack.EnvServerSSHProxyEnforced) })
		w.settle()
		const still = "SettingsApplied=False SettingHidden: a server pod may have started while DSTACK_SERVER_SSHPROXY_ENFORCED came from " +
			"key DSTACK_SERVER_SSHPROXY_ENFORCED of ConfigMap settings by envFrom: restart the pods (kubectl -n NS rollout restart deployment/dstack-server)"
		Expect(w.condition("SettingsApplied")).To(Equal(still))
		w.restart()
		w.settle()
		Expect(w.condition("SettingsApplied")).To(Equal(still))

		By("the pod was restarted")
		w.nextSecond()
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		Expect(w.server().Status.HiddenVariables).To(BeEmpty())
	})

	It("is found in a Secret too, behind a prefix, and its value is told to nobody", func() {
		pod := testkit.MakeServerPod().Data().WithServer(func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{
				{Prefix: "DSTACK_SERVER_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "hidden"}}},
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "missing"}}},
			}
		})
		w := stock(testkit.MakeServer("main"), pod, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "hidden"}, StringData: map[string]string{"SSHPROXY_ENFORCED": "hunter2"},
		})
		w.bringUp()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False SettingHidden: container server takes DSTACK_SERVER_SSHPROXY_ENFORCED from " +
			"key SSHPROXY_ENFORCED of Secret hidden by envFrom, and the operator decides about it: remove the key"))
	})

	It("and keeps the server from reading config.yml takes Ready from the profiles too", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFrom("settings"), settings(map[string]string{"OTHER": "x"}),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
		change(w, get(w, "settings", &corev1.ConfigMap{}), func(c *corev1.ConfigMap) { c.Data[dstack.EnvConfigDisabled] = "0" })
		w.pass()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=False ConfigDisabled: "))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(Equal("Ready=False SettingsNotRunning: " +
			"the server is told to read no config.yml, so it may load no plugin: see SettingsApplied of DstackServer main"))

		By("a pod starts with it, and then it is gone")
		w.roll("dstack-server-0")
		w.pass()
		w.nextSecond()
		change(w, get(w, "settings", &corev1.ConfigMap{}), func(c *corev1.ConfigMap) { delete(c.Data, dstack.EnvConfigDisabled) })
		w.settle()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False ConfigDisabled: a server pod may have started while DSTACK_SERVER_CONFIG_DISABLED came from " +
			"key DSTACK_SERVER_CONFIG_DISABLED of ConfigMap settings by envFrom, and have loaded no plugin: restart the pods (kubectl -n NS rollout restart deployment/dstack-server)"))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=False SettingsNotRunning: "))

		By("neither a rollout, which is the reason now, nor a request that fails clears that")
		w.rollingOut()
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False RolloutInProgress: "))
		const doubted = "Programmed=False SettingsNotRunning: the server is told to read no config.yml, so it may load no plugin: see SettingsApplied of DstackServer main"
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal(doubted))
		Expect(w.condition("UnmatchedProjectsCovered")).To(HavePrefix("UnmatchedProjectsCovered=False SettingsNotRunning: "))
		live := w.config.Live
		w.config.Live = interceptor.NewClient(api.Client, interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if key.Name == "settings" {
					return errors.New("etcd is away")
				}
				return c.Get(ctx, key, o, opts...)
			},
		})
		w.restart()
		Expect(w.try("main")).To(MatchError(ContainSubstring("etcd is away")))
		w.passProfiles()
		Expect(w.server().Status.Doubts).To(HaveExactElements(HaveField("Reason", v1alpha1.SettingsDoubtReason(v1alpha1.ReasonConfigDisabled))))
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(HavePrefix("Programmed=False "))
		w.config.Live = live
		w.restart()
		w.settle()
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal(doubted))

		By("its pod is restarted")
		w.nextSecond()
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.server().Status.Doubts).To(BeEmpty())
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
	})

	It("and is the path of Python is nothing to the plugin that is dstack's own", func() {
		w := stock(testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST), testkit.MakeServerPod().Data().EnvFrom("settings"),
			settings(map[string]string{dstack.EnvPythonPath: "/plugins"}))
		w.bringUp()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
	})
})
