package apply_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/workload"
)

var sshEnv = []string{dstack.EnvSSHProxyAPIToken, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced}

// sshIntent is the intent for a server that is told of an SSH proxy.
func sshIntent(s *server) manifests.Intent {
	GinkgoHelper()
	w := s.live()
	i := s.intent(w)
	c, err := w.Container("server")
	Expect(err).NotTo(HaveOccurred())
	with := manifests.Settings(manifests.SettingsInput{
		Server: newDstackServer(s), Workload: w, Container: c, NetworkMode: v1alpha1.NetworkModeBridge,
		SSH: &manifests.SSHSettings{TokenID: "main/0f1e2d3c", SSHProxy: workload.SSHProxy{
			Token: v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"}, Address: "ssh.example.com:22", Enforced: true,
		}},
	})
	i.SSH, i.SSHTokenID = with.SSH, with.SSHTokenID
	return i
}

func newDstackServer(s *server) *v1alpha1.DstackServer {
	o := &v1alpha1.DstackServer{}
	o.Namespace, o.Name = s.ns, "main"
	return o
}

var _ = Describe("The variables of the SSH proxy", func() {
	ctx := context.Background()
	states := func(r apply.Result) map[string]v1alpha1.InjectedState {
		found := map[string]v1alpha1.InjectedState{}
		for _, item := range r.Items {
			found[item.Name] = item.State
		}
		return found
	}
	put := func(s *server) apply.Result {
		GinkgoHelper()
		r, err := s.applier.Settings(ctx, sshIntent(s))
		Expect(err).NotTo(HaveOccurred())
		return r
	}

	It("come all in one apply", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		before := s.live().Meta.Generation
		expectComplete(put(s))
		Expect(s.live().Meta.Generation).To(Equal(before + 1))
		Expect(s.envNames()).To(ContainElements(sshEnv))
		Expect(workload.SSHEnforced(s.serverContainer())).To(BeTrue())
		Expect(s.live().Template.Annotations).To(HaveKeyWithValue(workload.AnnotationSSHToken, "main/0f1e2d3c"))
	})

	It("are left out together when one clashes, and the rest is set", func() {
		for _, name := range sshEnv {
			By(name)
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest(env(name, "the-users")))
			r := put(s)
			Expect(r.Complete).To(BeFalse())
			Expect(r.Plugin).To(BeTrue())
			for _, other := range sshEnv {
				want := v1alpha1.InjectedWithheld
				if other == name {
					want = v1alpha1.InjectedConflict
				} else {
					Expect(s.envNames()).NotTo(ContainElement(other))
				}
				Expect(states(r)).To(HaveKeyWithValue(other, want))
			}
			Expect(states(r)).To(HaveKeyWithValue(dstack.EnvJobNetworkMode, v1alpha1.InjectedApplied))
			Expect(s.value(name)).To(Equal("the-users"))
			Expect(s.live().Template.Annotations).NotTo(HaveKey(workload.AnnotationSSHToken))
		}
	})

	It("stay together when somebody sets one over ours: to leave them out would open the server", func() {
		for _, name := range sshEnv {
			By(name)
			s := newServer(kindDeployment)
			s.kubectlApply(s.manifest())
			expectComplete(put(s))
			s.setEnv(name, "somebodys")
			before := s.live().Meta.ResourceVersion
			r := put(s)
			Expect(s.live().Meta.ResourceVersion).To(Equal(before), "nothing is written")
			Expect(r.Complete).To(BeFalse())
			Expect(states(r)).To(HaveKeyWithValue(name, v1alpha1.InjectedConflict))
			Expect(s.envNames()).To(ContainElements(sshEnv))
		}
	})

	It("go when they are not wanted any more", func() {
		s := newServer(kindDeployment)
		s.kubectlApply(s.manifest())
		expectComplete(put(s))
		s.settle()
		Expect(s.envNames()).To(Equal(both()))
		Expect(s.live().Template.Annotations).NotTo(HaveKey(workload.AnnotationSSHToken))
	})
})
