package controllers_test

import (
	"context"
	"errors"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

func unavailable() error { return apierrors.NewServiceUnavailable("away") }

// failGet fails reads of one kind by name; "" is any name.
func failGet[T client.Object](name string) interceptor.Funcs {
	return interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if _, is := o.(T); is && (name == "" || key.Name == name) {
			return unavailable()
		}
		return c.Get(ctx, key, o, opts...)
	}}
}

func failList[T client.ObjectList]() interceptor.Funcs {
	return interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
		if _, is := l.(T); is {
			return unavailable()
		}
		return c.List(ctx, l, opts...)
	}}
}

// failApply fails applies of one kind.
func failApply(kind string) interceptor.Funcs {
	return interceptor.Funcs{Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
		named, is := o.(interface{ GetKind() string })
		if is && named.GetKind() == kind {
			return unavailable()
		}
		return c.Apply(ctx, o, opts...)
	}}
}

var _ = Describe("A request that the API server does not answer", func() {
	DescribeTable("is an error that is tried again, and no condition that rests on it stays true",
		func(golden string, faults interceptor.Funcs, want string, notTrue ...string) {
			w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
			w.bringUp()
			before := w.deployment().ResourceVersion
			// A restart, so that nothing is remembered that would spare the request.
			w.withFaults(faults)
			err := w.try("main")
			if want == "" {
				Expect(err).NotTo(HaveOccurred())
				Expect(w.result.RequeueAfter).To(soon, "it is looked at again")
			} else {
				Expect(err).To(HaveOccurred())
				Expect(w.plain(err.Error())).To(Equal(want))
			}
			w.expectStatus(golden)
			for _, c := range w.server().Status.Conditions {
				if c.Type == v1alpha1.ConditionReady {
					Expect(c.Status).NotTo(Equal(metav1.ConditionTrue))
				}
				for _, kind := range notTrue {
					if c.Type == kind {
						Expect(c.Status).NotTo(Equal(metav1.ConditionTrue), kind)
					}
				}
			}
			Expect(w.deployment().ResourceVersion).To(Equal(before))

			By("the API server is back")
			w.withoutFaults()
			w.settle()
			Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
			Expect(w.deployment().ResourceVersion).To(Equal(before))
		},
		Entry("profiles", "fault-profiles", failList[*v1alpha1.IsolationProfileList](),
			"list profiles: away", v1alpha1.ConditionAccepted),
		Entry("rivals", "fault-rivals", failList[*v1alpha1.DstackServerList](),
			"list DstackServers: away", v1alpha1.ConditionAccepted),
		Entry("the workload", "fault-workload", failGet[*appsv1.Deployment](testkit.WorkloadName),
			"away", v1alpha1.ConditionAccepted),
		Entry("pods", "fault-pods", failList[*corev1.PodList](),
			"list pods of Deployment NS/dstack-server: away", v1alpha1.ConditionSettingsApplied, v1alpha1.ConditionConnected),
		Entry("the policy server's Deployment", "fault-policy-deployment", failGet[*appsv1.Deployment](manifests.PolicyServerName("main")),
			"read Deployment isolation-policy-main: away", v1alpha1.ConditionPolicyPluginReady),
		Entry("its Service, applied", "fault-apply-service", failApply("Service"),
			"apply Service isolation-policy-main: away", v1alpha1.ConditionPolicyPluginReady, v1alpha1.ConditionSettingsApplied),
		Entry("its EndpointSlices", "fault-endpoints", failList[*discoveryv1.EndpointSliceList](),
			"list EndpointSlices: away", v1alpha1.ConditionPolicyPluginReady),
		Entry("the workload, applied", "fault-apply-workload", interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				var options client.ApplyOptions
				options.ApplyOptions(opts)
				if options.FieldManager == "dstack-isolation" {
					return unavailable()
				}
				return c.Apply(ctx, o, opts...)
			},
		}, "apply settings to Deployment NS/dstack-server: away", v1alpha1.ConditionSettingsApplied),
	)

	It("about the token's Secret is one too", func() {
		w := usual()
		w.bringUp()
		w.config.Live = interceptor.NewClient(api.Client, failGet[*corev1.Secret](""))
		w.restart()
		Expect(w.try("main")).To(MatchError("read or make Secret isolation-seal-main: away"))
		w.expectStatus("fault-token")
	})

	It("about the admin token's Secret is said, and looked at again", func() {
		w := stock(testkit.MakeServer("main").AdminToken("dstack-admin", "token"), testkit.MakeServerPod().Data(),
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "dstack-admin"}, Data: map[string][]byte{"token": []byte("admin-token")}})
		w.bringUp()
		w.config.Live = interceptor.NewClient(api.Client, failGet[*corev1.Secret]("dstack-admin"))
		w.restart()
		w.pass()
		w.expectStatus("fault-admin-token")
		Expect(w.result.RequeueAfter).To(soon)
	})

	for how, release := range remove {
		deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
		const kept = "kept until no server pod asks it"

		DescribeTable("that takes the settings out is said, "+how, func(refusal error, condition, stalled string) {
			w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
			w.bringUp()
			release(w)
			w.withFaults(refuseSettings(refusal))
			Expect(w.try("main")).NotTo(Succeed(), "so that it is tried again")
			Expect(w.injected()).To(BeTrue())
			Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=" + condition))
			Expect(w.condition("PolicyPluginReady")).To(Equal("PolicyPluginReady=False Releasing: " + kept))
			if how == "when injection is Disabled" { // One that is deleted is stalled for that.
				Expect(w.condition("Stalled")).To(Equal("Stalled=" + stalled))
				Expect(w.condition("UnmatchedProjectsCovered")).To(Equal("UnmatchedProjectsCovered=" + condition))
			}
			w.allThere()

			By("once")
			w.events()
			settled := w.versions()
			Expect(w.try("main")).NotTo(Succeed())
			Expect(w.versions()).To(Equal(settled))
			Expect(w.events()).To(BeEmpty())

			By("the API server allows it")
			w.withoutFaults()
			w.pass()
			Expect(w.injected()).To(BeFalse())
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False Releasing: the settings were taken back; "))
			Expect(w.condition("Stalled")).NotTo(ContainSubstring("InvalidWorkload"))
		},
			Entry("and refused by an admission policy", apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, testkit.WorkloadName, nil),
				`False InvalidWorkload: the API server refuses to take the settings out of Deployment NS/dstack-server, so they stay: Deployment.apps "dstack-server" is invalid`,
				`True InvalidWorkload: the API server refuses to take the settings out of Deployment NS/dstack-server, so they stay: Deployment.apps "dstack-server" is invalid`),
			Entry("and forbidden", apierrors.NewForbidden(deployments, testkit.WorkloadName, errors.New("the freeze ends on Monday")),
				`False InvalidWorkload: the API server refuses to take the settings out of Deployment NS/dstack-server, so they stay: deployments.apps "dstack-server" is forbidden: the freeze ends on Monday`,
				`True InvalidWorkload: the API server refuses to take the settings out of Deployment NS/dstack-server, so they stay: deployments.apps "dstack-server" is forbidden: the freeze ends on Monday`),
			Entry("and not answered", unavailable(),
				"Unknown ReconcileError: release Deployment NS/dstack-server: away", "False Succeeded: nobody has to act"),
		)
	}

	It("that takes back the first settings is said", func() {
		w := usual()
		w.inject()
		w.failInit("dstack-server-0")
		w.withFaults(interceptor.Funcs{Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			content, is := o.(interface{ UnstructuredContent() map[string]any })
			if is && content.UnstructuredContent()["kind"] == "Deployment" && content.UnstructuredContent()["spec"] == nil {
				return apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, testkit.WorkloadName, errors.New("the freeze ends on Monday"))
			}
			return c.Apply(ctx, o, opts...)
		}})
		Expect(w.try("main")).NotTo(Succeed())
		Expect(w.injected()).To(BeTrue())
		Expect(w.condition("SettingsApplied")).To(Equal(`SettingsApplied=False InvalidWorkload: the API server refuses to take the settings out of Deployment NS/dstack-server, so they stay: deployments.apps "dstack-server" is forbidden: the freeze ends on Monday`))
	})

	It("in a release keeps the object until it is answered", func() {
		w := usual()
		w.bringUp()
		Expect(api.Client.Delete(context.Background(), w.server())).To(Succeed())
		w.end("dstack-server-0")
		w.withFaults(failApply("Deployment"))
		Expect(w.try("main")).To(MatchError("release Deployment " + w.ns + "/dstack-server: away"))
		w.allThere()
		w.withFaults(interceptor.Funcs{
			Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
				if kindOf(o) == "Secret" {
					return unavailable()
				}
				return c.Delete(ctx, o, opts...)
			},
		})
		Expect(w.try("main")).To(Succeed())
		Expect(w.try("main")).To(MatchError("delete Secret isolation-policy-main-token: away"))
		Expect(w.serverGone()).To(BeFalse())
		w.withoutFaults()
		Expect(w.try("main")).To(Succeed())
		w.nothingLeft()
		Expect(w.serverGone()).To(BeTrue())
	})

	It("of a profile leaves its status as it was", func() {
		w := usual(testkit.MakeProfile("research").AllowHostSSH().Obj())
		w.bringUp()
		before := w.profile("research")
		w.withFaults(failGet[*v1alpha1.DstackServer](""))
		_, err := w.profiles.Reconcile(context.Background(), w.profile("research"))
		Expect(err).To(MatchError("away"))
		Expect(w.profile("research").ResourceVersion).To(Equal(before.ResourceVersion))
	})
})

var _ = Describe("A lost race", func() {
	conflict := func() error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "dstackservers"}, "main", nil)
	}

	It("for the status is run again soon, without an error", func() {
		w := usual()
		w.withFaults(interceptor.Funcs{
			SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
				return conflict()
			},
		})
		Expect(w.try("main")).To(Succeed())
		Expect(w.result.RequeueAfter).To(soon)
		Expect(w.events()).To(BeEmpty())
	})

	It("for the workload is run again soon, and nothing is called broken", func() {
		w := usual()
		w.bringUp()
		w.withFaults(interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				var options client.ApplyOptions
				options.ApplyOptions(opts)
				if options.FieldManager == "dstack-isolation" {
					return conflict()
				}
				return c.Apply(ctx, o, opts...)
			},
		})
		Expect(w.try("main")).To(Succeed())
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False RolloutInProgress: "))
		Expect(w.result.RequeueAfter).To(soon)
	})
})
