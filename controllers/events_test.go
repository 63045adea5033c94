package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var _ = Describe("Events", func() {
	It("tell of transitions, once each", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())

		By("the first pass")
		w.pass()
		const starting = "0 of 2 replicas of Deployment isolation-policy-main are ready and up to date: look at its pods (kubectl -n NS get pods -l isolation.dstack.ai/server=main)"
		Expect(w.events()).To(Equal([]string{
			"Normal Accepted Accepted is True: Deployment NS/dstack-server runs dstack in container server",
			"Normal RollingOut PolicyPluginReady is False: " + starting,
			"Normal WaitingForPolicyServers SettingsApplied is False: the server is told to ask the policy server once every replica of it is ready",
			"Normal Owned PodsOwned is True: all pods with the labels of Deployment NS/dstack-server are its own",
			"Normal Connected Connected is True: all 1 server pods answer; dstack 0.22.5",
			"Normal PolicyServersNotReady UnmatchedProjectsCovered is False: waiting for every policy server to decide by policy revision REV",
			"Normal Accepted Accepted is True: the profile is valid and its server exists",
			"Normal PolicyServersNotReady Programmed is False: waiting for every policy server to decide by policy revision REV",
		}))

		By("a pass that finds nothing new")
		w.pass()
		Expect(w.events()).To(BeEmpty())

		By("a message that changes is no transition")
		w.policyServersUp()
		w.policyServersReady(1)
		w.pass()
		Expect(w.condition("PolicyPluginReady")).To(ContainSubstring("1 of 2 replicas"))
		Expect(w.events()).NotTo(ContainElement(ContainSubstring("1 of 2 replicas")))

		By("the rest of the way")
		w.policyServersReady(2)
		w.pass()
		w.roll("dstack-server-0")
		w.events()
		w.settle()
		Expect(w.events()).To(Equal([]string{
			"Normal Applied SettingsApplied is True: all settings are in Deployment NS/dstack-server and in its 1 pods",
			"Normal Covered UnmatchedProjectsCovered is True: projects that no profile names are refused what spec.unmatchedProjects denies",
			"Normal Ready Ready is True: all 1 server pods ask the policy server; 1 profiles, policy revision REV, network mode 2",
			"Normal Programmed Programmed is True: every policy server decides by this profile and every server pod asks them",
			"Normal Ready Ready is True: every policy server decides by this profile and every server pod asks them",
		}))
		w.restart()
		w.pass()
		Expect(w.events()).To(BeEmpty())
	})

	It("warn where somebody must act", func() {
		w := newWorld(testkit.MakeServer("main").Obj(), testkit.MakeProfile("research").Server("none").Obj())
		w.pass()
		const missing = "there is no Deployment dstack-server in namespace NS: create it, or create this DstackServer again with another spec.workload"
		const none = `there is no DstackServer "none" in namespace NS: create it, or create this profile again with another spec.serverRef`
		Expect(w.events()).To(ConsistOf(
			"Warning WorkloadNotFound Accepted is False: "+missing,
			"Warning WorkloadNotFound UnmatchedProjectsCovered is False: this DstackServer is not accepted: there is no Deployment dstack-server in namespace NS: create it, or create this DstackServer again with another spec.workload",
			"Warning ServerNotFound Accepted is False: "+none,
			"Warning ServerNotFound Programmed is False: "+none,
		))
		w.pass()
		Expect(w.events()).To(BeEmpty())
	})

	It("come after the status is written, and not without it", func() {
		w := usual()
		w.withFaults(interceptor.Funcs{
			SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
				return unavailable()
			},
		})
		Expect(w.try("main")).To(MatchError(ContainSubstring("away")))
		Expect(w.events()).To(BeEmpty())
		w.withoutFaults()
		w.pass()
		Expect(w.events()).NotTo(BeEmpty())
		Expect(w.server().Status.Conditions).To(ContainElement(HaveField("Type", v1alpha1.ConditionReady)))
	})
})
