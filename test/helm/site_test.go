package helm_test

import (
	"context"
	"fmt"
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

// annotateManager orders the cleanup to restore the servers, as an administrator does;
// no release takes the order back.
func (s *site) annotateManager(ctx context.Context, release string) {
	GinkgoHelper()
	d := s.managerDeployment(ctx)
	base := d.DeepCopy()
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, "isolation.dstack.ai/uninstall", release)
	if release == "" {
		delete(d.Annotations, "isolation.dstack.ai/uninstall")
	}
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

func (s *site) deleteAllAndWait(ctx context.Context, objects []*unstructured.Unstructured) {
	GinkgoHelper()
	s.deleteAll(ctx, objects)
	for _, o := range objects {
		Eventually(func() error { return api.Client.Get(ctx, client.ObjectKeyFromObject(o), o.DeepCopy()) }).
			WithTimeout(soon).Should(Satisfy(apierrors.IsNotFound), o.GetKind())
	}
}

// ageRecord has the API server say that Helm's record that it uninstalls a revision
// is an hour older.
func (s *site) ageRecord(ctx context.Context, revision int) {
	GinkgoHelper()
	record := &corev1.Secret{}
	key := client.ObjectKey{Namespace: s.Namespace, Name: fmt.Sprintf("sh.helm.release.v1.%s.v%d", operator, revision)}
	Expect(api.Client.Get(ctx, key, record)).To(Succeed())
	Expect(record.Labels).To(HaveKeyWithValue("status", "uninstalling"))
	for i := range record.ManagedFields {
		record.ManagedFields[i].Time.Time = record.ManagedFields[i].Time.Add(-time.Hour)
	}
	metav1.SetMetaDataAnnotation(&record.ObjectMeta, "theirs", "1") // A change of times alone is kept by no API server.
	Expect(api.Client.Update(ctx, record)).To(Succeed())
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
