package apply_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
)

var _ = Describe("A release", func() {
	ctx := context.Background()

	It("has nothing to do where nothing was set", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		released, err := s.applier.Release(ctx, s.live())
		Expect(err).NotTo(HaveOccurred())
		Expect(released).To(BeFalse())
		Expect(*s.sent).To(Equal(applies{}))
	})

	It("keeps what the user has changed since", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		s.settle()
		changed := []func(map[string]any){image("dstack-server:0.22.6"), env("NEW", "1")}
		s.kubectlApply(s.manifest(changed...))
		_, err := s.applier.Release(ctx, s.live())
		Expect(err).NotTo(HaveOccurred())
		got := s.spec()

		other := newServer(kindDeployment)
		other.kubectlApply(other.manifest(changed...))
		Expect(got).To(Equal(other.spec()), "the same as if nothing had ever been set")
	})

	It("goes by what was read last, whatever has changed since", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		s.settle()
		read := s.live()
		s.kubectlApply(s.manifest(image("dstack-server:0.22.6")))
		released, err := s.applier.Release(ctx, read)
		Expect(err).NotTo(HaveOccurred())
		Expect(released).To(BeTrue())
		Expect(s.envNames()).To(Equal(usersEnv))
	})

	It("is done when the workload is gone, and makes none", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		s.settle()
		gone := s.live()
		Expect(api.Client.Delete(ctx, s.object())).To(Succeed())
		released, err := s.applier.Release(ctx, gone)
		Expect(err).NotTo(HaveOccurred())
		Expect(released).To(BeFalse())
		Expect(apierrors.IsNotFound(api.Client.Get(ctx, keyOf(s), s.object()))).To(BeTrue())
	})

	It("is done when another workload of the name has come, and leaves that alone", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		s.settle()
		gone := s.live()
		Expect(api.Client.Delete(ctx, s.object())).To(Succeed())
		s.kubectlApply(s.manifest(env(dstack.EnvJobNetworkMode, "3")))
		before := s.live().Meta.ResourceVersion
		released, err := s.applier.Release(ctx, gone)
		Expect(err).NotTo(HaveOccurred())
		Expect(released).To(BeFalse())
		Expect(s.live().Meta.ResourceVersion).To(Equal(before))
	})

	It("tells when the API server does not take it", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		s.settle()
		failing := apply.New(interceptor.NewClient(api.Client, interceptor.Funcs{
			Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
				return apierrors.NewServiceUnavailable("away")
			},
		}))
		released, err := failing.Release(ctx, s.live())
		Expect(err).To(MatchError("release Deployment " + s.ns + "/dstack-server: away"))
		Expect(released).To(BeFalse())
		Expect(apply.Owns(s.live())).To(BeTrue())
	})
})
