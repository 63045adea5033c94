package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// youngerThan waits until the API server's clock, which counts in seconds, has
// gone on, so that the next object is younger.
func youngerThan(o client.Object) {
	GinkgoHelper()
	Eventually(func() bool { return time.Now().After(o.GetCreationTimestamp().Add(time.Second)) }).
		WithTimeout(10 * time.Second).Should(BeTrue())
}

var _ = Describe("A workload that two DstackServers name", func() {
	ctx := context.Background()

	It("belongs to the oldest, and to the next when that is gone", func() {
		w := usual()
		youngerThan(w.server())
		w.create(testkit.MakeServer("another").Obj())
		Expect(w.try("another")).To(Succeed())
		w.expectStatusOf(w.serverNamed("another"), "workload-claimed")
		w.bringUp()
		Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		before := w.versions()
		Expect(w.try("another")).To(Succeed())
		Expect(w.versions()).To(Equal(before), "two of them never take turns")

		By("the oldest is being deleted, and still holds its claim")
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(w.injected()).To(BeFalse())
		Expect(w.try("another")).To(Succeed())
		Expect(w.conditionOf(w.serverNamed("another"), "Accepted")).To(HavePrefix("Accepted=False WorkloadClaimed: "))

		By("it is gone")
		w.end("dstack-server-0")
		Expect(w.try("main")).To(Succeed())
		Expect(apierrors.IsNotFound(api.Client.Get(ctx, w.key("main"), &v1alpha1.DstackServer{}))).To(BeTrue())
		Expect(w.try("another")).To(Succeed())
		Expect(w.conditionOf(w.serverNamed("another"), "Accepted")).To(HavePrefix("Accepted=True "))
	})

	It("stays with the oldest when the other is deleted", func() {
		w := usual()
		youngerThan(w.server())
		w.create(testkit.MakeServer("another").Obj())
		w.bringUp()
		Expect(w.try("another")).To(Succeed())
		before := w.deployment().ResourceVersion
		Expect(api.Client.Delete(ctx, w.serverNamed("another"))).To(Succeed())
		Expect(w.try("another")).To(Succeed())
		Expect(apierrors.IsNotFound(api.Client.Get(ctx, w.key("another"), &v1alpha1.DstackServer{}))).To(BeTrue())
		Expect(w.deployment().ResourceVersion).To(Equal(before))
	})

	It("keeps no policy server of one that lost its claim, once nobody asks it", func() {
		w := usual()
		youngerThan(w.server())
		w.create(testkit.MakeServer("another").Obj())
		Expect(w.try("another")).To(Succeed())
		// Left from the second in which both were created and the other one was seen
		// first.
		left := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8080}}}}
		left.Name, left.Labels = manifests.PolicyServerName("another"), manifests.Labels(w.serverNamed("another"))
		w.create(left)
		asking := testkit.MakeServerPod().Namespace(w.ns).Pod("asking")
		asking.Labels = nil
		asking.Spec.InitContainers = []corev1.Container{{Name: "dstack-isolation-inject", Image: "dstack-isolation:1"}}
		asking.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "DSTACK_PLUGIN_SERVICE_URI", Value: manifests.PolicyURL(w.ns, "another")}}
		asking.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: manifests.ConfigVolume, MountPath: "/root/.dstack/server/config.yml"}}
		asking.Spec.Volumes = []corev1.Volume{{Name: manifests.ConfigVolume}}
		w.create(asking)

		Expect(api.Client.Delete(ctx, w.serverNamed("another"))).To(Succeed())
		Expect(w.try("another")).To(Succeed())
		get(w, left.Name, &corev1.Service{})
		get(w, "another", &v1alpha1.DstackServer{})
		w.end("asking")
		Expect(w.try("another")).To(Succeed())
		Expect(apierrors.IsNotFound(api.Client.Get(ctx, w.key(left.Name), &corev1.Service{}))).To(BeTrue())
		Expect(apierrors.IsNotFound(api.Client.Get(ctx, w.key("another"), &v1alpha1.DstackServer{}))).To(BeTrue())
	})

	It("may be two workloads of one name and two kinds", func() {
		w := usual()
		w.create(testkit.MakeServerPod().Data().StatefulSet(testkit.WorkloadName),
			testkit.MakeServer("another").Workload(v1alpha1.WorkloadStatefulSet, testkit.WorkloadName).Obj())
		Expect(w.try("main")).To(Succeed())
		Expect(w.try("another")).To(Succeed())
		Expect(w.condition("Accepted")).To(HavePrefix("Accepted=True "))
		Expect(w.conditionOf(w.serverNamed("another"), "Accepted")).To(HavePrefix("Accepted=True "))
		get(w, manifests.PolicyServerName("another"), &appsv1.Deployment{})
	})
})
