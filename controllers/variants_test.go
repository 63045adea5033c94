package controllers_test

import (
	"context"

	"github.com/google/go-cmp/cmp/cmpopts"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// variant is a server as somebody may run it.
type variant struct {
	server *testkit.Server
	pod    *testkit.ServerPod
	// source is the argument by which the init container finds config.yml; "" for
	// none.
	source string
	// mount is the init container's mount of it.
	mount corev1.VolumeMount
	// user is whom the init container runs as; nil for whom the image says.
	user *int64
}

func home(m corev1.VolumeMount) *testkit.ServerPod {
	m.Name = "home"
	return testkit.MakeServerPod().Volume("home", corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "home"},
	}).Mount(m)
}

// initContainers are three of the user's own: one that runs beside the server, one
// that writes config.yml and one that does not.
func initContainers(t *corev1.PodTemplateSpec) {
	t.Spec.InitContainers = []corev1.Container{
		{Name: "logs", Image: "logs:1", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)},
		{Name: "render", Image: "render:1", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/out"}}},
		{Name: "wait", Image: "wait:1"},
	}
}

func variants() map[string]variant {
	main := func() *testkit.Server { return testkit.MakeServer("main") }
	root := ptr.To[int64](0)
	inHome := func(sub string, readOnly bool) corev1.VolumeMount {
		return corev1.VolumeMount{Name: "home", MountPath: "/isolation/source", SubPath: sub, ReadOnly: readOnly}
	}
	data := corev1.VolumeMount{Name: "data", MountPath: "/isolation/source"}
	return map[string]variant{
		"a volume at the server's directory": {main(), testkit.MakeServerPod().Data(), "config.yml", data, root},
		"a volume above it":                  {main(), home(corev1.VolumeMount{MountPath: "/root"}), ".dstack/server/config.yml", inHome("", false), root},
		"a volume with a subPath":            {main(), home(corev1.VolumeMount{MountPath: "/root/.dstack", SubPath: "a/b"}), "server/config.yml", inHome("a/b", false), root},
		"a directory mounted read-only": {main(), home(corev1.VolumeMount{MountPath: "/root/.dstack/server", ReadOnly: true}).
			EnvFromSecret(dstack.EnvDatabaseURL, "dstack", "url"), "config.yml", inHome("", true), root},
		"no volume": {main(), testkit.MakeServerPod().EnvFromSecret(dstack.EnvDatabaseURL, "dstack", "url"), "", corev1.VolumeMount{}, root},
		"another user": {main(), testkit.MakeServerPod().Data().With(func(t *corev1.PodTemplateSpec) {
			t.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), RunAsGroup: ptr.To[int64](1000), FSGroup: ptr.To[int64](2000), RunAsNonRoot: ptr.To(true)}
		}).Env(dstack.EnvServerDir, "/root/.dstack/server"), "config.yml", data, ptr.To[int64](1000)},
		"a user of the container's own": {main(), testkit.MakeServerPod().Data().WithServer(func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr.To[int64](1001)}
		}).Env(dstack.EnvServerDir, "/root/.dstack/server"), "config.yml", data, ptr.To[int64](1001)},
		"a user that only the image knows": {main(), testkit.MakeServerPod().Data().With(func(t *corev1.PodTemplateSpec) {
			t.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}
		}), "config.yml", data, nil},
		"several init containers": {main(), testkit.MakeServerPod().Data().With(initContainers), "config.yml", data, root},
		"several containers":      {main().Container("server"), testkit.MakeServerPod().Data().Sidecar("agent").Sidecar("proxy"), "config.yml", data, root},
		"another directory": {main().ServerDir("/srv/dstack"), testkit.MakeServerPod().Env(dstack.EnvServerDir, "/srv/dstack").
			Volume("data", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}).
			Mount(corev1.VolumeMount{Name: "data", MountPath: "/srv"}), "dstack/config.yml", data, root},
	}
}

// check looks at what was put into the user's pods, and that all else is theirs.
func (v variant) check(before, now corev1.PodTemplateSpec, dir string) {
	GinkgoHelper()
	spec := now.Spec
	ours := spec.InitContainers[len(spec.InitContainers)-1]
	Expect(ours.Name).To(Equal(workload.InjectContainer), "it runs after all that may write config.yml")
	Expect(spec.InitContainers[:len(spec.InitContainers)-1]).To(BeComparableTo(before.Spec.InitContainers, cmpopts.EquateEmpty()))
	Expect(ours.SecurityContext.RunAsUser).To(Equal(v.user))
	if v.source == "" {
		Expect(ours.Args).NotTo(ContainElement(HavePrefix("--source=")))
		Expect(ours.VolumeMounts).To(HaveLen(1))
	} else {
		Expect(ours.Args).To(ContainElement("--source=/isolation/source/" + v.source))
		Expect(ours.VolumeMounts).To(ContainElement(v.mount))
	}
	Expect(spec.Containers[0].VolumeMounts).To(ContainElement(corev1.VolumeMount{
		Name: manifests.ConfigVolume, MountPath: dir + "/config.yml", SubPath: "config.yml", ReadOnly: true,
	}))
	Expect(spec.Containers[1:]).To(BeComparableTo(before.Spec.Containers[1:], cmpopts.EquateEmpty()), "only the server's container is touched")
	Expect(spec.SecurityContext).To(Equal(before.Spec.SecurityContext))
}

var _ = Describe("A workload as it comes", func() {
	for name := range variants() {
		It("as a Deployment: "+name, func() {
			v := variants()[name]
			w := stock(v.server, v.pod)
			before := w.template()
			w.inject()
			v.check(before, w.template(), manifests.ServerDir(w.server()))
			w.roll("dstack-server-0")
			w.settle()
			Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
			change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
			w.pass()
			Expect(w.template()).To(Equal(before), "what is given back is the user's own")
		})

		It("as a StatefulSet: "+name, func() {
			v := variants()[name]
			w := newWorld(v.server.Workload(v1alpha1.WorkloadStatefulSet, testkit.WorkloadName).Obj(), v.pod.StatefulSet(testkit.WorkloadName))
			before := w.template()
			w.inject()
			v.check(before, w.template(), manifests.ServerDir(w.server()))
			change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
			w.pass()
			Expect(w.template()).To(Equal(before), "what is given back is the user's own")
		})
	}
})

// Where the API server puts it depends on how it is applied, and is not ours to
// choose: our own apply names our own init container only.
var _ = Describe("An init container that the user adds later", func() {
	ctx := context.Background()
	order := func(w *world) []string {
		GinkgoHelper()
		var names []string
		for _, c := range w.template().Spec.InitContainers {
			names = append(names, c.Name)
		}
		return names
	}

	It("by a client-side apply comes before the operator's", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().With(func(t *corev1.PodTemplateSpec) {
			t.Spec.InitContainers = []corev1.Container{{Name: "render", Image: "render:1"}}
		}))
		w.inject()
		Expect(order(w)).To(Equal([]string{"render", workload.InjectContainer}))
		Expect(api.Client.Patch(ctx, w.deployment(), client.RawPatch(types.StrategicMergePatchType, []byte(
			`{"spec":{"template":{"spec":{"$setElementOrder/initContainers":[{"name":"render"},{"name":"later"}],"initContainers":[{"name":"later","image":"later:1"}]}}}}`,
		)))).To(Succeed())
		Expect(order(w)).To(Equal([]string{"render", "later", workload.InjectContainer}))
	})

	It("by a server-side apply comes behind it, which status says where it matters", func() {
		w := usual()
		apply := func(mount string, names ...string) {
			GinkgoHelper()
			spec := corev1ac.PodSpec()
			for _, name := range names {
				c := corev1ac.Container().WithName(name).WithImage(name + ":1")
				if name == mount {
					c.WithVolumeMounts(corev1ac.VolumeMount().WithName("data").WithMountPath("/out"))
				}
				spec.WithInitContainers(c)
			}
			d := appsv1ac.Deployment(testkit.WorkloadName, w.ns).WithSpec(appsv1ac.DeploymentSpec().WithTemplate(corev1ac.PodTemplateSpec().WithSpec(spec)))
			Expect(api.Client.Apply(ctx, d, client.FieldOwner("argocd"))).To(Succeed())
		}
		apply("render", "render")
		w.inject()
		Expect(order(w)).To(Equal([]string{"render", workload.InjectContainer}))

		apply("render", "render", "later")
		w.pass()
		Expect(order(w)).To(Equal([]string{"render", workload.InjectContainer, "later"}))
		Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("init container")), "it mounts nothing of the server's")

		apply("later", "render", "later")
		w.pass()
		Expect(w.server().Status.Warnings).To(ContainElement(
			`init container later can write to volume "data" after dstack-isolation-inject has read config.yml from it, so what it writes there counts for nothing or is not checked: set spec.injection to Disabled and to Enabled again, which puts the operator's last`))

		By("doing what it says")
		for _, injection := range []v1alpha1.Injection{v1alpha1.InjectionDisabled, v1alpha1.InjectionEnabled} {
			change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = injection })
			w.pass()
		}
		Expect(order(w)).To(Equal([]string{"render", "later", workload.InjectContainer}))
		w.pass()
		Expect(w.server().Status.Warnings).NotTo(ContainElement(ContainSubstring("init container")))
	})
})
