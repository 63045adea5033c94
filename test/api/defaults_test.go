package api_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

var _ = Describe("Defaults", func() {
	It("of a DstackServer are dstack's own, the safer delivery and two replicas", func(ctx context.Context) {
		o := object(serverKind, nil)
		Expect(create(ctx, o)).To(Succeed())
		Expect(o.Object["spec"]).To(Equal(map[string]any{
			"workload":          map[string]any{"kind": "Deployment", "name": "dstack-server"},
			"api":               map[string]any{"port": int64(dstack.DefaultPort)},
			"serverDir":         dstack.DefaultServerDir,
			"injection":         "Enabled",
			"rollout":           "Automatic",
			"policyPlugin":      map[string]any{"delivery": "Python", "replicas": int64(2)},
			"unmatchedProjects": map[string]any{"level": "Restricted", "levelVersion": "v1", "enforcement": "Enforce"},
		}))
	})

	It("of half-written parts fill only what is missing", func(ctx context.Context) {
		o := object(serverKind, fields{"spec.policyPlugin": map[string]any{"replicas": int64(3)}, "spec.api": map[string]any{}})
		Expect(create(ctx, o)).To(Succeed())
		spec := o.Object["spec"].(map[string]any)
		Expect(spec["policyPlugin"]).To(Equal(map[string]any{"delivery": "Python", "replicas": int64(3)}))
		Expect(spec["api"]).To(Equal(map[string]any{"port": int64(3000)}))
	})

	It("of an IsolationProfile enforce, at a pinned version of the levels", func(ctx context.Context) {
		o := object(profileKind, nil)
		Expect(create(ctx, o)).To(Succeed())
		Expect(o.Object["spec"]).To(Equal(map[string]any{
			"serverRef":    map[string]any{"name": "main"},
			"projects":     map[string]any{"include": []any{"research-*"}},
			"level":        "Restricted",
			"levelVersion": "v1",
			"enforcement":  "Enforce",
		}))
	})

	for _, kind := range []string{serverKind, profileKind} {
		It("of a "+kind+"'s status say that nothing has been looked at", func(ctx context.Context) {
			o := object(kind, fields{"status": map[string]any{"observedGeneration": int64(7)}})
			Expect(create(ctx, o)).To(Succeed())
			pending := func(conditionType string) map[string]any {
				return map[string]any{
					"type": conditionType, "status": "Unknown", "reason": v1alpha1.ReasonPending,
					"message": "waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z",
				}
			}
			want := map[string]any{"conditions": []any{pending(v1alpha1.ConditionAccepted), pending(v1alpha1.ConditionReady)}}
			Expect(o.Object["status"]).To(Equal(want), "a user's own status is dropped")

			live := &unstructured.Unstructured{}
			live.SetGroupVersionKind(o.GroupVersionKind())
			Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(o), live)).To(Succeed())
			Expect(live.Object["status"]).To(Equal(want), "as it is stored")
		})
	}
})
