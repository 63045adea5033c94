package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// askedForRuns lets the operator ask the server for its runs.
func (w *world) askedForRuns() {
	GinkgoHelper()
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "admin"}, StringData: map[string]string{"token": "admin-token"}})
	change(w, w.server(), func(s *v1alpha1.DstackServer) {
		s.Spec.API.AdminTokenSecretRef = &v1alpha1.SecretKeyReference{Name: "admin", Key: "token"}
	})
	w.settle()
}

func withoutProxy(s *v1alpha1.DstackServer) { s.Spec.SSHProxy = nil }

var _ = Describe("Runs that only the SSH proxy leads to", func() {
	const (
		lose  = "active runs that started while the SSH proxy was enforced lose SSH access ("
		keep  = "). To keep it until they end, keep spec.sshProxy and set hostSSH to Allowed in every policy"
		about = "removing the SSH proxy from Deployment NS/dstack-server: "
	)
	// up has the server's process, and two runs of which one has ended.
	up := func() *world {
		GinkgoHelper()
		w, _, _ := closed(managedAt("ssh.example.com"))
		w.askedForRuns()
		w.rollSSH("isolation-ssh-main-token").submitted(time.Now(), "research", "ended", true).submitted(time.Now(), "research", "train", false)
		w.events()
		return w
	}

	It("are counted before the proxy is taken out, once", func() {
		w := up()
		change(w, w.server(), withoutProxy)
		away := true
		w.withFaults(interceptor.Funcs{Apply: func(ctx context.Context, c client.WithWatch, a runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			if named, is := a.(interface{ GetName() string }); is && away && named.GetName() == testkit.WorkloadName {
				return unavailable()
			}
			return c.Apply(ctx, a, opts...)
		}})
		Expect(w.try("main")).NotTo(Succeed())
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(w.events()).To(ContainElement("Warning Releasing "+about+lose+"at most 1"+keep), "it comes before the write")

		By("the write, which is tried again")
		away = false
		Expect(w.try("main")).To(Succeed())
		Expect(w.toldOfSSH()).To(BeEmpty())
		Expect(w.events()).NotTo(ContainElement(ContainSubstring(lose)))
	})

	It("are said to be unknown where nobody may ask for them", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		w.events()
		change(w, w.server(), withoutProxy)
		w.pass()
		Expect(w.toldOfSSH()).To(BeEmpty())
		Expect(w.events()).To(ContainElement("Warning Releasing " + about + lose + "their number is unknown: set spec.api.adminTokenSecretRef" + keep))
	})

	It("are in the change that waits for approval, and no event is sent before", func() {
		w := up()
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			onApproval(s)
			withoutProxy(s)
		})
		w.settle()
		Expect(w.pendingChange().Message).To(HaveSuffix("; runs go on; " + lose + "at most 1" + keep))
		Expect(w.events()).NotTo(ContainElement(ContainSubstring(lose)))
		change(w, w.server(), approves(w.pendingChange().Revision))
		w.pass()
		Expect(w.events()).To(ContainElement("Warning Releasing " + about + lose + "at most 1" + keep))
	})

	It("are named before somebody takes the proxy out of the manifest, once", func() {
		w := up()
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionManual })
		w.settle()
		Expect(w.events()).NotTo(ContainElement(ContainSubstring(lose)), "the proxy stays")
		change(w, w.server(), withoutProxy)
		w.settle()
		Expect(w.toldOfSSH()).To(Equal(sshVariables), "that is the user's step")
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False ManualStepNeeded: "))
		Expect(w.events()).To(ContainElement("Warning Releasing " + about + lose + "at most 1" + keep))
		w.settle()
		Expect(w.events()).NotTo(ContainElement(ContainSubstring(lose)))
	})

	for how, release := range remove {
		It("are counted before all settings are taken out, "+how, func() {
			w := up()
			release(w)
			Expect(w.try("main")).To(Succeed())
			Expect(w.events()[0]).To(ContainSubstring("; " + lose + "at most 1" + keep + "; active runs, which go on: 1 (research/train); SSH sessions"))
		})
	}

	It("are said by the cleanup", func() {
		w := up()
		w.end("dstack-server-0")
		said := ""
		c := interceptor.NewClient(api.Client, interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, a runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				said = w.condition("SettingsApplied")
				return c.Apply(ctx, a, opts...)
			},
		})
		Expect(controllers.NewCleanup(c, w.ns).Run(context.Background(), "")).To(Succeed())
		Expect(w.injected()).To(BeFalse())
		Expect(said).To(ContainSubstring("; " + lose + "their number is unknown: the dstack server did not list its runs" + keep))
	})

	It("are no matter while the proxy stays and is enforced no more, nor when no run is active", func() {
		w := up()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls = &v1alpha1.Controls{HostSSH: v1alpha1.Allowed} })
		w.pass()
		w.policyServersUp()
		w.settle()
		Expect(w.toldOfSSH()).To(Equal(sshVariables[:2]), "old runs are reached by the proxy, new ones have keys")
		Expect(w.events()).NotTo(ContainElement(ContainSubstring(lose)))

		By("the proxy goes too, and what ran while it was enforced still runs")
		w.rollSSH("isolation-ssh-main-token").submitted(time.Now(), "research", "train", false)
		change(w, w.server(), withoutProxy)
		w.pass()
		Expect(w.events()).To(ContainElement("Warning Releasing " + about + lose + "at most 1" + keep))

		other, _, _ := closed(managedAt("ssh.example.com"))
		other.askedForRuns()
		change(other, other.server(), withoutProxy)
		other.pass()
		Expect(other.toldOfSSH()).To(BeEmpty())
		Expect(other.events()).NotTo(ContainElement(ContainSubstring(lose)))
	})
})
