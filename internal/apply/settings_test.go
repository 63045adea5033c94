package apply_test

import (
	"context"
	"errors"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

const (
	kindDeployment  = v1alpha1.WorkloadDeployment
	kindStatefulSet = v1alpha1.WorkloadStatefulSet
)

var (
	usersEnv = []string{"TZ", "DSTACK_SERVER_ADMIN_TOKEN"}
	ourEnv   = []string{dstack.EnvJobNetworkMode, dstack.EnvPolicyURL, dstack.EnvServer, dstack.EnvToken, dstack.EnvPythonPath}
)

func both() []string { return append(append([]string{}, usersEnv...), ourEnv...) }

var _ = Describe("Settings in the user's workload", func() {
	ctx := context.Background()

	for _, kind := range []v1alpha1.WorkloadKind{kindDeployment, kindStatefulSet} {
		Describe("a "+string(kind), func() {
			It("gets our items after the user's own, and we own those alone", func() {
				s := newServer(kind)
				s.kubectlApply(s.manifest())
				r, err := s.applier.Settings(ctx, s.intent(s.live()))
				Expect(err).NotTo(HaveOccurred())
				expectComplete(r)
				Expect(r.Items).To(HaveEach(HaveField("State", v1alpha1.InjectedApplied)))
				Expect(s.envNames()).To(Equal(both()))
				Expect(ownedBy(s.live(), apply.WorkloadManager)).To(HaveEach(BeOneOfOurs()))
				Expect(apply.Owns(s.live())).To(BeTrue())
			})

			It("is not written when nothing changes", func() {
				s := newServer(kind)
				s.kubectlApply(s.manifest())
				s.settle()
				before := s.live().Meta
				*s.sent = applies{}
				r := s.settle()
				expectComplete(r)
				Expect(r.Items).To(HaveLen(len(ourEnv)+3), "the remembered result tells of every item too")
				Expect(*s.sent).To(Equal(applies{}), "an idle pass sends nothing")
				Expect(s.live().Meta.ResourceVersion).To(Equal(before.ResourceVersion))

				By("another process, which remembers nothing, applies once more and changes nothing")
				sent := &applies{}
				_, err := apply.New(counting(sent)).Settings(ctx, s.intent(s.live()))
				Expect(err).NotTo(HaveOccurred())
				Expect(*sent).To(Equal(applies{all: 2, dry: 1}))
				Expect(s.live().Meta.ResourceVersion).To(Equal(before.ResourceVersion))
				Expect(s.live().Meta.Generation).To(Equal(before.Generation))
			})

			It("has exactly the user's spec again after a release", func() {
				s := newServer(kind)
				s.kubectlApply(s.manifest())
				before := s.spec()
				s.settle()
				Expect(s.spec()).NotTo(Equal(before))
				released, err := s.applier.Release(ctx, s.live())
				Expect(err).NotTo(HaveOccurred())
				Expect(released).To(BeTrue())
				Expect(s.spec()).To(Equal(before))
				Expect(apply.Owns(s.live())).To(BeFalse())

				By("a second release has nothing to do")
				*s.sent = applies{}
				released, err = s.applier.Release(ctx, s.live())
				Expect(err).NotTo(HaveOccurred())
				Expect(released).To(BeFalse())
				Expect(*s.sent).To(Equal(applies{}))

				By("settings can be applied again")
				expectComplete(s.settle())
				Expect(s.envNames()).To(Equal(both()))
			})

			It("cannot have its container renamed by server-side apply until it is released", func() {
				s := newServer(kind)
				Expect(s.helmApply(s.manifest())).To(Succeed())
				s.settle()
				err := s.helmApply(s.manifest(renamed("dstack")))
				Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
				Expect(err).To(MatchError(ContainSubstring("spec.template.spec.containers[0].image: Required value")))
				_, err = s.applier.Release(ctx, s.live())
				Expect(err).NotTo(HaveOccurred())
				Expect(s.helmApply(s.manifest(renamed("dstack")))).To(Succeed())
			})
		})
	}

	It("stays when the user applies another image", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		s.settle()
		s.kubectlApply(s.manifest(image("dstack-server:0.22.6")))
		Expect(s.serverContainer().Image).To(Equal("dstack-server:0.22.6"))
		Expect(s.envNames()).To(Equal(both()))
	})

	It("shares a variable that the user sets to the same value, and leaves it at the release", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest(env(dstack.EnvJobNetworkMode, "3")))
		before := s.spec()
		expectComplete(s.settle())
		_, err := s.applier.Release(ctx, s.live())
		Expect(err).NotTo(HaveOccurred())
		Expect(s.spec()).To(Equal(before))
	})

	It("comes back after the user has replaced the object", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		s.settle()
		Expect(api.Client.Update(ctx, s.manifest())).To(Succeed())
		Expect(s.envNames()).To(Equal(usersEnv))
		expectComplete(s.settle())
		Expect(s.envNames()).To(Equal(both()))
	})

	It("is added beside names that stand twice in the user's list", func() {
		s := newServer(kindDeployment)
		Expect(api.Client.Create(ctx, s.manifest(env("TWICE", "1"), env("TWICE", "2")))).To(Succeed())
		expectComplete(s.settle())
		Expect(s.envNames()).To(Equal(append(append([]string{}, usersEnv...), append([]string{"TWICE", "TWICE"}, ourEnv...)...)))
	})

	It("is refused with a cause when the API server finds the result invalid", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest(func(o map[string]any) {
			spec := o["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
			sidecar := spec["containers"].([]any)[1].(map[string]any)
			sidecar["name"] = workload.InjectContainer
		}))
		before := s.live().Meta.ResourceVersion
		r, err := s.applier.Settings(ctx, s.intent(s.live()))
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Invalid).To(Equal(`Deployment.apps "dstack-server" is invalid: spec.template.spec.initContainers[0].name: Duplicate value: "dstack-isolation-inject"`))
		Expect(r.Complete).To(BeFalse())
		Expect(r.Items).To(HaveEach(HaveField("State", v1alpha1.InjectedWithheld)))
		Expect(s.live().Meta.ResourceVersion).To(Equal(before))
	})

	It("is refused with a cause when an admission policy does not allow it, and tried again when the API server is away", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		answer := error(apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, "dstack-server", errors.New("no init containers here")))
		applier := apply.New(interceptor.NewClient(api.Client, interceptor.Funcs{
			Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
				return answer
			},
		}))
		r, err := applier.Settings(ctx, s.intent(s.live()))
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Invalid).To(Equal(`deployments.apps "dstack-server" is forbidden: no init containers here`))
		Expect(r.Complete).To(BeFalse())
		Expect(r.Plugin).To(BeFalse())

		answer = apierrors.NewServiceUnavailable("away")
		_, err = applier.Settings(ctx, s.intent(s.live()))
		Expect(err).To(MatchError("apply settings to Deployment " + s.ns + "/dstack-server: away"))
	})

	Describe("of an object that is not the one that was read", func() {
		It("fails to be tried again when the object has changed meanwhile", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			stale := s.live()
			s.kubectlApply(s.manifest(image("dstack-server:0.22.6")))
			r, err := s.applier.Settings(ctx, s.intent(stale))
			Expect(apierrors.IsConflict(err)).To(BeTrue(), "%v", err)
			Expect(err).To(MatchError(HavePrefix("apply settings to Deployment " + s.ns + "/dstack-server: ")))
			Expect(r.Conflicts).To(BeEmpty(), "a lost race is no conflict with another manager")
			Expect(s.envNames()).To(Equal(usersEnv))
		})

		It("makes nothing when the object is gone", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			gone := s.live()
			Expect(api.Client.Delete(ctx, s.object())).To(Succeed())
			_, err := s.applier.Settings(ctx, s.intent(gone))
			Expect(err).To(MatchError(ContainSubstring("uid mismatch")))
			Expect(apierrors.IsNotFound(api.Client.Get(ctx, keyOf(s), s.object()))).To(BeTrue())
		})

		It("leaves another object of its name alone", func() {
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			gone := s.live()
			Expect(api.Client.Delete(ctx, s.object())).To(Succeed())
			s.kubectlApply(s.manifest())
			r, err := s.applier.Settings(ctx, s.intent(gone))
			Expect(err).To(HaveOccurred())
			Expect(r.Items).To(BeEmpty())
			Expect(s.envNames()).To(Equal(usersEnv))
		})
	})
})

// ownedBy lists the fields of a manager, as paths.
func ownedBy(w *workload.Workload, manager string) []string {
	GinkgoHelper()
	var paths []string
	for _, entry := range w.Meta.ManagedFields {
		if entry.Manager != manager {
			continue
		}
		var set fieldpath.Set
		Expect(set.FromJSON(entry.FieldsV1.GetRawReader())).To(Succeed())
		set.Iterate(func(p fieldpath.Path) { paths = append(paths, p.String()) })
	}
	Expect(paths).NotTo(BeEmpty())
	return paths
}

func expectComplete(r apply.Result) {
	GinkgoHelper()
	Expect(r.Invalid).To(BeEmpty())
	Expect(r.Conflicts).To(BeEmpty())
	Expect(r.Complete).To(BeTrue())
}
