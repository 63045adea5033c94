package testkit_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// What the builders make must be what an API server takes, unchanged: else
// tests of pure packages would rest on objects that cannot exist.
func TestBuildersMakeObjectsThatTheAPIServerTakes(t *testing.T) {
	api := testkit.StartAPIServer(t)
	ns := api.Namespace(t)
	claim := testkit.MakeServerPod().Namespace(ns).ClaimTemplate("data").Mount(corev1.VolumeMount{Name: "data", MountPath: "/root/.dstack/server"})
	objects := []client.Object{
		testkit.MakeServer("main").Namespace(ns).Obj(),
		testkit.MakeProfile("research").Namespace(ns).AllowHostSSH().Obj(),
		testkit.MakeServerPod().Namespace(ns).Data().Env("A", "b").EnvFromSecret("C", "secret", "key").EnvFrom("more").Deployment("with-data"),
		testkit.MakeServerPod().Namespace(ns).Sidecar("agent").Deployment("with-sidecar"),
		claim.StatefulSet("stateful"),
		testkit.MakeServerPod().Namespace(ns).Pod("pod"),
	}
	for _, o := range objects {
		if err := api.Client.Create(t.Context(), o); err != nil {
			t.Errorf("create %T: %v", o, err)
		}
	}
	pod := objects[len(objects)-1].(*corev1.Pod)
	if err := api.Client.Status().Update(t.Context(), testkit.SetReady(pod, "10.0.0.7")); err != nil {
		t.Errorf("update the pod's status: %v", err)
	}
	var server v1alpha1.DstackServer
	if err := api.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "main"}, &server); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testkit.MakeServer("main").Obj().Spec, server.Spec); diff != "" {
		t.Errorf("the API server changed the DstackServer (-built +live):\n%s", diff)
	}
	var profile v1alpha1.IsolationProfile
	if err := api.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "research"}, &profile); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testkit.MakeProfile("research").AllowHostSSH().Obj().Spec, profile.Spec); diff != "" {
		t.Errorf("the API server changed the profile (-built +live):\n%s", diff)
	}
}
