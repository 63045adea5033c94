package helm_test

import (
	"context"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/test/sharing"
)

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

			It("does not take the record of an uninstall that failed for one under way", func(ctx context.Context) {
				s.helm.installOperator(siteValues())
				s.annotateManager(ctx, "dstack-isolatoin")
				Expect(uninstall(ctx, 1)).NotTo(Succeed())
				rendered, _ := hooks(s.helm.renderOperator(siteValues()))
				s.deleteAllAndWait(ctx, rendered)
				s.ageRecord(ctx, 1)

				By("the order is taken back, and the chart rendered and applied by the same name")
				s.annotateManager(ctx, "")
				s.applyAll(ctx, rendered)
				Expect(s.runJob(ctx)).To(Equal(1))
				s.ExpectShared(s.manifest)
				Expect(s.managerDeployment(ctx).Spec.Replicas).To(HaveValue(BeEquivalentTo(1)))
				s.deleteAllAndWait(ctx, rendered)

				By("Helm uninstalls it")
				Expect(uninstall(ctx, 0)).To(Succeed())
				s.expectRestored(ctx)
			})

			It("leaves the server alone once the release is rolled back after an uninstall that failed", func(ctx context.Context) {
				s.helm.installOperator(siteValues())
				s.annotateManager(ctx, "dstack-isolatoin")
				Expect(uninstall(ctx, 1)).NotTo(Succeed())
				s.annotateManager(ctx, "")
				rendered, _ := hooks(s.helm.renderOperator(siteValues()))
				s.deleteAllAndWait(ctx, rendered)
				s.helm.rollbackOperator(1)
				s.applyAll(ctx, rendered)
				Expect(s.runJob(ctx)).To(BeZero())
				s.expectLeftAlone(ctx, "Helm is not uninstalling release dstack-isolation, its status is deployed")
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
					s.deleteAllAndWait(ctx, rendered[job:job+1])
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

			By("the operator is kept, and isolates the server again")
			s.applyAll(ctx, others)
			s.Settle()
			server := s.server(ctx)
			base := server.DeepCopy()
			server.Finalizers = []string{v1alpha1.Finalizer}
			Expect(api.Client.Patch(ctx, server, client.MergeFrom(base))).To(Succeed())
			Expect(preDelete(ctx)).To(BeZero())
			s.expectLeftAlone(ctx, noRelease+s.Namespace)
			Expect(s.managerDeployment(ctx).Spec.Replicas).To(HaveValue(BeEquivalentTo(1)))
			for key := range s.managerDeployment(ctx).Annotations {
				Expect(key).NotTo(ContainSubstring("uninstall"), "the order counted once")
			}
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
