package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// cleanup runs the cleanup and gives up after a while.
func (w *world) cleanup(timeout time.Duration, manager string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return controllers.NewCleanup(api.Client, w.ns).Run(ctx, manager)
}

// background runs f until it is done or the spec is over.
func background(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// manager creates the manager's Deployment and a pod of it.
func (w *world) manager() {
	GinkgoHelper()
	labels := map[string]string{"app": "manager"}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "manager", Image: "dstack-isolation:1"}}},
	}
	w.create(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "manager"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template,
	}})
	pod := testkit.PodOf(w.ns, "manager-0", template)
	pod.Spec.NodeName = "node"
	w.create(pod)
}

var _ = Describe("The cleanup before the operator goes", func() {
	ctx := context.Background()
	const long = 30 * time.Second

	It("stops the manager first, and only then takes settings back", func() {
		w := usual()
		w.bringUp()
		before := w.deployment().ResourceVersion
		w.manager()
		w.end("dstack-server-0")
		done := background(func() error { return w.cleanup(long, "manager") })
		Eventually(func() int32 {
			return ptr.Deref(get(w, "manager", &appsv1.Deployment{}).Spec.Replicas, 1)
		}).WithTimeout(long).Should(BeZero())

		By("its pod is told to end, and may be in the midst of a pass")
		w.terminate("manager-0")
		Consistently(done).WithTimeout(1500 * time.Millisecond).ShouldNot(Receive())
		Expect(w.deployment().ResourceVersion).To(Equal(before))

		By("its pod is gone")
		w.end("manager-0")
		Eventually(done).WithTimeout(long).Should(Receive(BeNil()))
		Expect(isInjected(w.deployment())).To(BeFalse())
		w.nothingLeft()
		Expect(w.server().Finalizers).To(BeEmpty())
		Expect(w.server().DeletionTimestamp).To(BeNil(), "it is the user's")
		w.expectStatus("cleaned-up")
	})

	It("does without a manager that is gone, or never was", func() {
		for _, name := range []string{"", "manager"} {
			w := usual()
			w.bringUp()
			w.end("dstack-server-0")
			Expect(w.cleanup(long, name)).To(Succeed())
			Expect(isInjected(w.deployment())).To(BeFalse())
			w.nothingLeft()
			Expect(w.cleanup(long, name)).To(Succeed(), "a second run has nothing to do")
		}
	})

	It("waits for the pods that ask a policy server", func() {
		w := usual()
		w.bringUp()
		done := background(func() error { return w.cleanup(long, "") })
		Eventually(func() bool { return isInjected(w.deployment()) }).WithTimeout(long).Should(BeFalse())
		w.terminate("dstack-server-0")
		Consistently(done).WithTimeout(1500 * time.Millisecond).ShouldNot(Receive())
		w.allThere()
		w.end("dstack-server-0")
		Eventually(done).WithTimeout(long).Should(Receive(BeNil()))
		w.nothingLeft()
	})

	It("names the server whose pods do not go, keeps its policy server, and gives all others back", func() {
		w := usual()
		w.bringUp()
		// The stuck one comes first in every list.
		w.create(testkit.MakeServer("other").Workload(v1alpha1.WorkloadStatefulSet, "other").Obj(),
			testkit.MakeServerPod().ClaimTemplate("data").Mount(corev1.VolumeMount{Name: "data", MountPath: "/root/.dstack/server"}).StatefulSet("other"))
		Expect(w.try("other")).To(Succeed())
		get(w, manifests.PolicyServerName("other"), &appsv1.Deployment{})

		err := w.cleanup(10*time.Second, "")
		Expect(err).To(MatchError("DstackServer main: give Deployment/dstack-server back: the settings were taken back, and a server pod still asks the policy server: look at the pods of the workload, and run the cleanup again: context deadline exceeded"))
		Expect(isInjected(w.deployment())).To(BeFalse(), "what was released stays released")
		w.allThere()
		Expect(w.server().Finalizers).NotTo(BeEmpty())
		Expect(w.gone(named(w, manifests.PolicyServerName("other"), &appsv1.Deployment{}))).To(BeTrue())
		Expect(w.serverNamed("other").Finalizers).To(BeEmpty())
	})

	It("says what keeps the pods of a paused workload", func() {
		w := usual()
		w.bringUp()
		change(w, w.deployment(), func(d *appsv1.Deployment) { d.Spec.Paused = true })
		err := w.cleanup(6*time.Second, "")
		Expect(err).To(MatchError("DstackServer main: give Deployment/dstack-server back: the settings were taken back, and a server pod still asks the policy server: look at the pods of the workload, and run the cleanup again; Deployment " + w.ns + "/dstack-server is paused: resume its rollout (kubectl -n " + w.ns + " rollout resume deployment/dstack-server): context deadline exceeded"))
	})

	It("tries again after an API server that was away, and not what is forbidden", func() {
		w := usual()
		w.bringUp()
		w.end("dstack-server-0")
		failures := []error{apierrors.NewServiceUnavailable("away"), apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "dstack-server", nil)}
		c := interceptor.NewClient(api.Client, interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				if len(failures) > 0 {
					err := failures[0]
					failures = failures[1:]
					return err
				}
				return c.Apply(ctx, o, opts...)
			},
		})
		timed, cancel := context.WithTimeout(ctx, long)
		defer cancel()
		Expect(controllers.NewCleanup(c, w.ns).Run(timed, "")).To(Succeed())
		Expect(isInjected(w.deployment())).To(BeFalse())

		other := usual()
		other.bringUp()
		failures = []error{apierrors.NewForbidden(schema.GroupResource{Resource: "deployments"}, "dstack-server", nil)}
		err := controllers.NewCleanup(c, other.ns).Run(timed, "")
		Expect(err).To(MatchError("DstackServer main: give Deployment/dstack-server back: release Deployment " + other.ns + `/dstack-server: deployments "dstack-server" is forbidden: <nil>`))
		Expect(isInjected(other.deployment())).To(BeTrue())
		other.allThere()
	})

	It("lets go of one that never had its workload", func() {
		w := usual()
		youngerThan(w.server())
		w.create(testkit.MakeServer("another").Obj())
		Expect(w.try("another")).To(Succeed())
		w.bringUp()
		w.end("dstack-server-0")
		Expect(w.cleanup(long, "")).To(Succeed())
		Expect(w.serverNamed("another").Finalizers).To(BeEmpty())
		Expect(w.server().Finalizers).To(BeEmpty())
	})

	It("lets go of servers that are being deleted and have no manager any more", func() {
		w := usual()
		w.bringUp()
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		w.end("dstack-server-0")
		Expect(w.cleanup(long, "")).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
	})
})

var _ = Describe("A manager that stops", func() {
	It("lets go of its servers when the namespace is being deleted with it", func() {
		w := usual()
		w.bringUp()
		w.endNamespace()
		Expect(api.Client.Delete(context.Background(), w.server())).To(Succeed())
		Expect(controllers.NewCleanup(api.Client, w.ns).LeaveTerminatingNamespace(context.Background())).To(Succeed())
		Expect(w.serverGone()).To(BeTrue())
	})

	It("does nothing in any other namespace", func() {
		w := usual()
		w.bringUp()
		before := w.versions()
		Expect(controllers.NewCleanup(api.Client, w.ns).LeaveTerminatingNamespace(context.Background())).To(Succeed())
		Expect(w.versions()).To(Equal(before))
	})
})

// named is an object of a name in the world, not read.
func named[T client.Object](w *world, name string, o T) T {
	o.SetNamespace(w.ns)
	o.SetName(name)
	return o
}
