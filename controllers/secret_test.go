package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var _ = Describe("The policy server's token", func() {
	ctx := context.Background()
	secret := func(w *world) *corev1.Secret {
		GinkgoHelper()
		return get(w, manifests.TokenSecretName("main"), &corev1.Secret{})
	}

	It("is made once and never changed", func() {
		w := usual()
		w.pass()
		made := secret(w)
		Expect(len(made.Data[manifests.TokenKey])).To(BeNumerically(">=", 26))
		Expect(made.Immutable).To(HaveValue(BeTrue()))
		w.pass()
		w.restart()
		w.pass()
		Expect(secret(w)).To(Equal(made))

		other := usual()
		other.pass()
		Expect(secret(other).Data).NotTo(Equal(made.Data), "no two servers share one")
	})

	It("is made anew when somebody has deleted it, and every process gets the new one", func() {
		w := usual()
		w.bringUp()
		before := w.token()
		restarts := func() (string, string) {
			return get(w, manifests.PolicyServerName("main"), &appsv1.Deployment{}).Spec.Template.Annotations[manifests.AnnotationTokenID],
				w.template().Annotations[manifests.AnnotationTokenID]
		}
		oldPolicy, oldServer := restarts()
		Expect(api.Client.Delete(ctx, secret(w))).To(Succeed())
		w.pass()
		Expect(w.token()).NotTo(Equal(before))
		newPolicy, newServer := restarts()
		Expect(newPolicy).NotTo(Equal(oldPolicy))
		Expect(newServer).NotTo(Equal(oldServer))
		Expect(newServer).NotTo(ContainSubstring(w.token()[:8]))
	})

	DescribeTable("that is not usable is reported, and nothing is overwritten",
		func(golden string, theirs corev1.Secret) {
			w := usual()
			theirs.Name = manifests.TokenSecretName("main")
			w.create(&theirs)
			before := w.deployment().Generation
			w.pass()
			w.expectStatus(golden)
			Expect(w.result.RequeueAfter).To(Equal(10*time.Second), "Secrets are not watched")
			Expect(secret(w).Data).To(Equal(theirs.Data))
			Expect(w.deployment().Generation).To(Equal(before))
			settled := w.versions()
			w.pass()
			Expect(w.versions()).To(Equal(settled))

			By("it is deleted")
			Expect(api.Client.Delete(ctx, &theirs)).To(Succeed())
			w.pass()
			Expect(w.condition("PolicyPluginReady")).To(HavePrefix("PolicyPluginReady=False RollingOut: "))
		},
		Entry("somebody else's", "token-foreign", corev1.Secret{Data: map[string][]byte{"token": []byte("theirs")}}),
		Entry("an empty one", "token-empty", corev1.Secret{
			Data: map[string][]byte{"token": {}}, Immutable: ptr.To(false),
		}),
	)
})

var _ = Describe("The admin token", func() {
	admin := func(data map[string][]byte) *corev1.Secret {
		s := &corev1.Secret{Data: data}
		s.Name = "dstack-admin"
		return s
	}
	with := func() *world {
		GinkgoHelper()
		w := stock(testkit.MakeServer("main").AdminToken("dstack-admin", "token"), testkit.MakeServerPod().Data())
		return w
	}

	DescribeTable("that cannot be read is reported, and looked for again",
		func(golden string, secret *corev1.Secret) {
			w := with()
			if secret != nil {
				w.create(secret)
			}
			w.bringUp()
			w.expectStatus(golden)
			Expect(w.result.RequeueAfter).To(Equal(10 * time.Second))
			if secret != nil {
				Expect(api.Client.Delete(context.Background(), secret)).To(Succeed())
			}
			w.create(admin(map[string][]byte{"token": []byte("admin-token")}))
			w.pass()
			Expect(w.condition("Ready")).To(HavePrefix("Ready=True "))
		},
		Entry("no Secret", "admin-token-missing", nil),
		Entry("no key", "admin-token-without-key", admin(map[string][]byte{"other": []byte("x")})),
		Entry("an empty key", "admin-token-empty", admin(map[string][]byte{"token": {}})),
	)

	It("that the server does not take is reported", func() {
		w := with()
		w.create(admin(map[string][]byte{"token": []byte("wrong")}))
		w.bringUp()
		w.expectStatus("admin-token-rejected")
	})

	It("of somebody who is no global administrator is reported", func() {
		w := with()
		w.create(admin(map[string][]byte{"token": []byte("admin-token")}))
		w.bringUp()
		w.ready("dstack-server-0", "10.0.0.1").role = "user"
		w.pass()
		Expect(w.condition("Connected")).To(HavePrefix("Connected=False TokenRejected: "))
	})

	It("never reaches the status", func() {
		w := with()
		w.create(admin(map[string][]byte{"token": []byte("admin-token")}))
		w.bringUp()
		raw := specAndStatus(w.server())
		Expect(raw).NotTo(ContainSubstring("admin-token\""))
		Expect(raw).NotTo(ContainSubstring(w.token()))
	})
})

var _ = Describe("A dstack server", func() {
	It("that does not answer is reported and asked again", func() {
		w := usual()
		w.bringUp()
		w.network.gone("10.0.0.1:3000")
		w.pass()
		w.expectStatus("unreachable")
		Expect(w.result.RequeueAfter).To(Equal(10 * time.Second))
	})

	It("of a release that is too old is reported", func() {
		w := usual()
		w.bringUp()
		w.ready("dstack-server-0", "10.0.0.1").release = "0.19.0"
		w.pass()
		w.expectStatus("release-unsupported")
	})

	It("of a release that creates runs without asking is warned of", func() {
		w := usual()
		w.bringUp()
		w.ready("dstack-server-0", "10.0.0.1").release = "0.20.28"
		w.pass()
		w.expectStatus("release-unguarded")
	})

	It("of several pods shows the oldest release", func() {
		w := usual()
		w.bringUp()
		w.startPod("dstack-server-1")
		w.ready("dstack-server-1", "10.0.0.2").release = "0.21.2"
		w.pass()
		Expect(w.server().Status.Release).To(Equal("0.21.2"))
	})
})
