package apply_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/manifests"
)

var _ = Describe("An object of the operator's own", func() {
	ctx := context.Background()

	var ns string
	var sent *applies
	var applier *apply.Applier
	BeforeEach(func() {
		ns = api.Namespace(GinkgoTB())
		sent = &applies{}
		applier = apply.New(counting(sent))
	})
	state := func(proven string) manifests.Object {
		return manifests.Object{Kind: "ConfigMap", Name: "state", Config: corev1ac.ConfigMap("state", ns).WithData(map[string]string{"proven": proven})}
	}
	live := func() *corev1.ConfigMap {
		GinkgoHelper()
		var m corev1.ConfigMap
		Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: "state"}, &m)).To(Succeed())
		return &m
	}
	// settled has been made, and applied once more: only then its version is known.
	settled := func() *corev1.ConfigMap {
		GinkgoHelper()
		Expect(applier.Own(ctx, state("a"), "")).To(Succeed())
		m := live()
		Expect(applier.Own(ctx, state("a"), m.ResourceVersion)).To(Succeed())
		Expect(live().ResourceVersion).To(Equal(m.ResourceVersion), "the second apply changes nothing")
		*sent = applies{}
		return m
	}

	It("is made, and not sent again while neither it nor its configuration changes", func() {
		m := settled()
		Expect(applier.Own(ctx, state("a"), m.ResourceVersion)).To(Succeed())
		Expect(*sent).To(Equal(applies{}))
	})

	It("is sent when its configuration changes", func() {
		m := settled()
		Expect(applier.Own(ctx, state("b"), m.ResourceVersion)).To(Succeed())
		Expect(live().Data).To(Equal(map[string]string{"proven": "b"}))
	})

	It("is put right, by force, when somebody has changed it", func() {
		settled()
		theirs := corev1ac.ConfigMap("state", ns).WithData(map[string]string{"proven": "no", "other": "kept"})
		Expect(api.Client.Apply(ctx, theirs, client.FieldOwner("somebody"), client.ForceOwnership)).To(Succeed())
		Expect(applier.Own(ctx, state("a"), live().ResourceVersion)).To(Succeed())
		Expect(live().Data).To(Equal(map[string]string{"proven": "a", "other": "kept"}))
	})

	It("is made again when somebody has deleted it", func() {
		Expect(api.Client.Delete(ctx, settled())).To(Succeed())
		Expect(applier.Own(ctx, state("a"), "")).To(Succeed())
		Expect(live().Data).To(Equal(map[string]string{"proven": "a"}))
	})

	It("is sent again after the API server has refused it", func() {
		m := settled()
		away := true
		flaky := apply.New(interceptor.NewClient(api.Client, interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				if away {
					return apierrors.NewServiceUnavailable("away")
				}
				return c.Apply(ctx, o, opts...)
			},
		}))
		Expect(flaky.Own(ctx, state("b"), m.ResourceVersion)).To(MatchError("apply ConfigMap state: away"))
		away = false
		Expect(flaky.Own(ctx, state("b"), m.ResourceVersion)).To(Succeed())
		Expect(live().Data).To(Equal(map[string]string{"proven": "b"}))
	})
})
