package controllers_test

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/uninstall"
)

// cleanupOf runs the cleanup of release "operator" as its chart does, rendered at a
// revision.
func (w *world) cleanupOf(c client.Client, timeout time.Duration, revision int) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return w.cleanupUntil(ctx, c, revision)
}

func (w *world) cleanupUntil(ctx context.Context, c client.Client, revision int) error {
	ctx = logr.NewContext(ctx, GinkgoLogr)
	release := uninstall.Release{Namespace: w.ns, Name: "operator", Manager: "manager"}
	return controllers.NewCleanup(c, w.ns).RunFor(ctx, release, revision)
}

// managerOf creates the manager's Deployment of a release. It runs no pod, unless
// its status says so.
func (w *world) managerOf(name, release string, edit ...func(*appsv1.Deployment)) {
	GinkgoHelper()
	labels := uninstall.ManagerLabels()
	labels["app.kubernetes.io/instance"] = release
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "manager", Image: "dstack-isolation:1"}}},
		},
	}}
	for _, e := range edit {
		e(d)
	}
	w.create(d)
}

func ordered(d *appsv1.Deployment) {
	d.Annotations = map[string]string{"isolation.dstack.ai/uninstall": "operator"}
}

func installedByHelm(d *appsv1.Deployment) {
	d.Annotations = map[string]string{"meta.helm.sh/release-name": "operator"}
}

// recordLabels are those of Helm's records.
func recordLabels(status string, revision int) map[string]string {
	return map[string]string{"owner": "helm", "name": "operator", "status": status, "version": fmt.Sprint(revision)}
}

// helmSecret is Helm's record of a revision of release "operator".
func (w *world) helmSecret(status string, revision int) {
	GinkgoHelper()
	name := fmt.Sprintf("sh.helm.release.v1.operator.v%d", revision)
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: recordLabels(status, revision)}, Type: "helm.sh/release.v1"})
}

func (w *world) helmConfigMap(status string, revision int) {
	GinkgoHelper()
	name := fmt.Sprintf("sh.helm.release.v1.operator.v%d", revision)
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: recordLabels(status, revision)}})
}

// cleanupEvents are what cleanups said of the DstackServers.
func (w *world) cleanupEvents() []string {
	GinkgoHelper()
	var list eventsv1.EventList
	Expect(api.Client.List(context.Background(), &list, client.InNamespace(w.ns))).To(Succeed())
	var said []string
	for i := range list.Items {
		e := &list.Items[i]
		said = append(said, w.plain(fmt.Sprintf("%s %s %s/%s: %s", e.Type, e.Reason, e.Regarding.Kind, e.Regarding.Name, e.Note)))
	}
	return said
}

// expectLeftAlone expects that nothing has changed since, and that the events say why.
func (w *world) expectLeftAlone(before map[string]string, why string) {
	GinkgoHelper()
	Expect(w.versions()).To(Equal(before))
	Expect(isInjected(w.deployment())).To(BeTrue())
	Expect(w.cleanupEvents()).To(Equal([]string{
		"Warning CleanupSkipped DstackServer/main: the chart's cleanup restored nothing: " + why,
	}))
}

var _ = Describe("The cleanup of a release", func() {
	const (
		long   = 30 * time.Second
		remedy = ": to restore the dstack servers, delete the DstackServers before you delete the operator, or run: kubectl -n NS annotate --overwrite deployment manager isolation.dstack.ai/uninstall=operator"
		none   = "Helm has no release operator in namespace NS, so the operator is not known to be uninstalled" + remedy
	)
	up := func() *world {
		GinkgoHelper()
		w := usual()
		w.bringUp()
		w.end("dstack-server-0")
		return w
	}

	for about, tc := range map[string]struct {
		prepare func(w *world)
		why     string
	}{
		"that is rendered and applied": {func(w *world) { w.managerOf("manager", "operator") }, none},
		"that was never applied":       {func(*world) {}, none},
		"that is deployed":             {func(w *world) { w.managerOf("manager", "operator", installedByHelm); w.helmSecret("deployed", 1) }, "Helm is not uninstalling release operator, its status is deployed" + remedy},
		"that was rolled back after an uninstall that failed": {func(w *world) {
			w.helmSecret("superseded", 1)
			w.helmSecret("uninstalling", 2)
			w.helmSecret("deployed", 40)
		}, "Helm is not uninstalling release operator, its status is deployed" + remedy},
		"of another name that is being uninstalled": {func(w *world) {
			w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sh.helm.release.v1.other.v1", Labels: recordLabels("uninstalling", 1)}})
		}, none},
		"beside the manager of another one": {func(w *world) {
			w.managerOf("manager", "operator", ordered)
			w.managerOf("other-manager", "other")
			w.helmSecret("uninstalling", 1)
		}, "namespace NS is also managed by Deployment other-manager of release other: uninstall that too, or delete the DstackServers, to restore the dstack servers"},
	} {
		It("restores nothing of a release "+about, func() {
			w := up()
			tc.prepare(w)
			before := w.versions()
			Expect(w.cleanupOf(api.Client, long, 1)).To(Succeed())
			w.expectLeftAlone(before, tc.why)
		})
	}

	for about, prepare := range map[string]func(w *world){
		"Helm uninstalls it":                                    func(w *world) { w.managerOf("manager", "operator", installedByHelm); w.helmSecret("uninstalling", 1) },
		"Helm uninstalls it after its manager is gone":          func(w *world) { w.helmSecret("uninstalling", 1) },
		"Helm uninstalls it after a rollback":                   func(w *world) { w.helmSecret("superseded", 1); w.helmSecret("uninstalling", 3) },
		"Helm uninstalls it after it deleted its first records": func(w *world) { w.helmSecret("uninstalling", 60) },
		"Helm keeps its records in ConfigMaps": func(w *world) {
			w.helmSecret("deployed", 1)
			w.helmConfigMap("superseded", 9)
			w.helmConfigMap("uninstalling", 10)
		},
		"it is ordered": func(w *world) { w.managerOf("manager", "operator", ordered) },
	} {
		It("restores the servers once "+about, func() {
			w := up()
			prepare(w)
			Expect(w.cleanupOf(api.Client, long, 1)).To(Succeed())
			Expect(isInjected(w.deployment())).To(BeFalse())
			w.nothingLeft()
			Expect(w.server().Finalizers).To(BeEmpty())
			Expect(w.cleanupEvents()).To(BeEmpty())
		})
	}

	It("fails where Helm has installed it and its records are nowhere", func() {
		w := up()
		w.managerOf("manager", "operator", installedByHelm)
		before := w.versions()
		Expect(w.plain(w.cleanupOf(api.Client, long, 1).Error())).To(Equal("cannot tell whether the release is being uninstalled: Helm installed Deployment manager, and namespace NS has no Secret or ConfigMap with Helm's record of release operator; " +
			"to restore the dstack servers, run: kubectl -n NS annotate --overwrite deployment manager isolation.dstack.ai/uninstall=operator"))
		Expect(w.versions()).To(Equal(before))
	})

	for about, fault := range map[string]struct {
		funcs interceptor.Funcs
		want  string
	}{
		"the managers": {interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			if _, is := l.(*appsv1.DeploymentList); is {
				return forbidden("deployments")
			}
			return c.List(ctx, l, opts...)
		}}, `list the Deployments of managers: deployments is forbidden: <nil>`},
		"Helm's Secrets": {interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if o.GetObjectKind().GroupVersionKind().Kind == "Secret" {
				return forbidden("secrets")
			}
			return c.Get(ctx, key, o, opts...)
		}}, `read Helm's record in Secret sh.helm.release.v1.operator.v1: secrets is forbidden: <nil>`},
		"Helm's ConfigMaps": {interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			if l.GetObjectKind().GroupVersionKind().Kind == "ConfigMapList" {
				return forbidden("configmaps")
			}
			return c.List(ctx, l, opts...)
		}}, `list Helm's records in ConfigMaps: configmaps is forbidden: <nil>`},
	} {
		It("restores nothing when it cannot read "+about, func() {
			w := up()
			w.managerOf("manager", "operator")
			before := w.versions()
			Expect(w.cleanupOf(interceptor.NewClient(api.Client, fault.funcs), long, 1)).To(MatchError(fault.want))
			Expect(w.versions()).To(Equal(before))
		})
	}

	It("succeeds when its event is refused", func() {
		w := up()
		before := w.versions()
		c := interceptor.NewClient(api.Client, interceptor.Funcs{Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return forbidden("events")
		}})
		Expect(w.cleanupOf(c, long, 1)).To(Succeed())
		Expect(w.versions()).To(Equal(before))
	})

	It("waits for the manager to restore a server that is being deleted", func() {
		w := up()
		w.managerOf("manager", "operator")
		d := named(w, "manager", &appsv1.Deployment{})
		Expect(api.Client.Get(context.Background(), client.ObjectKeyFromObject(d), d)).To(Succeed())
		d.Status.Replicas = 1
		Expect(api.Client.Status().Update(context.Background(), d)).To(Succeed())
		Expect(api.Client.Delete(context.Background(), w.server())).To(Succeed())

		until, cancel := context.WithCancel(context.Background())
		looks := 0
		looking := interceptor.NewClient(api.Client, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			err := c.Get(ctx, key, o, opts...)
			if _, is := o.(*v1alpha1.DstackServer); is {
				if looks++; looks == 2 {
					cancel()
				}
			}
			return err
		}})
		Expect(w.cleanupUntil(until, looking, 1)).To(MatchError("DstackServer main: it is being deleted, and the manager has not restored its dstack server: look at its status: context canceled"))
		Expect(looks).To(Equal(2))
		Expect(isInjected(w.deployment())).To(BeTrue(), "to restore it is the manager's")
		done := background(func() error { return w.cleanupOf(api.Client, long, 1) })
		Expect(w.try("main")).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
		Eventually(done).WithTimeout(long).Should(Receive(BeNil()))
	})
})

func forbidden(resource string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", nil)
}
