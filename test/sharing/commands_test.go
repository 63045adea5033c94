package sharing_test

import (
	"context"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/test/sharing"
)

var _ = Describe("The user's command", func() {
	for _, kind := range kinds {
		Describe("on a "+string(kind), func() {
			var w *sharing.Workload
			BeforeEach(func() {
				w = sharing.New(api, kind)
				modes[0].apply(w, w.Manifest())
				w.Settle()
			})
			commandSpecs(func() *sharing.Workload { return w })
		})
	}
})

func commandSpecs(workload func() *sharing.Workload) {
	const mode = dstack.EnvJobNetworkMode

	It("kubectl scale, set image and rollout restart change what they are for", func() {
		w := workload()
		r := resource(w)
		Expect(kubectl(w, nil, "scale", r, "--replicas=3")).To(Equal(says(w, "scaled")))
		w.ExpectShared(w.Manifest(sharing.Replicas(3)))
		Expect(kubectl(w, nil, "set", "image", r, "server=dstack-server:0.22.6")).To(Equal(says(w, "image updated")))
		w.ExpectShared(w.Manifest(sharing.Replicas(3), sharing.Image("dstack-server:0.22.6")))
		Expect(kubectl(w, nil, "rollout", "restart", r)).To(Equal(says(w, "restarted")))
		const restartedAt = "kubectl.kubernetes.io/restartedAt"
		w.ExpectShared(w.Manifest(sharing.Replicas(3), sharing.Image("dstack-server:0.22.6"),
			sharing.Annotation(restartedAt, w.Live().Template.Annotations[restartedAt])))
	})

	It("kubectl set env over one of our variables wins, and is reported until it is taken back", func() {
		w := workload()
		Expect(kubectl(w, nil, "set", "env", resource(w), mode+"=2")).To(Equal(says(w, "env updated")))
		before := w.Live().Meta.ResourceVersion
		r := w.Put()
		Expect(r.Conflicts).To(HaveLen(1))
		Expect(r.Conflicts[0].String()).To(Equal("DSTACK_SERVER_JOB_NETWORK_MODE is set by kubectl-set"))
		Expect(w.Live().Meta.ResourceVersion).To(Equal(before))
		Expect(w.Value(mode)).To(Equal("2"))
		Expect(kubectl(w, nil, "set", "env", resource(w), mode+"-")).To(Equal(says(w, "env updated")))
		w.Settle()
		w.ExpectShared(w.Manifest())
	})

	It("kubectl replace takes our items out until the next pass", func() {
		w := workload()
		Expect(kubectl(w, w.Manifest(), "replace", "-f", "-")).To(Equal(says(w, "replaced")))
		w.ExpectSpec(w.Manifest())
		w.Settle()
		w.ExpectShared(w.Manifest())
	})

	It("kubectl replace --force makes another object, which gets our items too", func() {
		w := workload()
		before := w.Live().Meta.UID
		o := kubectl(w, w.Manifest(), "replace", "--force", "-f", "-")
		Expect(o.exit).To(BeZero(), "%v", o)
		Expect(w.Live().Meta.UID).NotTo(Equal(before))
		w.ExpectUsersOwn(w.Manifest())
		w.Settle()
		w.ExpectShared(w.Manifest())
	})

	It("kubectl apply --server-side takes over from client-side apply what is the user's, and not what is ours", func() {
		w := workload()
		modes[1].apply(w, w.Manifest())
		Expect(w.Managers()).To(SatisfyAll(HaveKey("kubectl"), Not(HaveKey("kubectl-client-side-apply"))))
		w.ExpectShared(w.Manifest())
		changed := w.Manifest(sharing.WithoutFirstEnv())
		modes[1].apply(w, changed)
		w.ExpectShared(changed)

		By("going back to client-side apply")
		modes[0].apply(w, w.Manifest())
		w.ExpectShared(w.Manifest())
		w.Release()
		w.ExpectUsersOwn(w.Manifest())
	})

	It("kubectl apply --server-side of a part of the manifest is refused the second time, which is why nobody is told to use it", func() {
		w := workload()
		o := modes[1].run(w, "apply", w.Partial())
		Expect(o.exit).To(BeZero())
		Expect(o.err).To(HavePrefix("Warning: failed to re-apply configuration after performing Server-Side Apply migration."))
		w.ExpectShared(w.Manifest())
		o = modes[1].run(w, "apply", w.Partial())
		Expect(o.exit).To(Equal(1))
		Expect(o.err).To(ContainSubstring("* spec.selector: Required value\n"))

		By("applying the whole manifest, which always works")
		modes[0].apply(w, w.Manifest())
		w.ExpectShared(w.Manifest())
		w.Release()
		w.ExpectUsersOwn(w.Manifest())
	})

	It("leaves the operator enough with the rights of its role, which cannot make a workload", func(ctx context.Context) {
		w := workload()
		c := operatorClient(ctx, w.Namespace)
		w.Release()
		w.As(c)
		w.Settle()
		w.ExpectShared(w.Manifest())
		w.Release()
		w.ExpectUsersOwn(w.Manifest())

		err := c.Update(ctx, w.Object())
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		if w.Kind == v1alpha1.WorkloadStatefulSet {
			// It makes Deployments of its own.
			err = c.Create(ctx, w.Object())
			Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		}
	})

	It("leaves get and patch enough for settings, which cannot make a workload", func(ctx context.Context) {
		w := workload()
		c := clientWith(ctx, w.Namespace, []rbacv1.PolicyRule{{
			APIGroups: []string{"apps"}, Resources: []string{"deployments", "statefulsets"}, Verbs: []string{"get", "patch"},
		}})
		w.Release()
		w.As(c)
		w.Settle()
		w.ExpectShared(w.Manifest())

		By("applying to a workload that is gone")
		Expect(api.Client.Delete(ctx, w.Object())).To(Succeed())
		put := func(manifest *unstructured.Unstructured) error {
			return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(manifest), client.FieldOwner(apply.WorkloadManager))
		}
		Expect(put(w.Manifest())).To(Satisfy(apierrors.IsForbidden))
		Expect(put(w.Partial())).To(Satisfy(apierrors.IsInvalid))
		Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(w.Object()), w.Object())).To(Satisfy(apierrors.IsNotFound))
	})
}

// operatorClient has the rights of the manager's Role and no others.
func operatorClient(ctx context.Context, namespace string) client.Client {
	GinkgoHelper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "config", "rbac", "role.yaml"))
	Expect(err).NotTo(HaveOccurred())
	role := &rbacv1.Role{}
	Expect(yaml.Unmarshal(raw, role)).To(Succeed())
	return clientWith(ctx, namespace, role.Rules)
}

// clientWith has some rights in a namespace, and no others.
func clientWith(ctx context.Context, namespace string, rules []rbacv1.PolicyRule) client.Client {
	GinkgoHelper()
	const user = "the-operator"
	named := metav1.ObjectMeta{Namespace: namespace, Name: user}
	Expect(api.Client.Create(ctx, &rbacv1.Role{ObjectMeta: named, Rules: rules})).To(Succeed())
	Expect(api.Client.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: named,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: named.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	})).To(Succeed())
	config := rest.CopyConfig(api.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	c, err := client.New(config, client.Options{Scheme: testkit.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	// The authorizer sees a new Role a moment later.
	Eventually(func() error {
		return c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: testkit.WorkloadName}, (&sharing.Workload{Kind: v1alpha1.WorkloadDeployment}).Object())
	}).WithTimeout(time.Minute).Should(Or(Succeed(), Satisfy(apierrors.IsNotFound)))
	return c
}

var _ = Describe("The names that the operator writes as", func() {
	It("are none that other tools strip or take over", func() {
		for _, name := range []string{apply.WorkloadManager, apply.OwnManager} {
			// Flux strips the first kind and the second name, Argo CD and kubectl take
			// over what client-side apply has written.
			Expect(name).NotTo(HavePrefix("kubectl"))
			Expect(name).NotTo(BeElementOf("before-first-apply", "argocd-controller", "helm", "kustomize-controller"))
		}
	})
})
