package controllers_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// allDenied is a server that runs with network mode 3, and its policy servers,
// which know it.
func allDenied(server *testkit.Server) (*world, []*policyServer) {
	GinkgoHelper()
	w := stock(server.Level(v1alpha1.LevelRestricted), testkit.MakeServerPod().Data(),
		testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
	w.bringUp()
	Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeBridge))
	servers := w.policyServersUp()
	for _, s := range servers {
		s.counts(v1alpha1.NetworkModeBridge)
	}
	return w, servers
}

// allowHostNetwork makes the plan of the server looser.
func (w *world) allowHostNetwork(servers []*policyServer) {
	GinkgoHelper()
	change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.HostNetwork = v1alpha1.HostNetworkAllowed })
	w.catchUp(servers)
}

// A policy server that still counts on network mode 3 allows distributed tasks
// where the host network is denied: they would get it of a pod with mode 1.
var _ = Describe("A looser network mode", func() {
	It("is known to every policy server before a pod runs with it", func() {
		w, servers := allDenied(testkit.MakeServer("main"))
		before := w.deployment().Generation
		w.allowHostNetwork(servers)
		w.pass()
		Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeHostForDistributed))
		Expect(w.deployment().Generation).To(Equal(before))
		w.expectStatus("loosening")
		Expect(w.result.RequeueAfter).To(Equal(200 * time.Millisecond))

		By("one of two knows it, also after a restart of the manager")
		servers[0].counts(v1alpha1.NetworkModeHostForDistributed)
		w.restart()
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before))

		By("the other does not answer")
		w.network.gone("10.0.1.2:8080")
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before))

		By("both know it")
		w.network.at("10.0.1.2:8080", w.network.listen(servers[1]))
		servers[1].counts(v1alpha1.NetworkModeHostForDistributed)
		w.pass()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
		Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeHostForDistributed), "a pod with it may be there at any time")
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
	})

	It("that the plan gives up again counts no longer", func() {
		w, servers := allDenied(testkit.MakeServer("main"))
		before := w.deployment().ResourceVersion
		w.allowHostNetwork(servers)
		w.pass()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.HostNetwork = v1alpha1.HostNetworkDenied })
		w.catchUp(servers)
		w.settle()
		Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeBridge))
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True "))
		Expect(w.deployment().ResourceVersion).To(Equal(before))
	})

	It("counts as soon as its template is there, whoever wrote that", func() {
		w, _ := allDenied(testkit.MakeServer("main"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionManual })
		d := w.deployment()
		for i := range d.Spec.Template.Spec.Containers[0].Env {
			if e := &d.Spec.Template.Spec.Containers[0].Env[i]; e.Name == dstack.EnvJobNetworkMode {
				e.Value = "2"
			}
		}
		Expect(api.Client.Update(GinkgoT().Context(), d)).To(Succeed())
		w.pass()
		Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeHostWhenPossible))
	})

	It("does not count where somebody else keeps a stricter one", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().Env(dstack.EnvJobNetworkMode, "3"),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False FieldConflict: "))
		Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeBridge))
	})

	It("counts nothing where no pod runs", func() {
		w, servers := allDenied(testkit.MakeServer("main"))
		w.end("dstack-server-0")
		d := w.deployment()
		d.Spec.Replicas = ptr.To[int32](0)
		Expect(api.Client.Update(GinkgoT().Context(), d)).To(Succeed())
		w.rolledOut()
		w.allowHostNetwork(servers)
		w.pass()
		for _, s := range servers {
			s.counts(0)
		}
		w.settle()
		Expect(w.server().Status.Running.NetworkMode).To(BeZero(), "it is not known, which counts as the weakest")
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
	})
})
