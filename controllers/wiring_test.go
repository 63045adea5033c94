package controllers_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest/komega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// eventually is how long a machine may take that does other things too.
const eventually = time.Minute

// object polls an object of the world.
func object[T client.Object](w *world, name string, o T) AsyncAssertion {
	return Eventually(komega.New(api.Client).Object(named(w, name, o))).WithTimeout(eventually)
}

// shows matches an object by one of its conditions.
func shows(kind, status, reason string) gomegatypes.GomegaMatcher {
	return HaveField("Status.Conditions", ContainElement(And(
		HaveField("Type", kind), HaveField("Status", BeEquivalentTo(status)), HaveField("Reason", reason))))
}

func ready() gomegatypes.GomegaMatcher {
	return And(shows(v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady), isAboutItsGeneration())
}

func isAboutItsGeneration() gomegatypes.GomegaMatcher {
	return WithTransform(func(o client.Object) bool {
		switch o := o.(type) {
		case *v1alpha1.DstackServer:
			return o.Status.ObservedGeneration == o.Generation
		case *v1alpha1.IsolationProfile:
			return o.Status.ObservedGeneration == o.Generation
		}
		return false
	}, BeTrue())
}

// idle expects that the manager comes to a rest of ten seconds without a write.
func idle(seen *traffic) {
	GinkgoHelper()
	last := time.Now()
	Eventually(func() time.Duration {
		if len(seen.take()) > 0 {
			last = time.Now()
		}
		return time.Since(last)
	}).WithTimeout(eventually).Should(BeNumerically(">=", 10*time.Second))
	Expect(seen.deniedRequests()).To(BeEmpty(), "its Role lacks a permission")
}

// comeUp plays the cluster until DstackServer main is ready.
func (w *world) comeUp() {
	GinkgoHelper()
	object(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}).Should(Not(BeNil()))
	object(w, manifests.TokenSecretName("main"), &corev1.Secret{}).Should(Not(BeNil()))
	w.startPolicyServer(2)
	w.rollWhenInjected()
	object(w, "main", &v1alpha1.DstackServer{}).Should(ready())
}

func (w *world) rollWhenInjected() {
	GinkgoHelper()
	object(w, testkit.WorkloadName, &appsv1.Deployment{}).Should(HaveField("Spec.Template.Spec.InitContainers", Not(BeEmpty())))
	w.roll("dstack-server-0")
}

var _ = Describe("The manager", Ordered, func() {
	ctx := context.Background()
	var w *world
	var seen *traffic

	BeforeAll(func() {
		w = usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		seen = w.startManager()
		w.comeUp()
		object(w, "research", &v1alpha1.IsolationProfile{}).Should(ready())
	})
	AfterEach(func() { Expect(seen.deniedRequests()).To(BeEmpty(), "its Role lacks a permission") })

	It("writes nothing while nothing changes", func() { idle(seen) })

	It("is woken by an edit of a profile, and so is the profile's own status", func() {
		before := w.server().Status.PolicyRevision
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Hint = "Ask us." })
		object(w, "main", &v1alpha1.DstackServer{}).Should(And(ready(),
			HaveField("Status.PolicyRevision", And(Not(Equal(before)), HaveField("Served", Not(BeEmpty()))))))
		object(w, "research", &v1alpha1.IsolationProfile{}).Should(ready())

		By("one that moves a setting of the whole server")
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.HostNetwork = v1alpha1.HostNetworkDenied })
		object(w, "research", &v1alpha1.IsolationProfile{}).Should(shows(v1alpha1.ConditionProgrammed, "False", v1alpha1.ReasonSettingsNotRunning))
		Eventually(func() string { return w.env(dstack.EnvJobNetworkMode).Value }).WithTimeout(eventually).Should(Equal("1"))
		w.roll("dstack-server-0")
		object(w, "main", &v1alpha1.DstackServer{}).Should(And(ready(), HaveField("Status.Running.NetworkMode", BeEquivalentTo(1))))
		object(w, "research", &v1alpha1.IsolationProfile{}).Should(ready())
	})

	It("is woken by a profile that comes and goes", func() {
		w.create(testkit.MakeProfile("vision").AllowHostSSH().Obj())
		object(w, "main", &v1alpha1.DstackServer{}).Should(And(ready(), HaveField("Status.Profiles", BeEquivalentTo(2))))
		object(w, "vision", &v1alpha1.IsolationProfile{}).Should(ready())
		Expect(api.Client.Delete(ctx, w.profile("vision"))).To(Succeed())
		object(w, "main", &v1alpha1.DstackServer{}).Should(And(ready(), HaveField("Status.Profiles", BeEquivalentTo(1))))
	})

	It("sees what the user does to the workload", func() {
		template := w.template()
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			c.Env = append(c.Env, corev1.EnvVar{Name: dstack.EnvConfigDisabled, Value: "1"})
		})
		object(w, "main", &v1alpha1.DstackServer{}).Should(shows(v1alpha1.ConditionSettingsApplied, "False", v1alpha1.ReasonConfigDisabled))
		change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Env = template.Spec.Containers[0].Env })
		w.rolledOut()
		object(w, "main", &v1alpha1.DstackServer{}).Should(ready())
	})

	It("sees what becomes of the server's pods", func() {
		w.terminate("dstack-server-0")
		object(w, "main", &v1alpha1.DstackServer{}).Should(shows(v1alpha1.ConditionConnected, "Unknown", v1alpha1.ReasonNoServerPods))
		w.roll("dstack-server-0")
		object(w, "main", &v1alpha1.DstackServer{}).Should(ready())
	})

	It("sees what becomes of the policy servers", func() {
		w.policyServersReady(1)
		object(w, "main", &v1alpha1.DstackServer{}).Should(shows(v1alpha1.ConditionPolicyPluginReady, "False", v1alpha1.ReasonRollingOut))
		w.policyServersReady(2)
		object(w, "main", &v1alpha1.DstackServer{}).Should(ready())
	})

	It("makes again what somebody deletes", func() {
		for _, o := range w.ownObjects() {
			if kindOf(o) == "Secret" {
				continue // Secrets are not watched.
			}
			By(kindOf(o) + " " + o.GetName())
			Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
			before := o.GetUID()
			Expect(api.Client.Delete(ctx, o)).To(Succeed())
			Eventually(func(g Gomega) {
				g.Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
				g.Expect(o.GetUID()).NotTo(Equal(before))
			}).WithTimeout(eventually).Should(Succeed())
		}
		w.policyServersReady(2)
		object(w, "main", &v1alpha1.DstackServer{}).Should(ready())
	})

	It("lets the next DstackServer of a workload take over", func() {
		youngerThan(w.server())
		w.create(testkit.MakeServer("next").Obj())
		object(w, "next", &v1alpha1.DstackServer{}).Should(shows(v1alpha1.ConditionAccepted, "False", v1alpha1.ReasonWorkloadClaimed))
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Eventually(func() bool { return isInjected(w.deployment()) }).WithTimeout(eventually).Should(BeFalse())
		w.end("dstack-server-0")
		Eventually(w.serverGone).WithTimeout(eventually).Should(BeTrue())
		object(w, "next", &v1alpha1.DstackServer{}).Should(shows(v1alpha1.ConditionAccepted, "True", v1alpha1.ReasonAccepted))
		object(w, "research", &v1alpha1.IsolationProfile{}).Should(shows(v1alpha1.ConditionAccepted, "False", v1alpha1.ReasonServerNotFound))
		idle(seen)
	})
})

var _ = Describe("The manager of a thousand profiles", func() {
	const profiles = 1000

	It("settles, and then writes nothing", func() {
		w := usual()
		seen := w.startManager()
		w.comeUp()
		seen.take()

		began := time.Now()
		var group errgroup.Group
		group.SetLimit(16)
		for i := range profiles {
			group.Go(func() error {
				p := testkit.MakeProfile(fmt.Sprintf("p%d", i)).Namespace(w.ns).AllowHostSSH().Obj()
				return api.Client.Create(context.Background(), p)
			})
		}
		Expect(group.Wait()).To(Succeed())
		created := time.Since(began)
		allReady := func(g Gomega) {
			var all v1alpha1.IsolationProfileList
			g.Expect(api.Client.List(context.Background(), &all, client.InNamespace(w.ns))).To(Succeed())
			g.Expect(all.Items).To(HaveLen(profiles))
			for i := range all.Items {
				g.Expect(&all.Items[i]).To(ready())
			}
		}
		Eventually(allReady).WithTimeout(3 * time.Minute).WithPolling(time.Second).Should(Succeed())
		object(w, "main", &v1alpha1.DstackServer{}).Should(And(ready(), HaveField("Status.Profiles", BeEquivalentTo(profiles))))
		settled := time.Since(began)
		idle(seen)

		By("an edit of one of them")
		change(w, w.profile("p7"), func(p *v1alpha1.IsolationProfile) { p.Spec.Hint = "Ask us." })
		object(w, "p7", &v1alpha1.IsolationProfile{}).Should(ready())
		Eventually(allReady).WithTimeout(eventually).WithPolling(time.Second).Should(Succeed())
		object(w, "main", &v1alpha1.DstackServer{}).Should(ready())
		writes := seen.take()
		AddReportEntry("figures", fmt.Sprintf("created in %s, settled in %s, %d writes for one edit", created.Round(time.Millisecond), settled.Round(time.Millisecond), len(writes)))
		Expect(len(writes)).To(BeNumerically("<", 30), "an edit of one profile is not told in every other's status: %v", writes)
		idle(seen)
	})
})
