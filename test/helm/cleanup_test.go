package helm_test

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/app"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/test/sharing"
)

const (
	cleanupName = "dstack-isolation-cleanup"
	managerName = "dstack-isolation-manager"
	soon        = time.Minute
)

// site is a namespace with a dstack server that has the operator's settings. No pods
// run here: the test is the Job's controller, and runs what the Job's pod would, with
// the rights of its ServiceAccount.
type site struct {
	*sharing.Workload
	helm     helm
	manifest *unstructured.Unstructured
}

func newSite(ctx context.Context, way way) *site {
	GinkgoHelper()
	ensureDefinitions(ctx)
	w := sharing.New(api, v1alpha1.WorkloadDeployment)
	s := &site{Workload: w, helm: way.make(w), manifest: w.Manifest()}
	Expect(api.Client.Create(ctx, s.manifest.DeepCopy())).To(Succeed())
	w.Settle()
	server := testkit.MakeServer("main").Namespace(w.Namespace).Obj()
	server.Spec.Workload.Container = w.Container
	server.Finalizers = []string{v1alpha1.Finalizer}
	Expect(api.Client.Create(ctx, server)).To(Succeed())
	return s
}

// ensureDefinitions makes the kinds known again that a spec about the operator's own
// chart may have removed.
func ensureDefinitions(ctx context.Context) {
	GinkgoHelper()
	Eventually(func() error { return api.Client.List(ctx, &v1alpha1.DstackServerList{}) }).WithTimeout(soon).Should(Succeed())
}

// siteValues are the least that an install needs, beside kinds that are there already.
func siteValues() map[string]any {
	GinkgoHelper()
	values := operatorValues()
	values["crds"] = map[string]any{"enabled": false}
	return values
}

// runJob waits for the Job of the cleanup, runs it with the rights that the chart
// gives it, and notes how it ended.
func (s *site) runJob(ctx context.Context) int {
	GinkgoHelper()
	job := &batchv1.Job{}
	Eventually(func(g Gomega) {
		*job = batchv1.Job{}
		g.Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: cleanupName}, job)).To(Succeed())
		g.Expect(job.Status.Conditions).To(BeEmpty(), "it is an earlier one, which has ended")
	}).WithTimeout(soon).Should(Succeed())
	config := rest.CopyConfig(api.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + s.Namespace + ":" + job.Spec.Template.Spec.ServiceAccountName}
	s.waitForRights(ctx, config)
	GinkgoTB().Setenv("KUBECONFIG", sharing.Kubeconfig(config))
	GinkgoTB().Setenv("POD_NAMESPACE", s.Namespace)
	code := app.Main(job.Spec.Template.Spec.Containers[0].Args)

	now := metav1.Now()
	job.Status.StartTime, job.Status.CompletionTime = &now, &now
	ended := []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete}
	job.Status.Succeeded = 1
	if code != 0 {
		ended = []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed}
		job.Status.Succeeded, job.Status.Failed, job.Status.CompletionTime = 0, 1, nil
	}
	for _, kind := range ended {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now, Reason: "Test"})
	}
	Expect(api.Client.Status().Update(ctx, job)).To(Succeed())
	return code
}

// waitForRights: the authorizer sees a new Role a moment later.
func (s *site) waitForRights(ctx context.Context, config *rest.Config) {
	GinkgoHelper()
	c, err := client.New(config, client.Options{Scheme: testkit.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	Eventually(func() error { return c.List(ctx, &v1alpha1.DstackServerList{}, client.InNamespace(s.Namespace)) }).WithTimeout(soon).Should(Succeed())
}

func (s *site) server(ctx context.Context) *v1alpha1.DstackServer {
	GinkgoHelper()
	server := &v1alpha1.DstackServer{}
	Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: "main"}, server)).To(Succeed())
	return server
}

func (s *site) managerDeployment(ctx context.Context) *appsv1.Deployment {
	GinkgoHelper()
	d := &appsv1.Deployment{}
	Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: managerName}, d)).To(Succeed())
	return d
}

// annotateManager orders the cleanup to restore the servers, as an administrator does.
func (s *site) annotateManager(ctx context.Context, release string) {
	GinkgoHelper()
	d := s.managerDeployment(ctx)
	base := d.DeepCopy()
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, "isolation.dstack.ai/uninstall", release)
	Expect(api.Client.Patch(ctx, d, client.MergeFrom(base))).To(Succeed())
}

func (s *site) expectRestored(ctx context.Context) {
	GinkgoHelper()
	s.ExpectUsersOwn(s.manifest)
	Expect(s.server(ctx).Finalizers).To(BeEmpty())
}

// expectLeftAlone expects that the server is isolated as before, and that an event
// says why.
func (s *site) expectLeftAlone(ctx context.Context, why string) {
	GinkgoHelper()
	s.ExpectShared(s.manifest)
	Expect(s.server(ctx).Finalizers).NotTo(BeEmpty())
	var list eventsv1.EventList
	Expect(api.Client.List(ctx, &list, client.InNamespace(s.Namespace))).To(Succeed())
	Expect(list.Items).To(ContainElement(And(
		HaveField("Reason", "CleanupSkipped"), HaveField("Regarding.Name", "main"), HaveField("Note", ContainSubstring(why)))))
}

// applyAll creates or updates objects, as tools do that only render the chart.
func (s *site) applyAll(ctx context.Context, objects []*unstructured.Unstructured) {
	GinkgoHelper()
	for _, o := range objects {
		ac := client.ApplyConfigurationFromUnstructured(o.DeepCopy())
		Expect(api.Client.Apply(ctx, ac, client.FieldOwner("argocd-controller"), client.ForceOwnership)).To(Succeed(), o.GetKind())
	}
}

// deleteAll deletes objects, as a tool does after it has run a hook.
func (s *site) deleteAll(ctx context.Context, objects []*unstructured.Unstructured) {
	GinkgoHelper()
	for _, o := range objects {
		err := api.Client.Delete(ctx, o.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground))
		Expect(client.IgnoreNotFound(err)).To(Succeed(), o.GetKind())
	}
}

// hooks are the objects with Helm's annotation of one, and the others.
func hooks(objects []*unstructured.Unstructured) (hooks, others []*unstructured.Unstructured) {
	for _, o := range objects {
		if o.GetAnnotations()["helm.sh/hook"] != "" {
			hooks = append(hooks, o)
		} else {
			others = append(others, o)
		}
	}
	return hooks, others
}

var _ = Describe("The cleanup of the operator's chart", func() {
	const noRelease = "Helm has no release dstack-isolation in namespace "

	for _, way := range ways {
		Describe("by "+way.name, func() {
			var s *site
			BeforeEach(func(ctx context.Context) { s = newSite(ctx, way) })

			// uninstall lets Helm uninstall the release while the Job runs.
			uninstall := func(ctx context.Context, wantCode int) error {
				GinkgoHelper()
				done := make(chan error, 1)
				go func() {
					defer GinkgoRecover()
					done <- s.helm.uninstallWithHooks()
				}()
				Expect(s.runJob(ctx)).To(Equal(wantCode))
				var err error
				Eventually(done).WithTimeout(soon).Should(Receive(&err))
				return err
			}

			It("restores the server on an uninstall", func(ctx context.Context) {
				s.helm.installOperator(siteValues())
				Expect(uninstall(ctx, 0)).To(Succeed())
				s.expectRestored(ctx)
			})

			It("restores the server on an uninstall after upgrades and a rollback", func(ctx context.Context) {
				s.helm.installOperator(siteValues())
				for _, tag := range []string{"0.2.0", "0.3.0", "0.4.0"} {
					s.helm.upgradeOperator(map[string]any{"image": map[string]any{"tag": tag}})
				}
				s.helm.rollbackOperator(1)
				Expect(uninstall(ctx, 0)).To(Succeed())
				s.expectRestored(ctx)
			})

			It("leaves the server alone while another release manages the namespace", func(ctx context.Context) {
				s.helm.installOperator(siteValues())
				other := s.managerDeployment(ctx).DeepCopy()
				other.ObjectMeta = metav1.ObjectMeta{Namespace: s.Namespace, Name: "other-manager", Labels: other.Labels}
				other.Labels["app.kubernetes.io/instance"] = "other"
				Expect(api.Client.Create(ctx, other)).To(Succeed())
				Expect(uninstall(ctx, 0)).To(Succeed())
				s.expectLeftAlone(ctx, "namespace "+s.Namespace+" is also managed by Deployment other-manager of release other: uninstall that too")
			})

			It("stops the uninstall, and changes nothing, when it cannot know", func(ctx context.Context) {
				s.helm.installOperator(siteValues())
				s.annotateManager(ctx, "dstack-isolatoin")
				Expect(uninstall(ctx, 1)).NotTo(Succeed())
				s.ExpectShared(s.manifest)
				Expect(s.managerDeployment(ctx).Spec.Replicas).To(HaveValue(BeEquivalentTo(1)))

				By("an uninstall after the order is right")
				s.annotateManager(ctx, operator)
				Expect(uninstall(ctx, 0)).To(Succeed())
				s.expectRestored(ctx)
			})

			It("fails where Helm keeps its records elsewhere", func(ctx context.Context) {
				s.helm.installOperator(siteValues())
				Expect(api.Client.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(s.Namespace), client.MatchingLabels{"owner": "helm"})).To(Succeed())
				rendered, _ := hooks(s.helm.renderOperator(siteValues()))
				s.applyAll(ctx, rendered)
				Expect(s.runJob(ctx)).To(Equal(1))
				s.ExpectShared(s.manifest)
			})

			It("does nothing where the chart is rendered and applied, again and again", func(ctx context.Context) {
				rendered := s.helm.renderOperator(siteValues())
				job := slices.IndexFunc(rendered, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Job" })
				Expect(job).NotTo(Equal(-1), "nothing tells rendering from an install")
				for range 2 {
					s.applyAll(ctx, rendered)
					Expect(s.runJob(ctx)).To(BeZero())
					s.expectLeftAlone(ctx, noRelease+s.Namespace)
					Expect(s.managerDeployment(ctx).Spec.Replicas).To(HaveValue(BeEquivalentTo(1)))
					// Its time to live has passed.
					s.deleteAll(ctx, rendered[job:job+1])
					Eventually(func() error {
						return api.Client.Get(ctx, client.ObjectKeyFromObject(rendered[job]), rendered[job].DeepCopy())
					}).WithTimeout(soon).Should(Satisfy(apierrors.IsNotFound))
				}
			})
		})
	}

	// Argo CD renders the chart as `helm template` does, applies all but the hooks, and
	// runs those before each deletion of the Application.
	Describe("as Argo CD runs it", func() {
		var (
			s              *site
			before, others []*unstructured.Unstructured
		)
		BeforeEach(func(ctx context.Context) {
			s = newSite(ctx, ways[0])
			before, others = hooks(s.helm.renderOperator(siteValues()))
		})
		preDelete := func(ctx context.Context) int {
			GinkgoHelper()
			s.applyAll(ctx, before)
			code := s.runJob(ctx)
			s.deleteAll(ctx, before)
			return code
		}

		It("leaves the server alone when the Application is deleted and its objects stay", func(ctx context.Context) {
			s.applyAll(ctx, others)
			Expect(preDelete(ctx)).To(BeZero())
			s.expectLeftAlone(ctx, noRelease+s.Namespace)
			Expect(s.managerDeployment(ctx).Spec.Replicas).To(HaveValue(BeEquivalentTo(1)))
		})

		It("leaves the server of another release alone when an Application goes that was never synced", func(ctx context.Context) {
			Expect(preDelete(ctx)).To(BeZero())
			s.expectLeftAlone(ctx, noRelease+s.Namespace)
		})

		It("restores the server once this is ordered", func(ctx context.Context) {
			s.applyAll(ctx, others)
			s.annotateManager(ctx, operator)
			Expect(preDelete(ctx)).To(BeZero())
			s.expectRestored(ctx)
			Expect(ptr.Deref(s.managerDeployment(ctx).Spec.Replicas, 1)).To(BeZero())
		})

		It("keeps the order when the chart is applied again", func(ctx context.Context) {
			s.applyAll(ctx, others)
			s.annotateManager(ctx, operator)
			s.applyAll(ctx, others)
			Expect(s.managerDeployment(ctx).Annotations).To(HaveKeyWithValue("isolation.dstack.ai/uninstall", operator))
		})

		It("has nothing to do after the DstackServers were deleted first", func(ctx context.Context) {
			s.applyAll(ctx, others)
			s.Release()
			server := s.server(ctx)
			base := server.DeepCopy()
			server.Finalizers = nil
			Expect(api.Client.Patch(ctx, server, client.MergeFrom(base))).To(Succeed())
			Expect(api.Client.Delete(ctx, server)).To(Succeed())
			Expect(preDelete(ctx)).To(BeZero())
			s.ExpectUsersOwn(s.manifest)
		})
	})

	It("renders what only a hook needs as hooks, to be left out", func() {
		w := sharing.New(api, v1alpha1.WorkloadDeployment)
		for _, way := range ways[:2] {
			rendered, others := hooks(way.make(w).renderOperator(siteValues()))
			Expect(rendered).To(HaveLen(4))
			for _, o := range others {
				Expect(o.GetName()).NotTo(ContainSubstring("cleanup"), strings.ToLower(o.GetKind()))
			}
		}
	})
})
