package controllers_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// balancer is a server whose SSH proxy is reached at the load balancer's address.
func balancer(hosts ...string) *world {
	GinkgoHelper()
	w := withSSHProxy(managed())
	w.balancedAt(hosts...)
	w.sshProxiesUp()
	w.settle()
	w.rollSSH("isolation-ssh-main-token")
	Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	return w
}

// balancedAt gives the SSH proxy's Service these host names or addresses.
func (w *world) balancedAt(hosts ...string) {
	GinkgoHelper()
	service := get(w, sshProxyName, &corev1.Service{})
	service.Status.LoadBalancer.Ingress = nil
	for _, host := range hosts {
		ingress := corev1.LoadBalancerIngress{IP: host, IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}
		if host[0] > '9' {
			ingress = corev1.LoadBalancerIngress{Hostname: host}
		}
		service.Status.LoadBalancer.Ingress = append(service.Status.LoadBalancer.Ingress, ingress)
	}
	Expect(api.Client.Status().Update(GinkgoT().Context(), service)).To(Succeed())
}

func (w *world) toldAddress() string {
	GinkgoHelper()
	return w.env(dstack.EnvServerSSHProxyAddress).Value
}

var _ = Describe("The address of a load balancer", func() {
	It("may be one of several, in any order", func() {
		w := balancer("lb-a.example.com", "203.0.113.7")
		Expect(w.toldAddress()).To(Equal("lb-a.example.com:22"))
		w.balancedAt("203.0.113.7", "lb-a.example.com")
		told := specOf(w.deployment())
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
		Expect(specOf(w.deployment())).To(MatchJSON(told))
	})

	It("is the first that dstack can use", func() {
		w := balancer("2001:db8::7", "203.0.113.7")
		Expect(w.toldAddress()).To(Equal("203.0.113.7:22"))
	})

	It("that is gone is missed, and the server keeps it", func() {
		w := balancer("lb.example.com")
		w.balancedAt()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False AddressPending: the load balancer of Service isolation-ssh-main has no address, " +
			"and the server was told lb.example.com:22: wait for it, or set spec.sshProxy.managed.address"))
		Expect(w.toldAddress()).To(Equal("lb.example.com:22"))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
	})

	It("goes with another port of the spec's", func() {
		w := balancer("lb.example.com")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy.Managed.Service.Port = 2222 })
		w.settle()
		Expect(w.toldAddress()).To(Equal("lb.example.com:2222"))
	})

	It("that is another waits for approval, also with rollout Automatic", func() {
		w := balancer("lb.example.com")
		told := specOf(w.deployment())
		w.balancedAt("other.example.com")
		w.settle()
		Expect(specOf(w.deployment())).To(MatchJSON(told))
		pending := w.pendingChange()
		Expect(pending.Items).To(ConsistOf(v1alpha1.PendingItem{
			Name: dstack.EnvServerSSHProxyAddress, Action: v1alpha1.ChangeChange, Why: "spec.sshProxy, and the address at which users reach the proxy",
		}))
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False AddressChanged: the load balancer of Service isolation-ssh-main has address other.example.com:22 now, " +
			"and the server was told lb.example.com:22: that is settings revision " + pending.Revision + ", which restarts the server; see status.pendingChange and approve it: " +
			"kubectl -n NS annotate --overwrite dstackserver main isolation.dstack.ai/approve=" + pending.Revision + ". To keep the address, write it to spec.sshProxy.managed.address"))
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "), "what runs is what is approved")
		Expect(w.server().Status.SSHProxy.Address).To(Equal("lb.example.com:22"), "where users still log in")

		By("another change does not wait for it")
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelBaseline })
		w.pass()
		servers := w.policyServersUp()
		for _, s := range servers {
			s.counts(v1alpha1.NetworkModeHostForDistributed)
		}
		w.settle()
		Expect(w.toldAddress()).To(Equal("lb.example.com:22"))
		Expect(w.pendingChange()).NotTo(BeNil())

		By("approving it")
		before := w.deployment().Generation
		change(w, w.server(), approves(w.pendingChange().Revision))
		w.settle()
		Expect(w.toldAddress()).To(Equal("other.example.com:22"))
		Expect(w.deployment().Generation).To(Equal(before + 1))
		Expect(w.pendingChange()).To(BeNil())
		w.rollSSH("isolation-ssh-main-token")
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
		Expect(w.server().Status.SSHProxy.KnownHosts).To(HaveEach(HavePrefix("other.example.com ")))
	})

	It("that is another is approved with all else that waits", func() {
		w := balancer("lb.example.com")
		change(w, w.server(), onApproval)
		w.settle()
		w.balancedAt("other.example.com")
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Level = v1alpha1.LevelOpen })
		w.policyServersUp()
		w.settle()
		pending := w.pendingChange()
		Expect(pending.Items).To(ContainElements(
			HaveField("Name", dstack.EnvServerSSHProxyAddress),
			And(HaveField("Name", dstack.EnvServerSSHProxyEnforced), HaveField("Action", v1alpha1.ChangeRemove))))
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False WaitingForApproval: spec.rollout is OnApproval, and settings revision " + pending.Revision))
		before := w.deployment().Generation
		change(w, w.server(), approves(pending.Revision))
		w.pass()
		w.policyServersUp()
		w.settle()
		Expect(w.toldAddress()).To(Equal("other.example.com:22"))
		Expect(w.deployment().Generation).To(Equal(before + 1))
	})

	It("is shown to who keeps the manifest", func() {
		w := balancer("lb.example.com")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionManual })
		w.settle()
		w.balancedAt("other.example.com")
		w.settle()
		Expect(w.condition("SettingsApplied")).To(ContainSubstring("DSTACK_SERVER_SSHPROXY_ADDRESS (it is different)"))
		Expect(w.server().Status.ManualPatch).To(ContainSubstring("value: other.example.com:22"))
	})
})

var _ = Describe("The Service of the SSH proxy", func() {
	It("changes its type when the spec does", func() {
		w := balancer("lb.example.com")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.SSHProxy.Managed.Address = "lb.example.com"
			s.Spec.SSHProxy.Managed.Service.Type = v1alpha1.SSHProxyNodePort
		})
		w.settle()
		Expect(get(w, sshProxyName, &corev1.Service{}).Spec.Type).To(Equal(corev1.ServiceTypeNodePort))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy.Managed.Service.Type = v1alpha1.SSHProxyClusterIP })
		w.settle()
		Expect(get(w, sshProxyName, &corev1.Service{}).Spec.Type).To(Equal(corev1.ServiceTypeClusterIP))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
	})

	It("that the API server refuses keeps nothing else from being applied, and waits for somebody", func() {
		w := balancer("lb.example.com")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.SSHProxy.Managed.Service.LoadBalancerClass = "example.com/late"
			s.Spec.SSHProxy.Managed.Replicas = 3
		})
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix(`SSHProxyReady=False ApplyFailed: apply Service isolation-ssh-main: Service "isolation-ssh-main" is invalid: spec.loadBalancerClass: `))
		Expect(w.condition("Stalled")).To(HavePrefix("Stalled=True ApplyFailed: "))
		Expect(get(w, sshProxyName, &appsv1.Deployment{}).Spec.Replicas).To(HaveValue(BeEquivalentTo(3)))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
	})
})
