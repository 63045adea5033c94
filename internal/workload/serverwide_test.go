package workload_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// permitting adds what the init container is told of default_permissions.
func permitting(b *testkit.ServerPod, permissions ...string) *testkit.ServerPod {
	return b.With(func(t *corev1.PodTemplateSpec) {
		for _, p := range permissions {
			t.Spec.InitContainers[0].Args = append(t.Spec.InitContainers[0].Args, "--default-permission="+p)
		}
	})
}

// What is not on every pod does not count.
func TestRunningServerWide(t *testing.T) {
	const runs, services = "DSTACK_FORBID_DSTACK_IN_RUNS", "DSTACK_FORBID_SERVICES_WITHOUT_GATEWAY"
	both := func() *testkit.ServerPod { return asking().Env(runs, "").Env(services, "0") }
	cases := map[string]struct {
		pods        []*testkit.ServerPod
		denied      []v1alpha1.ControlName
		permissions []string
	}{
		"no pod":    {},
		"stock":     {pods: []*testkit.ServerPod{testkit.MakeServerPod()}},
		"any value": {pods: []*testkit.ServerPod{both()}, denied: []v1alpha1.ControlName{"serverAccess", "servicesWithoutGateway"}},
		"on one of two": {
			pods: []*testkit.ServerPod{both(), asking().Env(services, "1")}, denied: []v1alpha1.ControlName{"servicesWithoutGateway"},
		},
		"first on none": {pods: []*testkit.ServerPod{asking(), both()}},
		"by a reference that must be met": {
			pods: []*testkit.ServerPod{asking().EnvFromSecret(runs, "s", "k")}, denied: []v1alpha1.ControlName{"serverAccess"},
		},
		"by one that may be missing": {
			pods: []*testkit.ServerPod{asking().EnvVar(corev1.EnvVar{Name: runs, ValueFrom: &corev1.EnvVarSource{
				ConfigMapKeyRef: &corev1.ConfigMapKeySelector{Key: "k", Optional: ptr.To(true)},
			}})},
		},
		"permissions": {
			pods:        []*testkit.ServerPod{permitting(asking(), "a=false", "b=true"), permitting(asking(), "b=true", "a=true")},
			permissions: []string{"b=true"},
		},
		"permissions in a copy that is not mounted": {pods: []*testkit.ServerPod{permitting(asking("config"), "a=false")}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var pods []corev1.Pod
			for _, b := range tc.pods {
				pods = append(pods, *b.Pod("p"))
			}
			got := workload.Running(pods, testkit.ServerContainer, endpoint)
			if diff := cmp.Diff(append([]v1alpha1.ControlName{}, tc.denied...), append([]v1alpha1.ControlName{}, got.DeniedByServer...)); diff != "" {
				t.Errorf("denied by the server, -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(append([]string{}, tc.permissions...), append([]string{}, got.DefaultPermissions...)); diff != "" {
				t.Errorf("permissions, -want +got:\n%s", diff)
			}
		})
	}
}

func TestPermits(t *testing.T) {
	c := &corev1.Container{Args: []string{"inject", "--default-permission=allow_ab=false"}}
	if !workload.Permits(c, "allow_ab") || workload.Permits(c, "allow_a") || workload.Permits(nil, "allow_ab") {
		t.Error("allow_ab alone is named, by the container that there is")
	}
}
