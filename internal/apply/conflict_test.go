package apply_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

const (
	kubectlApply = "kubectl-client-side-apply"
	kubectlSet   = "kubectl-set"
)

func field(name string) string {
	return `.spec.template.spec.containers[name="server"].env[name="` + name + `"]`
}

var _ = Describe("A conflict with another manager", func() {
	ctx := context.Background()
	const mode = dstack.EnvJobNetworkMode

	// settings applies once and expects an outcome.
	settings := func(s *server) apply.Result {
		GinkgoHelper()
		r, err := s.applier.Settings(ctx, s.intent(s.live()))
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Invalid).To(BeEmpty())
		return r
	}
	// without is the list of our variables but one, after the user's.
	without := func(name string, before ...string) []string {
		names := append(append([]string{}, usersEnv...), before...)
		for _, n := range ourEnv {
			if n != name {
				names = append(names, n)
			}
		}
		return names
	}

	Context("about a variable that works alone", func() {
		It("leaves out exactly that variable", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(env(mode, "2")))
			r := settings(s)
			Expect(r.Complete).To(BeFalse())
			Expect(r.Plugin).To(BeTrue())
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{Field: field(mode) + ".value", Item: mode, Manager: kubectlApply}}))
			Expect(r.Conflicts[0].String()).To(Equal("DSTACK_SERVER_JOB_NETWORK_MODE is set by kubectl-client-side-apply"))
			Expect(r.Items[0]).To(Equal(v1alpha1.InjectedItem{Name: mode, State: v1alpha1.InjectedConflict, Manager: kubectlApply}))
			Expect(r.Items[1:]).To(HaveEach(HaveField("State", v1alpha1.InjectedApplied)))
			Expect(s.envNames()).To(Equal(without(mode, mode)))
			Expect(s.value(mode)).To(Equal("2"))
			Expect(s.live().Injected()).NotTo(BeNil())

			By("nothing is written while it lasts")
			before := s.live().Meta.ResourceVersion
			settings(s)
			Expect(s.live().Meta.ResourceVersion).To(Equal(before))

			By("the variable is set once the user has removed it")
			s.kubectlApply(s.manifest())
			expectComplete(s.settle())
			Expect(s.value(mode)).To(Equal("3"))
		})

		It("names every manager, and leaves out only that variable, when several set it", func() {
			s := newServer(kindDeployment)
			Expect(s.applyAs("argocd", s.manifest(env(mode, "2")))).To(Succeed())
			Expect(s.applyAs("helm", s.manifest(env(mode, "2")))).To(Succeed())
			r := settings(s)
			Expect(r.Conflicts).To(ConsistOf(
				apply.Conflict{Field: field(mode) + ".value", Item: mode, Manager: "argocd"},
				apply.Conflict{Field: field(mode) + ".value", Item: mode, Manager: "helm"},
			))
			Expect(s.envNames()).To(Equal(without(mode, mode)))
			Expect(s.live().Injected()).NotTo(BeNil(), "the plugin does not depend on the network mode")
		})

		It("gives way to a value that somebody sets over ours", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			s.settle()
			s.setEnv(mode, "2")
			r := settings(s)
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{Field: field(mode) + ".value", Item: mode, Manager: kubectlSet}}))
			Expect(s.value(mode)).To(Equal("2"))
			Expect(s.envNames()).To(Equal(both()))

			By("nothing is written while it lasts")
			before := s.live().Meta.ResourceVersion
			settings(s)
			Expect(s.live().Meta.ResourceVersion).To(Equal(before))

			By("the variable is set once somebody has removed it")
			s.unsetEnv(mode)
			expectComplete(s.settle())
			Expect(s.value(mode)).To(Equal("3"))
		})

		It("is seen where one sets a value and the other a reference, which force would not solve", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(func(o map[string]any) {
				c := container(o)
				c["env"] = append(c["env"].([]any), map[string]any{"name": mode, "valueFrom": map[string]any{
					"configMapKeyRef": map[string]any{"name": "dstack", "key": "mode"},
				}})
			}))
			r := settings(s)
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{
				Field: field(mode), Item: mode, Manager: kubectlApply, Message: "one sets a value and the other a reference",
			}}))
			Expect(r.Conflicts[0].String()).To(Equal(
				"DSTACK_SERVER_JOB_NETWORK_MODE is set by kubectl-client-side-apply (one sets a value and the other a reference)"))
			Expect(s.live().Injected()).NotTo(BeNil())
		})

		It("is seen where the name stands twice", func() {
			s := newServer(kindDeployment)
			Expect(api.Client.Create(ctx, s.manifest(env(mode, "1"), env(mode, "2")))).To(Succeed())
			r := settings(s)
			Expect(r.Conflicts).To(HaveLen(1), "one message for one name")
			Expect(r.Conflicts[0].Item).To(Equal(mode))
			Expect(r.Conflicts[0].Message).To(Equal("the name stands more than once in the list: remove all but one"))
			Expect(s.envNames()).To(Equal(without(mode, mode, mode)), "none of the user's copies is collapsed")
		})
	})

	Context("about a part of the plugin", func() {
		It("keeps all of the plugin out of a server that has none of it, and sets what works alone", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(env(dstack.EnvPythonPath, "/plugins")))
			r := settings(s)
			Expect(r.Plugin).To(BeFalse())
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{
				Field: field(dstack.EnvPythonPath) + ".value", Item: dstack.EnvPythonPath, Manager: kubectlApply,
			}}))
			Expect(r.Items).To(Equal([]v1alpha1.InjectedItem{
				{Name: mode, State: v1alpha1.InjectedApplied},
				{Name: dstack.EnvPolicyURL, State: v1alpha1.InjectedWithheld},
				{Name: dstack.EnvServer, State: v1alpha1.InjectedWithheld},
				{Name: dstack.EnvToken, State: v1alpha1.InjectedWithheld},
				{Name: dstack.EnvPythonPath, State: v1alpha1.InjectedConflict, Manager: kubectlApply},
				{Name: "volume " + manifests.ConfigVolume, State: v1alpha1.InjectedWithheld},
				{Name: "volume " + manifests.PluginVolume, State: v1alpha1.InjectedWithheld},
				{Name: "initContainer " + workload.InjectContainer, State: v1alpha1.InjectedWithheld},
			}))
			Expect(s.envNames()).To(Equal(append(append([]string{}, usersEnv...), dstack.EnvPythonPath, mode)))
			Expect(s.live().Injected()).To(BeNil())
			Expect(s.live().Template.Spec.Volumes).To(HaveLen(1))
		})

		It("writes nothing when that is all there is", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(env(dstack.EnvPythonPath, "/plugins")))
			before := s.live()
			i := s.intent(before)
			i.Settings = nil
			r, err := s.applier.Settings(ctx, i)
			Expect(err).NotTo(HaveOccurred())
			Expect(r.Items).NotTo(ContainElement(HaveField("State", v1alpha1.InjectedApplied)))
			Expect(s.live().Meta.ResourceVersion).To(Equal(before.Meta.ResourceVersion))
			Expect(*s.sent).To(Equal(applies{all: 1, dry: 1}), "the API server was only asked")
		})

		It("gives back what was set alone when nothing is to be set any more", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(env(dstack.EnvPythonPath, "/plugins")))
			settings(s)
			Expect(s.envNames()).To(ContainElement(mode))
			i := s.intent(s.live())
			i.Settings = nil
			_, err := s.applier.Settings(ctx, i)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.envNames()).To(Equal(append(append([]string{}, usersEnv...), dstack.EnvPythonPath)))
			Expect(apply.Owns(s.live())).To(BeFalse())
		})

		It("accepts a PYTHONPATH of the user's that contains the plugin's folder", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(env(dstack.EnvPythonPath, "/plugins:"+manifests.PluginDir)))
			expectComplete(s.settle())
			Expect(s.value(dstack.EnvPythonPath)).To(Equal("/plugins:" + manifests.PluginDir))
			Expect(ownedBy(s.live(), apply.WorkloadManager)).NotTo(ContainElement(ContainSubstring(dstack.EnvPythonPath)))
			Expect(s.live().Injected()).NotTo(BeNil())
		})

		It("writes nothing to a server that has the plugin, since leaving it out would open the server", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			s.settle()
			s.setEnv(dstack.EnvPolicyURL, "http://elsewhere")
			before, names := s.live().Meta.ResourceVersion, s.envNames()
			*s.sent = applies{}
			r := settings(s)
			Expect(r.Complete).To(BeFalse())
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{
				Field: field(dstack.EnvPolicyURL) + ".value", Item: dstack.EnvPolicyURL, Manager: kubectlSet,
			}}))
			Expect(s.sent.written()).To(BeZero())
			Expect(s.live().Meta.ResourceVersion).To(Equal(before))
			Expect(s.envNames()).To(Equal(names))
			Expect(s.live().Injected()).NotTo(BeNil())
		})

		It("names who put a literal value over a reference of ours", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			s.settle()
			s.setEnv(dstack.EnvToken, "my-own")
			before := s.live().Meta.ResourceVersion
			r := settings(s)
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{
				Field: field(dstack.EnvToken), Item: dstack.EnvToken, Manager: kubectlSet,
				Message: "one sets a value and the other a reference",
			}}))
			Expect(s.live().Meta.ResourceVersion).To(Equal(before))
		})

		It("is about a field when it is not about a variable", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(func(o map[string]any) {
				c := container(o)
				c["volumeMounts"] = append(c["volumeMounts"].([]any), map[string]any{"name": "data", "mountPath": manifests.PluginDir})
			}))
			r := settings(s)
			const path = `.spec.template.spec.containers[name="server"].volumeMounts[mountPath="/opt/dstack-isolation"].name`
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{Field: path, Item: path, Manager: kubectlApply}}))
			Expect(r.Conflicts[0].String()).To(Equal(path + " is set by kubectl-client-side-apply"))
			Expect(s.live().Injected()).To(BeNil())
		})
	})

	Describe("over the label of the server's pods", func() {
		const label = ".spec.template.metadata.labels.isolation.dstack.ai/server-pod"
		labelled := func(value string) func(map[string]any) {
			return func(o map[string]any) {
				Expect(unstructured.SetNestedField(o, value, "spec", "template", "metadata", "labels", workload.LabelServerPod)).To(Succeed())
			}
		}

		It("writes nothing where a manifest has another value", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(labelled("other")))
			before := s.live().Meta.ResourceVersion
			r := settings(s)
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{Field: label, Item: label, Manager: kubectlApply}}))
			Expect(r.Items).NotTo(ContainElement(HaveField("State", v1alpha1.InjectedApplied)))
			Expect(s.live().Meta.ResourceVersion).To(Equal(before))
		})

		It("is none where a manifest has the same", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(labelled("main")))
			expectComplete(s.settle())
			_, err := s.applier.Release(ctx, s.live())
			Expect(err).NotTo(HaveOccurred())
			Expect(s.live().Template.Labels).To(HaveKeyWithValue(workload.LabelServerPod, "main"))
		})

		rollBack := func(s *server) {
			GinkgoHelper()
			patch := `{"spec":{"template":{"metadata":{"annotations":{"isolation.dstack.ai/settings":"01d00000"},"labels":{"isolation.dstack.ai/server-pod":"earlier"}}}}}`
			Expect(api.Client.Patch(ctx, s.object(), client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("kubectl"))).To(Succeed())
		}

		It("is undone where a rollback has put another one there", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			s.settle()
			rollBack(s)
			expectComplete(s.settle())
			Expect(s.live().Template.Labels).To(HaveKeyWithValue(workload.LabelServerPod, "main"))
		})

		It("leaves none of a rollback behind when all is given back", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			before := s.live().Template.Labels
			s.settle()
			rollBack(s)
			_, err := s.applier.Release(ctx, s.live())
			Expect(err).NotTo(HaveOccurred())
			Expect(s.live().Template.Labels).To(Equal(before))
		})
	})

	It("leaves out one variable and keeps the plugin out when both kinds clash", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest(env(mode, "2"), env(dstack.EnvPythonPath, "/plugins")))
		before := s.live().Meta.ResourceVersion
		r := settings(s)
		Expect(r.Conflicts).To(HaveLen(2))
		Expect(r.Items).NotTo(ContainElement(HaveField("State", v1alpha1.InjectedApplied)))
		Expect(s.live().Meta.ResourceVersion).To(Equal(before))
	})
})
