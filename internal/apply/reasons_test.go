package apply_test

import (
	"context"
	"encoding/json"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
)

// These specs hold what the API server does with what the operator never sends:
// the reasons why the applier is as it is.
var _ = Describe("What the API server does, and why the operator writes as it does:", func() {
	ctx := context.Background()
	const mode = dstack.EnvJobNetworkMode

	// send applies the whole intent at once.
	send := func(s *server, opts ...client.ApplyOption) error {
		GinkgoHelper()
		config := client.ApplyConfigurationFromUnstructured(unpinned(s.intent(s.live())))
		return api.Client.Apply(ctx, config, append(opts, client.FieldOwner(apply.WorkloadManager))...)
	}

	It("a strategic merge patch sees no conflict, and what it has written goes with a renamed container", func() {
		s := newServer(kindDeployment)
		Expect(s.helmApply(s.manifest(env(mode, "2")))).To(Succeed())
		s.setEnv(mode, "3")
		s.setEnv(dstack.EnvPolicyURL, "http://policy")
		Expect(s.value(mode)).To(Equal("3"), "the user's own value is lost, and nobody is told")
		Expect(s.envNames()[0]).To(Equal(dstack.EnvPolicyURL), "the order of the user's list is not kept")

		Expect(s.helmApply(s.manifest(renamed("dstack")))).To(Succeed())
		_, err := s.live().Container("server")
		Expect(err).To(HaveOccurred())
		Expect(s.spec()).NotTo(ContainSubstring(dstack.EnvPolicyURL), "the server is open, and the user's tool has said nothing")
	})

	It("two intents of one manager drop each other's items, and each time all pods are replaced", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		alone := func(name string) manifests.Intent {
			i := s.intent(s.live()).WithoutPlugin()
			i.Settings = []*corev1ac.EnvVarApplyConfiguration{corev1ac.EnvVar().WithName(name).WithValue("1")}
			return i
		}
		for range 2 {
			for _, name := range []string{mode, dstack.EnvForbidDstackInRuns} {
				before := s.live().Meta.Generation
				r, err := s.applier.Settings(ctx, alone(name))
				Expect(err).NotTo(HaveOccurred())
				expectComplete(r)
				Expect(s.envNames()).To(Equal(append(append([]string{}, usersEnv...), name)))
				Expect(s.live().Meta.Generation).To(Equal(before + 1))
			}
		}
	})

	It("an apply to a workload that is not there is refused, also where it names no uid", func() {
		for _, kind := range []v1alpha1.WorkloadKind{kindDeployment, kindStatefulSet} {
			By(string(kind))
			s := newServer(kind)
			s.kubectlApply(s.manifest())
			config := unpinned(s.intent(s.live()))
			Expect(api.Client.Delete(ctx, s.object())).To(Succeed())
			err := api.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(config), client.FieldOwner(apply.WorkloadManager), client.ForceOwnership)
			Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
			Expect(err).To(MatchError(SatisfyAll(ContainSubstring("spec.selector: Required value"), ContainSubstring("containers[0].image: Required value"))))
			Expect(apierrors.IsNotFound(api.Client.Get(ctx, keyOf(s), s.object()))).To(BeTrue())
		}
	})

	It("an apply with one conflict in it is refused as a whole", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest(env(mode, "2")))
		Expect(apierrors.IsConflict(send(s))).To(BeTrue())
		Expect(s.envNames()).To(Equal(append(append([]string{}, usersEnv...), mode)))
		Expect(s.live().Injected()).To(BeNil())
	})

	It("force puts no value over a reference", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest(func(o map[string]any) {
			c := container(o)
			c["env"] = append(c["env"].([]any), map[string]any{"name": mode, "valueFrom": map[string]any{
				"configMapKeyRef": map[string]any{"name": "dstack", "key": "mode"},
			}})
		}))
		err := send(s, client.ForceOwnership)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("valueFrom: Invalid value: \"\": may not be specified when `value` is not empty")))
	})

	It("force makes one of a name that stands twice in the user's list", func() {
		s := newServer(kindDeployment)
		Expect(api.Client.Create(ctx, s.manifest(env(mode, "1"), env(mode, "2")))).To(Succeed())
		Expect(send(s, client.ForceOwnership)).To(Succeed())
		Expect(s.envNames()).To(ConsistOf(both()))
	})
})

// unpinned is the configuration of an intent without what ties it to the object
// that was read.
func unpinned(i manifests.Intent) *unstructured.Unstructured {
	GinkgoHelper()
	body, err := json.Marshal(i.Config())
	Expect(err).NotTo(HaveOccurred())
	o := &unstructured.Unstructured{}
	Expect(o.UnmarshalJSON(body)).To(Succeed())
	o.SetUID("")
	o.SetResourceVersion("")
	return o
}
