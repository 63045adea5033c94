package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// patient restarts the manager with one that lets settings settle.
func (w *world) patient() {
	w.config.Settle = 2 * time.Second
	w.restart()
}

func (w *world) after(d time.Duration) { w.clock.SetTime(w.clock.Now().Add(d)) }

// left of a time that the operator counts itself is less than the minute after which it
// looks again anyway, by so much that no slow machine makes it more: the API server's
// own clock counts as well.
const left = 20 * time.Second

// wakesInTime expects of a pass, so long before such a time is over, that it asks for
// another one when it is.
func (w *world) wakesInTime() {
	GinkgoHelper()
	w.pass()
	Expect(w.result.RequeueAfter).To(And(BeNumerically(">", 10*time.Second), BeNumerically("<", time.Minute)))
}

// soon is before the minute after which the operator looks again anyway.
var soon = And(BeNumerically(">", 0), BeNumerically("<", time.Minute))

// refuseSettings lets the API server refuse whatever the manager applies to the
// workload.
func refuseSettings(err error) interceptor.Funcs {
	return interceptor.Funcs{Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
		var options client.ApplyOptions
		if options.ApplyOptions(opts); options.FieldManager == "dstack-isolation" {
			return err
		}
		return c.Apply(ctx, o, opts...)
	}}
}

const settling = "SettingsApplied=False RolloutInProgress: the planned settings have just changed: what else changes with them is waited for, so that the server restarts once"

var _ = Describe("Settings that have settled and cannot be applied", func() {
	// staysSo expects that one wait is all, and that nothing is written or told once
	// status says what keeps the settings.
	staysSo := func(w *world, says string) {
		GinkgoHelper()
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal(settling))
		w.after(2 * time.Second)
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False " + says))
		w.events()
		settled := w.versions()
		for range 3 {
			w.after(1900 * time.Millisecond)
			w.pass()
			Expect(w.versions()).To(Equal(settled))
			Expect(w.events()).To(BeEmpty())
		}
	}

	It("wait for a policy server that does not know of them, and say nothing else meanwhile", func() {
		w, servers := allDenied(testkit.MakeServer("main"))
		w.patient()
		w.allowHostNetwork(servers)
		w.pass() // The status that the policy servers read.
		w.network.gone("10.0.1.2:8080")
		staysSo(w, "WaitingForPolicyServers: network mode 1 is looser than what runs")
		Expect(w.result.RequeueAfter).To(Equal(200 * time.Millisecond))

		By("it knows of them")
		w.network.at("10.0.1.2:8080", w.network.listen(servers[1]))
		for _, s := range servers {
			s.counts(v1alpha1.NetworkModeHostForDistributed)
		}
		w.pass()
		Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"), "no other wait")
	})

	changed := func(w *world) {
		GinkgoHelper()
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(false)}
		})
	}

	It("stay in conflict with who has set one of them", func() {
		w := usual()
		w.bringUp()
		w.patient()
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			for i := range d.Spec.Template.Spec.Containers[0].Env {
				if e := &d.Spec.Template.Spec.Containers[0].Env[i]; e.Name == dstack.EnvPolicyURL {
					e.Value = "http://elsewhere"
				}
			}
		})
		changed(w)
		staysSo(w, "FieldConflict: ")
	})

	It("stay refused by the API server", func() {
		w := usual()
		w.bringUp()
		w.config.Settle = 2 * time.Second
		w.withFaults(refuseSettings(apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, testkit.WorkloadName, nil)))
		changed(w)
		staysSo(w, "InvalidWorkload: ")

		By("others settle anew")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsManageSSHFleets: ptr.To(false)}
		})
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal(settling))
		By("and so do the former after them")
		changed(w)
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal(settling))
	})
})

var _ = Describe("Settings that change again every second", func() {
	It("are applied after ten seconds all the same", func() {
		w := usual()
		w.bringUp()
		w.patient()
		before := w.deployment().Generation
		for i := range 10 {
			change(w, w.server(), func(s *v1alpha1.DstackServer) {
				s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(i%2 == 0)}
			})
			w.pass()
			Expect(w.deployment().Generation).To(Equal(before), "after %d s", i)
			Expect(w.condition("SettingsApplied")).To(Equal(settling))
			Expect(w.result.RequeueAfter).To(Equal(min(2*time.Second, time.Duration(10-i)*time.Second)))
			w.after(time.Second)
		}
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(true)}
		})
		w.pass()
		Expect(w.deployment().Generation).To(Equal(before + 1))
		Expect(w.deployment().Spec.Template.Spec.InitContainers[0].Args).To(ContainElement("--default-permission=allow_non_admins_create_projects=true"), "those that are planned last")
	})
})
