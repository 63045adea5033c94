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

// begunAt has an ordered cleanup that began some time ago.
func begunAt(ago time.Duration) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Annotations = map[string]string{"isolation.dstack.ai/uninstall-begun": time.Now().Add(-ago).UTC().Format(time.RFC3339)}
	}
}

// recordMeta is that of Helm's record of a revision of release "operator".
func recordMeta(status string, revision int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: fmt.Sprintf("sh.helm.release.v1.operator.v%d", revision), Labels: map[string]string{
		"owner": "helm", "name": "operator", "status": status, "version": fmt.Sprint(revision), "modifiedAt": fmt.Sprint(time.Now().Unix()),
	}}
}

// helmSecret is Helm's record of a revision of release "operator", just written.
func (w *world) helmSecret(status string, revision int) *corev1.Secret {
	GinkgoHelper()
	s := &corev1.Secret{ObjectMeta: recordMeta(status, revision), Type: "helm.sh/release.v1", Data: map[string][]byte{"release": []byte("r")}}
	w.create(s)
	return s
}

func (w *world) helmConfigMap(status string, revision int) *corev1.ConfigMap {
	GinkgoHelper()
	c := &corev1.ConfigMap{ObjectMeta: recordMeta(status, revision), Data: map[string]string{"release": "r"}}
	w.create(c)
	return c
}

// writtenAt makes it a record that Helm wrote at a time, and that somebody has labelled
// since: the API server keeps no change of times alone.
func writtenAt(record client.Object, at time.Time) {
	GinkgoHelper()
	changes := record.GetManagedFields()
	Expect(changes).NotTo(BeEmpty())
	for i := range changes {
		changes[i].Manager, changes[i].Time = "helm", &metav1.Time{Time: at}
	}
	record.SetManagedFields(changes)
	record.SetAnnotations(map[string]string{"theirs": "1"})
	Expect(api.Client.Update(context.Background(), record)).To(Succeed())
}

func (w *world) managersAnnotations() map[string]string {
	GinkgoHelper()
	d := named(w, "manager", &appsv1.Deployment{})
	Expect(api.Client.Get(context.Background(), client.ObjectKeyFromObject(d), d)).To(Succeed())
	return d.Annotations
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
		"whose uninstall failed before its records were kept in Secrets": {func(w *world) {
			writtenAt(w.helmConfigMap("uninstalling", 5), time.Now().Add(-24*time.Hour))
			writtenAt(w.helmSecret("deployed", 1), time.Now().Add(-time.Hour))
		}, "Helm is not uninstalling release operator, its status is deployed" + remedy},
		"of another name that is being uninstalled": {func(w *world) {
			meta := recordMeta("uninstalling", 1)
			meta.Name = "sh.helm.release.v1.other.v1"
			w.create(&corev1.Secret{ObjectMeta: meta})
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
			writtenAt(w.helmSecret("deployed", 1), time.Now().Add(-time.Hour))
			w.helmConfigMap("superseded", 9)
			w.helmConfigMap("uninstalling", 10)
		},
		"it is ordered":                  func(w *world) { w.managerOf("manager", "operator", ordered) },
		"an ordered cleanup tries again": func(w *world) { w.managerOf("manager", "operator", begunAt(time.Minute)) },
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

	for about, tc := range map[string]struct {
		prepare func(w *world)
		want    string
	}{
		"the record of an uninstall that failed": {
			func(w *world) {
				w.managerOf("manager", "operator", installedByHelm)
				writtenAt(w.helmSecret("uninstalling", 1), time.Unix(1772366400, 0))
			},
			"^cannot tell whether the release is being uninstalled: Helm wrote status uninstalling of release operator at 2026-03-01T12:00:00Z, and now it is [^ ]+: an earlier uninstall failed and left it, ",
		},
		"an ordered cleanup that did not end": {
			func(w *world) { w.managerOf("manager", "operator", begunAt(time.Hour)) },
			"^cannot tell whether the release is being uninstalled: annotation isolation.dstack.ai/uninstall-begun of Deployment manager shows that an ordered cleanup began at [^ ]+ and has not ended; ",
		},
	} {
		It("fails, and restores nothing, for "+about, func() {
			w := up()
			tc.prepare(w)
			before := w.versions()
			Expect(w.cleanupOf(api.Client, long, 1)).To(MatchError(MatchRegexp(tc.want)))
			Expect(w.versions()).To(Equal(before))
		})
	}

	It("carries out an order once", func() {
		w := up()
		w.managerOf("manager", "operator", ordered)
		Expect(w.cleanupOf(api.Client, long, 1)).To(Succeed())
		Expect(isInjected(w.deployment())).To(BeFalse())
		Expect(w.managersAnnotations()).To(BeEmpty())

		By("the operator is kept, and its chart applied again")
		w.bringUp()
		before := w.versions()
		Expect(w.cleanupOf(api.Client, long, 1)).To(Succeed())
		w.expectLeftAlone(before, none)
	})

	It("goes on with an order when it is tried again, and takes the note away with the last server", func() {
		w := up()
		w.managerOf("manager", "operator", ordered)
		broken := interceptor.NewClient(api.Client, interceptor.Funcs{SubResourceUpdate: func(context.Context, client.Client, string, client.Object, ...client.SubResourceUpdateOption) error {
			return forbidden("deployments/scale")
		}})
		Expect(w.cleanupOf(broken, long, 1)).NotTo(Succeed())
		Expect(w.managersAnnotations()).To(HaveKey("isolation.dstack.ai/uninstall-begun"))
		Expect(w.managersAnnotations()).NotTo(HaveKey("isolation.dstack.ai/uninstall"))
		Expect(isInjected(w.deployment())).To(BeTrue())

		Expect(w.cleanupOf(api.Client, long, 1)).To(Succeed())
		Expect(isInjected(w.deployment())).To(BeFalse())
		Expect(w.managersAnnotations()).To(BeEmpty())
	})

	It("restores nothing while it cannot note that an order is carried out", func() {
		w := up()
		w.managerOf("manager", "operator", ordered)
		before := w.versions()
		c := interceptor.NewClient(api.Client, interceptor.Funcs{Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			return forbidden("deployments")
		}})
		Expect(w.cleanupOf(c, long, 1)).To(MatchError("change annotations of manager Deployment manager, so that its order counts once: deployments is forbidden: <nil>"))
		Expect(w.versions()).To(Equal(before))
	})

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
