package controllers_test

import (
	"context"
	"errors"
	"strings"
	"time"

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

const (
	configPath = "/root/.dstack/server/config.yml"
	// notNamed has what must never be told, and namedBoth what it should be.
	notNamed  = "projects: []\nencryption: {keys: [{type: aes, name: key1, secret: hunter2}]}\nplugins: [their_plugin]\n"
	namedBoth = "projects: []\nencryption: {keys: [{type: aes, name: key1, secret: hunter2}]}\nplugins: [their_plugin, dstack_isolation]\n"
)

// mountedAt is a server with a volume at exactly config.yml.
func mountedAt(source corev1.VolumeSource, subPath string) *testkit.ServerPod {
	return testkit.MakeServerPod().Data().Volume("config", source).
		Mount(corev1.VolumeMount{Name: "config", MountPath: configPath, SubPath: subPath})
}

func ofConfigMap() corev1.VolumeSource {
	return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "dstack-config"}}}
}

func ofSecret() corev1.VolumeSource {
	return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "dstack-config", Items: []corev1.KeyToPath{{Key: "server", Path: "config.yml"}}}}
}

func ofClaim() corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "dstack-config"}}
}

func configMap(content string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dstack-config"}, Data: map[string]string{"config.yml": content}}
}

func configSecret(content string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "dstack-config"}, Data: map[string][]byte{"server": []byte(content)}}
}

// later lets the manager look again after the time for which it relies on what it
// has read.
func (w *world) later() {
	GinkgoHelper()
	w.clock.SetTime(w.clock.Now().Add(time.Minute))
	w.pass()
}

var _ = Describe("A config.yml that a volume is mounted at as a whole", func() {
	ctx := context.Background()
	// lacking goes as far as it can get and expects that nothing was written.
	lacking := func(server *testkit.Server, pod *testkit.ServerPod, more ...client.Object) *world {
		GinkgoHelper()
		w := stock(server, pod, more...)
		before := w.deployment().Generation
		w.pass()
		w.policyServersUp()
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before))
		Expect(w.injected()).To(BeFalse())
		Expect(specAndStatus(w.server())).NotTo(ContainSubstring("hunter2"))
		return w
	}

	DescribeTable("is not enough, and status says which lines to write where", func(want string, server *testkit.Server, pod *testkit.ServerPod, more ...client.Object) {
		w := lacking(server, pod, more...)
		Expect(w.condition("SettingsApplied")).To(Equal(`SettingsApplied=False ConfigMountClash: volume "config" is mounted at exactly /root/.dstack/server/config.yml, where no copy can be put over it` + want))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True ConfigMountClash: "))
		Expect(w.result.RequeueAfter).To(Equal(time.Minute), "neither is watched")
	},
		Entry("of a ConfigMap", ": write `plugins: [their_plugin, dstack_isolation]` into key config.yml of ConfigMap dstack-config, and the file is used as it is",
			testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap(notNamed)),
		Entry("of a ConfigMap, for rest_plugin", ": write `plugins: [their_plugin, dstack_isolation, rest_plugin]` into key config.yml of ConfigMap dstack-config, and the file is used as it is",
			testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST), mountedAt(ofConfigMap(), "config.yml"), configMap(namedBoth)),
		Entry("of a Secret, of which nothing is told", ": write `plugins: [those that it has, dstack_isolation]` into key server of Secret dstack-config, and the file is used as it is",
			testkit.MakeServer("main"), mountedAt(ofSecret(), "config.yml"), configSecret(notNamed)),
		Entry("of a ConfigMap that is not there", ", and there is no ConfigMap dstack-config with key config.yml: make it with the lines `projects: []` and `plugins: [dstack_isolation]`",
			testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml")),
		Entry("of a Secret without the key", ", and there is no Secret dstack-config with key server: make it with the lines `projects: []` and `plugins: [dstack_isolation]`",
			testkit.MakeServer("main"), mountedAt(ofSecret(), "config.yml"), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "dstack-config"}}),
		Entry("that dstack would not start with", ", and key config.yml of ConfigMap dstack-config cannot be used: line 2: it is not valid YAML: an alias (*name) refers to no anchor; a text that begins with * must be in quotes",
			testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap("plugins: [dstack_isolation]\npassword: *hunter2\n")),
		Entry("that is empty", ", and key config.yml of ConfigMap dstack-config cannot be used: it is empty, and dstack does not start with an empty one: write `projects: []` into it, which changes no project",
			testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap("")),
		Entry("that is a folder", ", and is mounted without subPath, so config.yml is a folder there: set subPath to the file's path in the volume, such as config.yml",
			testkit.MakeServer("main"), mountedAt(ofConfigMap(), ""), configMap(namedBoth)),
		Entry("of a volume that the operator cannot read", ", and the operator cannot read what is in a volume of kind persistentVolumeClaim: mount it at the directory /root/.dstack/server instead. "+
			"Or see that the file's list plugins has dstack_isolation, and say so: kubectl -n NS annotate dstackserver main isolation.dstack.ai/config-names-plugin=true. The pods check it when they start",
			testkit.MakeServer("main"), mountedAt(ofClaim(), "config.yml")),
	)

	It("is recognised once the line is there, and checked at each start of a pod", func() {
		w := lacking(testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap(notNamed))
		w.expectStatus("config-mount-clash")

		By("the line is written; what was read counts for a minute")
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = namedBoth })
		w.pass()
		Expect(w.injected()).To(BeFalse())
		w.later()
		Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))

		By("all but the copy is in the workload")
		spec := w.template().Spec
		c, init := spec.Containers[0], spec.InitContainers[0]
		Expect(c.VolumeMounts).To(ContainElement(corev1.VolumeMount{Name: "config", MountPath: configPath, SubPath: "config.yml"}), "the user's own mount")
		Expect(spec.Volumes).NotTo(ContainElement(HaveField("Name", manifests.ConfigVolume)))
		Expect(c.VolumeMounts).To(ContainElement(HaveField("Name", manifests.PluginVolume)))
		Expect(w.env(dstack.EnvPythonPath).Value).To(Equal(manifests.PluginDir))
		Expect(init.Args).To(ContainElement("--check=/isolation/source/config.yml"))
		Expect(init.VolumeMounts).To(Equal([]corev1.VolumeMount{{Name: "config", MountPath: "/isolation/source/config.yml", SubPath: "config.yml", ReadOnly: true}}))

		By("its pods count")
		w.roll("dstack-server-0")
		w.settle()
		w.expectStatus("ready-config-mounted")
		before := w.versions()
		w.later()
		Expect(w.versions()).To(Equal(before))

		By("the line goes again: nothing is taken out of the workload, whose next pod would not start")
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = notNamed })
		generation := w.deployment().Generation
		w.later()
		Expect(w.deployment().Generation).To(Equal(generation))
		w.expectStatus("config-mount-clash-later")

		By("the volume is mounted at the directory's own instead: there is a copy again")
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			c.VolumeMounts = withoutMount(c.VolumeMounts, configPath)
		})
		w.pass()
		Expect(w.template().Spec.InitContainers[0].Args).To(ContainElement("--source=/isolation/source/config.yml"))
		Expect(w.template().Spec.Volumes).To(ContainElement(HaveField("Name", manifests.ConfigVolume)))

		By("it is given back")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
		w.pass()
		Expect(w.injected()).To(BeFalse())
	})

	for kind, mounted := range map[string]struct {
		pod  *testkit.ServerPod
		file func(string) client.Object
		edit func(w *world, content string)
	}{
		"ConfigMap": {mountedAt(ofConfigMap(), "config.yml"), func(content string) client.Object { return configMap(content) }, func(w *world, content string) {
			change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = content })
		}},
		"Secret": {mountedAt(ofSecret(), "config.yml"), func(content string) client.Object { return configSecret(content) }, func(w *world, content string) {
			change(w, secretIn(w, "dstack-config"), func(s *corev1.Secret) { s.Data["server"] = []byte(content) })
		}},
	} {
		It("of a "+kind+" that loses its line makes profiles not Ready within a minute, and back", func() {
			w := stock(testkit.MakeServer("main"), mounted.pod, mounted.file(namedBoth), testkit.MakeProfile("research").AllowHostSSH().Obj())
			w.bringUp()
			Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))

			By("its line is misspelt")
			mounted.edit(w, strings.ReplaceAll(namedBoth, "dstack_isolation", "dstack-isolation"))
			w.later()
			const why = "the server's config.yml may not name the plugin: see SettingsApplied of DstackServer main"
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False ConfigMountClash: "))
			Expect(w.conditionOf(w.profile("research"), "Ready")).To(Equal("Ready=False SettingsNotRunning: " + why))
			Expect(w.condition("UnmatchedProjectsCovered")).To(Equal("UnmatchedProjectsCovered=False SettingsNotRunning: " + why))

			By("it is written as it was")
			mounted.edit(w, namedBoth)
			w.later()
			w.settle()
			Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
			Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
		})
	}

	It("that got its line back is not believed for a container that started without", func() {
		w := stock(testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap(namedBoth), testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = notNamed })
		w.later()
		pod := get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.ContainerStatuses[0].RestartCount = 1
		pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(w.clock.Now())
		w.setStatus(pod)
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = namedBoth })
		w.later()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False ConfigMountClash: container server of pod dstack-server-0 restarted while /root/.dstack/server/config.yml may not have named the plugin: restart the pods (kubectl -n NS rollout restart deployment/dstack-server)"))
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=False SettingsNotRunning: "))
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
	})

	It("that lost its line is remembered over failed reads, other reasons and restarts of the manager", func() {
		w := stock(testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap(namedBoth), testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		broken := false
		w.config.Live = interceptor.NewClient(api.Client, interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if broken && key.Name == "dstack-config" {
					return errors.New("etcd is away")
				}
				return c.Get(ctx, key, o, opts...)
			},
		})
		w.restart()
		w.later()
		failing := func() {
			GinkgoHelper()
			broken = true
			w.clock.SetTime(w.clock.Now().Add(time.Minute))
			Expect(w.try("main")).To(MatchError(ContainSubstring("etcd is away")))
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=Unknown ReconcileError: "))
			w.passProfiles()
			broken = false
		}
		const doubted = "Programmed=False SettingsNotRunning: the server's config.yml may not name the plugin: see SettingsApplied of DstackServer main"

		By("one read that fails says nothing against a file that was right")
		failing()
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(HavePrefix("Programmed=True "))

		By("the line goes, and the container restarts")
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = notNamed })
		w.later()
		pod := get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.ContainerStatuses[0].RestartCount = 1
		pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(w.clock.Now().Add(time.Second))
		w.setStatus(pod)
		for range 8 {
			w.later()
		}
		failing()
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal(doubted))
		w.restart()

		By("the line is back")
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = namedBoth })
		for range 20 {
			w.later()
		}
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False ConfigMountClash: container server of pod dstack-server-0 restarted while "))
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal(doubted))
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))

		By("a restart before its node has the line again counts too")
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = notNamed })
		w.later()
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = namedBoth })
		w.later()
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "), "it has not restarted")
		pod = get(w, "dstack-server-0", &corev1.Pod{})
		pod.Status.ContainerStatuses[0].RestartCount = 1
		pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(w.clock.Now().Add(90 * time.Second))
		w.setStatus(pod)
		w.later()
		w.later()
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal(doubted))
		w.roll("dstack-server-0")
		for range 20 {
			w.later()
		}
		Expect(w.server().Status.ConfigFileGap).To(BeNil())
		Expect(w.server().Status.Doubts).To(BeEmpty())

		By("a file that cannot be read for long is not believed")
		for range 5 {
			failing()
		}
		Expect(w.conditionOf(w.profile("research"), "Programmed")).To(Equal(doubted))
		w.later()
		w.settle()
		Expect(w.conditionOf(w.profile("research"), "Ready")).To(HavePrefix("Ready=True "))
	})

	It("of a Secret is read by name, with nothing of it told", func() {
		w := lacking(testkit.MakeServer("main"), mountedAt(ofSecret(), "config.yml"), configSecret(notNamed))
		var secret corev1.Secret
		Expect(api.Client.Get(ctx, w.key("dstack-config"), &secret)).To(Succeed())
		change(w, &secret, func(s *corev1.Secret) { s.Data["server"], s.Immutable = []byte(namedBoth), ptr.To(true) })
		w.later()
		Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
		Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("immutable")), "it cannot change under a pod")
		Expect(specAndStatus(w.server())).NotTo(Or(ContainSubstring("hunter2"), ContainSubstring("their_plugin")))
		Expect(strings.Join(w.events(), "\n")).NotTo(Or(ContainSubstring("hunter2"), ContainSubstring("their_plugin")))
	})

	It("of a volume that cannot be read is left to the pods, when the user says so", func() {
		w := lacking(testkit.MakeServer("main"), mountedAt(ofClaim(), "config.yml"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Annotations = map[string]string{v1alpha1.AnnotationConfigNamesPlugin: "true"}
		})
		w.pass()
		Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
		By("the user was wrong")
		w.failInit("dstack-server-0")
		w.pass()
		Expect(w.injected()).To(BeFalse())
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False InjectionFailed: "))
	})

	It("of another object counts at once", func() {
		w := lacking(testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap(notNamed))
		named := configMap(namedBoth)
		named.Name = "dstack-config-2"
		w.create(named)
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			volumes := d.Spec.Template.Spec.Volumes
			volumes[len(volumes)-1].ConfigMap.Name = named.Name
		})
		w.pass()
		Expect(w.injected()).To(BeTrue(), w.condition("SettingsApplied"))
	})

	It("is read at most once a minute, and an error of the API server is not taken for an answer", func() {
		w := lacking(testkit.MakeServer("main"), mountedAt(ofConfigMap(), "config.yml"), configMap(namedBoth+"# a line more\nplugins: []\n"))
		reads, broken := 0, true
		w.config.Live = interceptor.NewClient(api.Client, interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if key.Name == "dstack-config" {
					reads++
					if broken {
						return errors.New("etcd is away")
					}
				}
				return c.Get(ctx, key, o, opts...)
			},
		})
		w.restart()
		Expect(w.try("main")).To(MatchError("read ConfigMap dstack-config with config.yml: etcd is away"))
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=Unknown ReconcileError: read ConfigMap dstack-config with config.yml: etcd is away"))
		Expect(w.injected()).To(BeFalse())
		broken = false
		for range 3 {
			w.pass()
		}
		Expect(reads).To(Equal(2))
		w.later()
		Expect(reads).To(Equal(3))
	})

	It("is asked for in the user's own manifest too", func() {
		w := lacking(testkit.MakeServer("main").Injection(v1alpha1.InjectionManual), mountedAt(ofConfigMap(), "config.yml"), configMap(notNamed))
		Expect(w.condition("SettingsApplied")).To(ContainSubstring("write `plugins: [their_plugin, dstack_isolation]` into key config.yml of ConfigMap dstack-config"))
		change(w, configIn(w), func(c *corev1.ConfigMap) { c.Data["config.yml"] = namedBoth })
		w.later()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False ManualStepNeeded: "))
		Expect(w.server().Status.ManualPatch).To(ContainSubstring("--check=/isolation/source/config.yml"))
	})

	It("of a StatefulSet is served the same", func() {
		w := newWorld(
			testkit.MakeServer("main").Workload(v1alpha1.WorkloadStatefulSet, testkit.WorkloadName).Obj(),
			testkit.MakeServerPod().ClaimTemplate("data").
				Mount(corev1.VolumeMount{Name: "data", MountPath: "/root/.dstack/server"}).
				Volume("config", ofConfigMap()).Mount(corev1.VolumeMount{Name: "config", MountPath: configPath, SubPath: "config.yml"}).
				StatefulSet(testkit.WorkloadName), configMap(namedBoth))
		w.startStateful()
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.inject()
		Expect(w.template().Spec.InitContainers[0].Args).To(ContainElement("--check=/isolation/source/config.yml"))
		w.end("dstack-server-0")
		w.startStateful()
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})
})

func configIn(w *world) *corev1.ConfigMap {
	GinkgoHelper()
	return get(w, "dstack-config", &corev1.ConfigMap{})
}

func withoutMount(mounts []corev1.VolumeMount, at string) []corev1.VolumeMount {
	var out []corev1.VolumeMount
	for _, m := range mounts {
		if m.MountPath != at {
			out = append(out, m)
		}
	}
	return out
}
