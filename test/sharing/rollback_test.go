package sharing_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/test/sharing"
)

var _ = Describe("A rollback to earlier settings of the operator's", func() {
	for _, kind := range kinds {
		for _, m := range modes {
			Describe("of a "+string(kind)+", by "+m.name, func() {
				var w *sharing.Workload
				BeforeEach(func() {
					w = sharing.New(api, kind)
					m.apply(w, w.Manifest())
					w.Mode = v1alpha1.NetworkModeHostForDistributed
					w.Settle()
					keepRevision(w, 1)
					w.Mode, w.Forbidden = v1alpha1.NetworkModeBridge, []isolation.Control{isolation.ServerAccess}
					w.Settle()
					keepRevision(w, 2)
				})
				rollbackSpecs(m, func() *sharing.Workload { return w })
			})
		}
	}
})

func rollbackSpecs(m mode, workload func() *sharing.Workload) {
	const mode = dstack.EnvJobNetworkMode

	It("by kubectl rollout undo is undone by the next pass, and is no conflict", func() {
		w := workload()
		rollBack(w)
		Expect(w.Value(mode)).To(Equal("1"))
		Expect(w.Value(dstack.EnvForbidDstackInRuns)).To(BeEmpty())
		Expect(w.Managers()).To(HaveKeyWithValue(rollbackManager, metav1.ManagedFieldsOperationUpdate))
		r := w.Put()
		Expect(r.Conflicts).To(BeEmpty())
		Expect(r.Complete).To(BeTrue())
		w.ExpectShared(w.Manifest())
		Expect(m.run(w, "diff", w.Manifest())).To(Equal(output{}))
		w.Release()
		w.ExpectUsersOwn(w.Manifest())
	})

	It("leaves nothing that only the earlier settings had", func() {
		w := workload()
		w.Forbidden = nil
		w.Put()
		keepRevision(w, 3)
		rollBack(w)
		Expect(w.Value(dstack.EnvForbidDstackInRuns)).To(Equal("1"))
		w.Put()
		w.ExpectShared(w.Manifest())
		w.Release()
		w.ExpectUsersOwn(w.Manifest())
	})

	It("to settings of before a release is given back too", func() {
		w := workload()
		w.Release()
		keepRevision(w, 3)
		rollBack(w)
		w.Put()
		w.Release()
		w.ExpectUsersOwn(w.Manifest())
	})

	It("that is given back at once leaves nothing either", func() {
		w := workload()
		rollBack(w)
		w.Release()
		w.ExpectUsersOwn(w.Manifest())
	})

	It("does not excuse what somebody sets after it", func() {
		w := workload()
		rollBack(w)
		Expect(kubectl(w, nil, "set", "env", resource(w), mode+"=2").exit).To(BeZero())
		r := w.Put()
		Expect(r.Conflicts).To(HaveLen(1))
		Expect(r.Conflicts[0].String()).To(Equal("DSTACK_SERVER_JOB_NETWORK_MODE is set by kubectl-set"))
		Expect(w.Value(mode)).To(Equal("2"))
		Expect(w.Value(dstack.EnvForbidDstackInRuns)).To(Equal("1"))
	})

	It("takes nothing out that is wanted and that somebody else sets", func() {
		w := workload()
		w.Mode = v1alpha1.NetworkModeHostWhenPossible
		w.Put()
		keepRevision(w, 3)
		rollBack(w)
		Expect(w.Value(mode)).To(Equal("3"))
		Expect(kubectl(w, nil, "set", "env", resource(w), mode+"=1").exit).To(BeZero())
		w.Mode = v1alpha1.NetworkModeBridge
		r := w.Put()
		Expect(r.Conflicts).To(HaveLen(1))
		Expect(r.Conflicts[0].String()).To(Equal("DSTACK_SERVER_JOB_NETWORK_MODE is set by kubectl-set"))
		Expect(w.Value(mode)).To(Equal("1"))
	})

	It("does not excuse what the user's manifest declares", func() {
		w := workload()
		forbidden := w.Forbidden
		if m.serverSide && !slices.Contains(m.flags, "--force-conflicts") {
			m.flags = append(slices.Clone(m.flags), "--force-conflicts") // Without, the user's apply is refused.
		}
		m.apply(w, w.Manifest(sharing.Env(mode, "2")))
		w.Forbidden = nil
		w.Put()
		keepRevision(w, 3)
		w.Forbidden = forbidden
		w.Put()
		keepRevision(w, 4)
		rollBack(w)
		r := w.Put()
		Expect(r.Conflicts).To(HaveLen(1))
		Expect(r.Conflicts[0].String()).To(Equal("DSTACK_SERVER_JOB_NETWORK_MODE is set by " + m.manager))
		Expect(w.Value(mode)).To(Equal("2"))
		Expect(w.Value(dstack.EnvForbidDstackInRuns)).To(Equal("1"))
	})
}

// rollbackManager is whom kubectl rollout undo writes as.
const rollbackManager = "kubectl"

// rollBack does not look at warnings: kubectl warns where it has applied before.
func rollBack(w *sharing.Workload) {
	GinkgoHelper()
	o := kubectl(w, nil, "rollout", "undo", resource(w))
	Expect(o.exit).To(BeZero(), "%v", o)
	Expect(o.out).To(Equal(says(w, "rolled back").out))
}

// keepRevision does what the controllers of Kubernetes do, which run beside no API
// server of a test: it keeps the pod template of now for a rollback.
func keepRevision(w *sharing.Workload, revision int64) {
	GinkgoHelper()
	ctx := context.Background()
	live := w.Live()
	kept := metav1.ObjectMeta{
		Namespace: w.Namespace, Name: fmt.Sprintf("%s-%d", live.Meta.Name, revision), Labels: live.Template.Labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(live.Meta, appsv1.SchemeGroupVersion.WithKind(string(w.Kind)))},
	}
	if w.Kind == v1alpha1.WorkloadStatefulSet {
		template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live.Template)
		Expect(err).NotTo(HaveOccurred())
		template["$patch"] = "replace"
		data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
		Expect(err).NotTo(HaveOccurred())
		Expect(api.Client.Create(ctx, &appsv1.ControllerRevision{ObjectMeta: kept, Data: runtime.RawExtension{Raw: data}, Revision: revision})).To(Succeed())
		return
	}
	const annotation = "deployment.kubernetes.io/revision"
	kept.Annotations = map[string]string{annotation: strconv.FormatInt(revision, 10)}
	Expect(api.Client.Create(ctx, &appsv1.ReplicaSet{ObjectMeta: kept, Spec: appsv1.ReplicaSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: live.Template.Labels}, Template: *live.Template,
	}})).To(Succeed())
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"%d"}}}`, annotation, revision)
	Expect(api.Client.Patch(ctx, w.Object(), client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("kube-controller-manager"))).To(Succeed())
}
