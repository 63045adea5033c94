package manifests_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/dstack-isolation/operator/internal/manifests"
)

// A pod counts as the larger of its init containers and of the sum of the others.
// What the server asks for must stay what the pod counts as.
func TestTheInitContainerCostsNoQuota(t *testing.T) {
	quantity := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	for _, server := range []corev1.ResourceRequirements{
		{Requests: quantity("1", "1Gi"), Limits: quantity("2", "2Gi")},
		{Requests: quantity("5m", "16Mi"), Limits: quantity("100m", "64Mi")},
		{Requests: quantity("10m", "32Mi"), Limits: quantity("10m", "32Mi")},
		{Limits: quantity("5m", "16Mi")},
		{Requests: quantity("1m", "1Mi")},
	} {
		got := manifests.Settings(world{pod: asksFor(server.Requests, server.Limits)}.input(t)).Plugin.Init.Resources
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := (*got.Requests)[name], (*got.Limits)[name]
			if most, set := server.Requests[name]; set && request.Cmp(most) > 0 {
				t.Errorf("%v: requests %s %s", server, &request, name)
			}
			if most, set := server.Limits[name]; set && limit.Cmp(most) > 0 {
				t.Errorf("%v: has the limit %s %s", server, &limit, name)
			}
			if request.Cmp(limit) > 0 {
				t.Errorf("%v: requests %s %s, more than its limit %s", server, &request, name, &limit)
			}
		}
	}
}
