package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// away fails every request.
func away() interceptor.Funcs {
	return interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return unavailable()
		},
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return unavailable()
		},
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return unavailable()
		},
		Delete: func(context.Context, client.WithWatch, client.Object, ...client.DeleteOption) error {
			return unavailable()
		},
		Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			return unavailable()
		},
		Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
			return unavailable()
		},
		SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
			return unavailable()
		},
	}
}

var _ = Describe("An API server that is away", func() {
	It("leaves everything as it is, and the manager goes on where it was", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.inject()
		w.config.Live = interceptor.NewClient(api.Client, away())
		w.withFaults(away())
		before := w.versions()
		for range 3 {
			Expect(w.try("main")).To(MatchError(ContainSubstring("away")))
			_, err := w.profiles.Reconcile(context.Background(), w.profile("research"))
			Expect(err).To(MatchError("away"))
		}
		Expect(w.versions()).To(Equal(before))
		Expect(w.events()).NotTo(ContainElement(ContainSubstring("ReconcileError")))

		w.config.Live = api.Client
		w.withoutFaults()
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	})
})

var _ = Describe("Somebody else's change of the workload", func() {
	It("that sets a variable of ours by a reference is a conflict, and not overwritten", func() {
		w := stock(testkit.MakeServer("main"), testkit.MakeServerPod().Data().EnvFromSecret(dstack.EnvJobNetworkMode, "settings", "mode"),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		Expect(w.condition("SettingsApplied")).To(Equal(
			"SettingsApplied=False FieldConflict: in Deployment NS/dstack-server, DSTACK_SERVER_JOB_NETWORK_MODE is set by kubectl-client-side-apply (one sets a value and the other a reference): remove it there, so that the operator can set it"))
		Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeHostWhenPossible), "what cannot be known counts as the weakest")
	})

	It("that takes over a variable later is a conflict, and not fought over", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		d := w.deployment()
		for i := range d.Spec.Template.Spec.Containers[0].Env {
			if e := &d.Spec.Template.Spec.Containers[0].Env[i]; e.Name == dstack.EnvJobNetworkMode {
				e.Value = "2"
			}
		}
		Expect(api.Client.Update(context.Background(), d, client.FieldOwner("kubectl-edit"))).To(Succeed())
		w.pass()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("2"))
		Expect(w.condition("SettingsApplied")).To(Equal(
			"SettingsApplied=False FieldConflict: in Deployment NS/dstack-server, DSTACK_SERVER_JOB_NETWORK_MODE is set by kubectl-edit: remove it there, so that the operator can set it"))
		Expect(w.injected()).To(BeTrue(), "the rest stays")
		Expect(w.server().Status.Running.NetworkMode).To(Equal(v1alpha1.NetworkModeHostWhenPossible), "pods with it are on their way")
	})

	It("that deletes it and makes it anew gets the settings again", func() {
		w := usual(testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj())
		w.bringUp()
		settings := w.template()
		Expect(api.Client.Delete(context.Background(), w.deployment())).To(Succeed())
		w.end("dstack-server-0")
		w.pass()
		Expect(w.condition("Accepted")).To(HavePrefix("Accepted=False WorkloadNotFound: "))
		w.create(testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName))
		w.startPod("dstack-server-0")
		w.policyServersUp()
		w.pass()
		Expect(w.server().Status.Running.PolicyPods).To(BeZero(), "the first pod of it came before the settings")
		Expect(w.template()).To(Equal(settings))
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		Expect(get(w, "dstack-server-0", &corev1.Pod{}).Spec.InitContainers).To(HaveLen(1))
	})
})
