package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// governed is a world that was brought up with a network mode and an admin token,
// and the process of its server. before is the workload without settings.
func governed() (w *world, before *appsv1.Deployment, process *dstackServer) {
	GinkgoHelper()
	w = stock(testkit.MakeServer("main").AdminToken("admin", "token"), testkit.MakeServerPod().Data(),
		testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).AllowHostSSH().Obj(),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "admin"}, StringData: map[string]string{"token": "admin-token"}})
	before = w.deployment()
	before.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	before.ResourceVersion, before.UID, before.ManagedFields = "", "", nil
	w.bringUp()
	Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
	w.events()
	w.nextSecond()
	return w, before, w.ready("dstack-server-0", "10.0.0.1")
}

// nextSecond waits until a write of now has a later time than those before: times of
// writes have no fractions of a second.
func (w *world) nextSecond() {
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second + 10*time.Millisecond)))
	w.clock.SetTime(time.Now())
}

// rollBack patches the workload as `kubectl rollout undo` does.
func (w *world) rollBack(to *appsv1.Deployment) {
	GinkgoHelper()
	patch, err := json.Marshal([]map[string]any{
		{"op": "replace", "path": "/spec/template", "value": to.Spec.Template},
		{"op": "replace", "path": "/metadata/annotations", "value": map[string]string{}},
	})
	Expect(err).NotTo(HaveOccurred())
	w.kubectl("patch", "deployment", testkit.WorkloadName, "--type=json", "-p", string(patch))
}

func (w *world) replace(with *appsv1.Deployment, args ...string) {
	GinkgoHelper()
	body, err := yaml.Marshal(with)
	Expect(err).NotTo(HaveOccurred())
	file := filepath.Join(GinkgoT().TempDir(), "deployment.yaml")
	Expect(os.WriteFile(file, body, 0o600)).To(Succeed())
	w.kubectl(append([]string{"replace", "-f", file}, args...)...)
}

// seize sets a variable of ours by force and lets go of it again, by server-side
// apply.
func (w *world) seize(manager, variable string) {
	GinkgoHelper()
	for _, env := range [][]*corev1ac.EnvVarApplyConfiguration{{corev1ac.EnvVar().WithName(variable).WithValue("2")}, {}} {
		container := corev1ac.Container().WithName("server").WithEnv(env...)
		d := appsv1ac.Deployment(testkit.WorkloadName, w.ns).WithSpec(appsv1ac.DeploymentSpec().
			WithTemplate(corev1ac.PodTemplateSpec().WithSpec(corev1ac.PodSpec().WithContainers(container))))
		Expect(api.Client.Apply(context.Background(), d, client.FieldOwner(manager), client.ForceOwnership)).To(Succeed())
	}
}

const (
	whole = "DSTACK_SERVER_JOB_NETWORK_MODE, DSTACK_ISOLATION_POLICY_URL, DSTACK_ISOLATION_SERVER, DSTACK_ISOLATION_TOKEN and 5 more"
	after = " out of Deployment NS/dstack-server: all of it is put back, and until every server pod has it again, runs may be submitted without it; see status.lastRemoval"
	noone = "somebody (Kubernetes keeps no name of who only takes fields out)"
)

var _ = Describe("Settings that somebody else takes out", func() {
	DescribeTable("are put back at once, and missed until every pod has them again",
		func(remove func(w *world, before *appsv1.Deployment), manager, message string) {
			w, before, process := governed()
			remove(w, before)
			w.nextSecond()
			now := w.clock.Now()
			w.pass()
			want := "SettingsApplied=False RemovedBy: " + message + after
			Expect(w.injected()).To(BeTrue())
			Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
			Expect(w.condition("SettingsApplied")).To(Equal(want))
			Expect(w.condition("Ready")).To(HavePrefix("Ready=False RemovedBy: "))
			Expect(w.condition("Stalled")).To(HavePrefix("Stalled=False "))
			Expect(w.events()).To(ContainElement("Warning RemovedBy SettingsApplied is False: " + message + after))
			last := w.server().Status.LastRemoval
			Expect(last.Manager).To(Equal(manager))
			Expect(last.RemovedAt.Time).To(BeTemporally("~", now, 2*time.Second))
			Expect(last.RestoredAt).To(BeNil())

			By("a pod without them runs")
			process.submitted(now.Add(-time.Hour), "research", "before", true)
			process.submitted(now, "research", "first", true).submitted(now, "main", "second", false)
			w.rollingOut()
			w.restart()
			w.settle()
			Expect(w.condition("SettingsApplied")).To(Equal(want))
			Expect(w.events()).NotTo(ContainElement(ContainSubstring("RemovedBy")), "it is told once")
			Expect(process.asked).To(BeZero())

			By("every pod has them again")
			w.end("dstack-server-0")
			w.startPod("dstack-server-0")
			w.setStatus(testkit.SetReady(get(w, "dstack-server-0", &corev1.Pod{}), "10.0.0.1"))
			w.rolledOut()
			w.nextSecond()
			restored := w.clock.Now()
			process.submitted(restored.Add(time.Minute), "research", "after", false)
			w.pass()
			Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=True Applied: "))
			last = w.server().Status.LastRemoval
			Expect(last.RestoredAt.Time).To(BeTemporally("~", restored, time.Second))
			Expect(last.Runs).To(HaveValue(BeEquivalentTo(2)))
			Expect(last.FirstRuns).To(Equal([]string{"research/first", "main/second"}))
			Expect(w.events()).To(ContainElement(fmt.Sprintf(
				"Warning RemovedBy Deployment NS/dstack-server is whole again: settings were missing from %s to %s, and 2 runs were submitted: research/first, main/second",
				last.RemovedAt.UTC().Format(time.RFC3339), last.RestoredAt.UTC().Format(time.RFC3339))))
			w.settle()
			settled, asked := w.versions(), process.asked
			w.pass()
			Expect(w.versions()).To(Equal(settled))
			Expect(process.asked).To(Equal(asked))
		},
		Entry("as kubectl rollout undo does", func(w *world, before *appsv1.Deployment) { w.rollBack(before) },
			"", noone+" took "+whole),
		Entry("as kubectl rollout undo does to an older image", func(w *world, before *appsv1.Deployment) {
			before.Spec.Template.Spec.Containers[0].Image = "dstackai/dstack:older"
			w.rollBack(before)
		}, "kubectl-patch", "kubectl-patch took "+whole),
		Entry("by kubectl replace", func(w *world, before *appsv1.Deployment) {
			before.Labels = map[string]string{"version": "2"}
			w.replace(before)
		}, "kubectl-replace", "kubectl-replace took "+whole),
		Entry("by kubectl replace --force", func(w *world, before *appsv1.Deployment) { w.replace(before, "--force") },
			"kubectl-replace", "kubectl-replace took "+whole),
		Entry("by kubectl set env", func(w *world, _ *appsv1.Deployment) {
			w.kubectl("set", "env", "deployment/"+testkit.WorkloadName, dstack.EnvJobNetworkMode+"-")
		}, "", noone+" took DSTACK_SERVER_JOB_NETWORK_MODE"),
		Entry("by a server-side apply with force", func(w *world, _ *appsv1.Deployment) {
			w.seize("argocd-controller", dstack.EnvJobNetworkMode)
		}, "argocd-controller", "argocd-controller took DSTACK_SERVER_JOB_NETWORK_MODE"),
	)

	It("are not missed where nobody took them out", func() {
		w, _, _ := governed()
		change(w, w.deployment(), func(d *appsv1.Deployment) {
			d.Spec.Replicas = ptr.To[int32](2)
			d.Spec.Template.Spec.Containers[0].Image = "dstackai/dstack:next"
		})
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False RolloutInProgress: "))

		By("a manager that dies after it has taken a setting out itself")
		change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](1) })
		w.roll("dstack-server-0")
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.HostNetwork = v1alpha1.HostNetworkAllowed })
		w.policyServersUp()
		w.pass() // A looser mode is told first.
		w.withFaults(interceptor.Funcs{SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
			return unavailable()
		}})
		Expect(w.try("main")).NotTo(Succeed())
		Expect(w.env(dstack.EnvJobNetworkMode).Set).To(BeFalse())
		w.withoutFaults()
		w.pass()
		Expect(w.server().Status.LastRemoval).To(BeNil())

		By("a cache that does not know yet what was applied")
		w.roll("dstack-server-0")
		w.settle()
		stale := w.deployment()
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.HostNetwork = "" })
		w.policyServersUp()
		w.settle()
		w.roll("dstack-server-0")
		w.settle()
		w.withFaults(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if d, ok := o.(*appsv1.Deployment); ok && key.Name == testkit.WorkloadName {
				stale.DeepCopyInto(d)
				return nil
			}
			return c.Get(ctx, key, o, opts...)
		}})
		Expect(w.try("main")).To(Succeed())
		Expect(w.server().Status.LastRemoval).To(BeNil())
	})

	It("are not missed where somebody sets another value: that is a conflict", func() {
		w, _, _ := governed()
		w.kubectl("set", "env", "deployment/"+testkit.WorkloadName, dstack.EnvJobNetworkMode+"=2")
		w.pass()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False FieldConflict: "))
		Expect(w.server().Status.LastRemoval).To(BeNil())
	})

	It("are not laid at the door of who wrote before", func() {
		w, before, _ := governed()
		w.kubectl("set", "image", "deployment/"+testkit.WorkloadName, "server=dstackai/dstack:next")
		w.nextSecond()
		w.roll("dstack-server-0")
		w.settle()
		before.Spec.Template.Spec.Containers[0].Image = "dstackai/dstack:next"
		w.rollBack(before)
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False RemovedBy: " + noone + " took " + whole + after))
		Expect(w.server().Status.LastRemoval.Manager).To(BeEmpty())
	})

	It("are missed since the first pod without them, when no manager ran", func() {
		w, before, _ := governed()
		w.rollBack(before)
		w.end("dstack-server-0")
		made := w.startPod("dstack-server-0").CreationTimestamp
		w.ready("dstack-server-0", "10.0.0.1")
		w.rolledOut()
		w.clock.SetTime(time.Now().Add(time.Hour))
		w.restart()
		w.pass()
		Expect(w.server().Status.LastRemoval.RemovedAt.Time).To(BeTemporally("==", made.Time))
	})

	It("are remembered by a manager that dies before it has put them back", func() {
		w, before, _ := governed()
		w.rollBack(before)
		written := 0
		w.withFaults(interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				var options client.ApplyOptions
				if options.ApplyOptions(opts); options.FieldManager == "dstack-isolation" {
					return unavailable()
				}
				return c.Apply(ctx, o, opts...)
			},
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if written++; written > 1 {
					return unavailable()
				}
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			},
		})
		Expect(w.try("main")).NotTo(Succeed())
		Expect(w.injected()).To(BeFalse())
		Expect(w.server().Status.LastRemoval).NotTo(BeNil())

		By("the next one lives")
		w.withoutFaults()
		w.pass()
		Expect(w.injected()).To(BeTrue())
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False RemovedBy: " + noone + " took " + whole + after))
		Expect(w.events()).To(ContainElement(HavePrefix("Warning RemovedBy ")))
	})

	It("are remembered by a manager that dies right after it has put them back", func() {
		w, before, _ := governed()
		w.rollBack(before)
		written := 0
		w.withFaults(interceptor.Funcs{
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if written++; written > 1 {
					return unavailable()
				}
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			},
		})
		Expect(w.try("main")).NotTo(Succeed())
		Expect(w.injected()).To(BeTrue())
		w.rollingOut()
		w.withoutFaults()
		w.pass()
		Expect(w.condition("SettingsApplied")).To(Equal("SettingsApplied=False RemovedBy: " + noone + " took settings" + after))
	})

	It("are put back although that cannot be written down, and are left for the next pass when the status is behind", func() {
		w, before, _ := governed()
		failures := []error{apierrors.NewConflict(schema.GroupResource{Resource: "dstackservers"}, "main", nil), unavailable()}
		w.rollBack(before)
		w.withFaults(interceptor.Funcs{
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if len(failures) > 0 {
					err := failures[0]
					failures = failures[1:]
					return err
				}
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			},
		})
		Expect(w.try("main")).To(Succeed())
		Expect(w.injected()).To(BeFalse())
		Expect(w.result.RequeueAfter).To(soon)
		Expect(w.try("main")).To(Succeed())
		Expect(w.injected()).To(BeTrue())
		Expect(w.server().Status.LastRemoval).NotTo(BeNil(), "the status at the end of the pass holds it")
	})

	It("tell of runs later when they cannot be listed at first", func() {
		w, before, process := governed()
		w.rollBack(before)
		w.pass()
		process.submitted(w.clock.Now(), "research", "one", false)
		w.roll("dstack-server-0") // Its process knows of no runs, and answers another token.
		w.ready("dstack-server-0", "10.0.0.1").token = "another"
		w.pass()
		last := w.server().Status.LastRemoval
		Expect(last.RestoredAt).NotTo(BeNil())
		Expect(last.Runs).To(BeNil())
		Expect(w.server().Status.Warnings).To(ContainElement(HavePrefix("the runs that were submitted without settings, from ")))
		Expect(w.result.RequeueAfter).To(soon)
		w.network.at("10.0.0.1:3000", w.network.listen(process))
		w.pass()
		Expect(w.server().Status.LastRemoval.FirstRuns).To(Equal([]string{"research/one"}))
		Expect(w.server().Status.Warnings).NotTo(ContainElement(HavePrefix("the runs that were submitted")))
	})

	It("tell that runs are not known without an admin token", func() {
		w := usual()
		before := w.deployment()
		w.bringUp()
		w.rollBack(before)
		w.pass()
		w.roll("dstack-server-0")
		w.events()
		w.pass()
		Expect(w.events()).To(ContainElement(MatchRegexp(
			`^Warning RemovedBy Deployment NS/dstack-server is whole again: settings were missing from \S+ to \S+; the runs submitted then are not known without spec\.api\.adminTokenSecretRef$`)))
		Expect(w.server().Status.LastRemoval.Runs).To(BeNil())
		w.pass()
		Expect(w.events()).To(BeEmpty())
	})

	It("are missed no more where nothing is to be put back", func() {
		w, before, _ := governed()
		w.rollBack(before)
		w.pass()
		Expect(w.server().Status.LastRemoval).NotTo(BeNil())
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
		w.pass()
		Expect(w.server().Status.LastRemoval).To(BeNil())
	})
})
