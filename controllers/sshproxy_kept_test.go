package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// closed is a server that lets users in by its managed SSH proxy alone. stock is the
// workload as it was without settings, plugged as it was with the plugin alone.
func closed(proxy v1alpha1.SSHProxy, more ...client.Object) (w *world, stock, plugged *appsv1.Deployment) {
	GinkgoHelper()
	w = withSSHProxy(proxy, more...)
	stock = testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName)
	plugged = w.deployment()
	w.sshProxiesUp()
	w.settle()
	secret := "isolation-ssh-main-token"
	if ref := proxy.Managed.TokenSecretRef; ref != nil {
		secret = ref.Name
	}
	w.rollSSH(secret)
	Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	Expect(w.standing("hostSSH")).To(Equal("Enforced"))
	w.nextSecond()
	return w, stock, plugged
}

func managedAt(address v1alpha1.SSHProxyAddress) v1alpha1.SSHProxy {
	return v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: address}}
}

// standing is how a control of profile research stands.
func (w *world) standing(control v1alpha1.ControlName) string {
	GinkgoHelper()
	for _, row := range w.profile("research").Status.Effective {
		if row.Control == control {
			return string(row.Standing)
		}
	}
	return ""
}

// unset takes variables out of the workload as `kubectl set env NAME-` does.
func (w *world) unset(names ...string) {
	GinkgoHelper()
	args := []string{"set", "env", "deployment/" + testkit.WorkloadName}
	for _, name := range names {
		args = append(args, name+"-")
	}
	w.kubectl(args...)
}

var _ = Describe("What a server was told of its SSH proxy", func() {
	ctx := context.Background()

	DescribeTable("is put back as it was, whether the proxy answers or not",
		func(remove func(w *world, stock, plugged *appsv1.Deployment)) {
			for _, answers := range []bool{true, false} {
				w, stock, plugged := closed(managedAt("ssh.example.com"))
				told := specOf(w.deployment())
				if !answers {
					By("the proxy does not answer")
					w.sshProxiesDown()
					w.settle()
				}
				remove(w, stock, plugged)
				Expect(specOf(w.deployment())).NotTo(MatchJSON(told))
				w.nextSecond()
				w.restart()
				w.pass()
				Expect(w.toldOfSSH()).To(Equal(sshVariables))
				Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False RemovedBy: "))
				w.settle()
				Expect(w.deployment().Spec.Template.Annotations).To(HaveKey(workload.AnnotationSSHToken))
				Expect(w.env(dstack.EnvJobNetworkMode).Value).To(Equal("1"))
				Expect(w.server().Status.LastRemoval.RestoredAt).To(BeNil(), "no pod has them yet")
				w.rollSSH("isolation-ssh-main-token")
				Expect(w.server().Status.LastRemoval.RestoredAt).NotTo(BeNil())
				Expect(w.standing("hostSSH")).To(Equal("Enforced"))
			}
		},
		Entry("after a rollback to what it was before the operator", func(w *world, stock, _ *appsv1.Deployment) { w.rollBack(stock) }),
		Entry("after a rollback to the plugin alone", func(w *world, _, plugged *appsv1.Deployment) { w.rollBack(plugged) }),
		Entry("after a rollback to another network mode and another address", func(w *world, _, _ *appsv1.Deployment) {
			earlier := w.deployment()
			earlier.Spec.Template.Annotations[workload.AnnotationSettings] = "0123abcd"
			c := &earlier.Spec.Template.Spec.Containers[0]
			for i := range c.Env {
				switch c.Env[i].Name {
				case dstack.EnvJobNetworkMode:
					c.Env[i].Value = "3"
				case dstack.EnvServerSSHProxyAddress:
					c.Env[i].Value = "former.example.com:22"
				}
			}
			w.rollBack(earlier)
		}),
		Entry("after somebody took ENFORCED out", func(w *world, _, _ *appsv1.Deployment) { w.unset(dstack.EnvServerSSHProxyEnforced) }),
		Entry("after somebody took all three variables out", func(w *world, _, _ *appsv1.Deployment) { w.unset(sshVariables...) }),
	)

	It("stays while somebody takes out only the annotation of its token", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		w.sshProxiesDown()
		w.settle()
		w.kubectl("patch", "deployment", testkit.WorkloadName, "--type=json", "-p",
			`[{"op":"remove","path":"/spec/template/metadata/annotations/isolation.dstack.ai~1ssh-token-id"}]`)
		w.settle()
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(w.deployment().Spec.Template.Annotations).To(HaveKey(workload.AnnotationSSHToken))
	})

	It("is no address that somebody else writes there", func() {
		w := withSSHProxy(managed())
		w.balanced(corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
		w.sshProxiesUp()
		w.settle()
		w.rollSSH("isolation-ssh-main-token")
		w.nextSecond()
		w.kubectl("set", "env", "deployment/"+testkit.WorkloadName, dstack.EnvServerSSHProxyAddress+"=theirs.example.com")
		w.settle()
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=False FieldConflict: in Deployment NS/dstack-server, DSTACK_SERVER_SSHPROXY_ADDRESS is set by kubectl-set"))
		Expect(w.server().Status.SSHProxy.Address).To(Equal("lb.example.com:22"))
	})

	It("is not forgotten because it cannot be read", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		w.sshProxiesDown()
		w.settle()
		told := specOf(w.deployment())
		w.config.Live = interceptor.NewClient(indexed(api.Client), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if key.Name == "isolation-approved-main" {
					return unavailable()
				}
				return c.Get(ctx, key, o, opts...)
			},
		})
		w.restart()
		Expect(w.try("main")).To(MatchError(ContainSubstring("read ConfigMap isolation-approved-main: ")))
		Expect(specOf(w.deployment())).To(MatchJSON(told))
		Expect(w.condition("SettingsApplied")).To(HavePrefix("SettingsApplied=Unknown ReconcileError: read ConfigMap isolation-approved-main: "))
	})

	It("is another proxy's only once that answers, and has its own address", func() {
		theirs := v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{
			Address: "theirs.example.com:2222", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "theirs", Key: "token"},
		}}
		w := withSSHProxy(theirs, secretOf("theirs", "tok-theirs"))
		w.network.at("theirs.example.com:2222", w.network.greet(sshBanner))
		w.settle()
		w.rollSSH("theirs")
		told := specOf(w.deployment())

		By("managed, and its load balancer has no address yet")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.SSHProxy = &v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{}}
		})
		w.pass()
		w.sshProxiesUp()
		w.settle()
		Expect(specOf(w.deployment())).To(MatchJSON(told), "the server must not mix the two proxies")
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False AddressPending: "))

		By("it has one")
		w.balanced(corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
		w.settle()
		Expect(w.env(dstack.EnvServerSSHProxyAddress).Value).To(Equal("lb.example.com:22"))
		Expect(w.template().Spec.Containers[0].Env).To(ContainElement(HaveField("ValueFrom.SecretKeyRef.Name", w.onlyCopy("isolation-ssh-main-token"))))
		w.rollSSH("isolation-ssh-main-token")
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))

		By("external again, and it does not answer: the managed one is kept, also where both have the same token")
		w.network.gone("theirs.example.com:2222")
		w.create(secretOf("copy", w.sshToken("isolation-ssh-main-token")))
		theirs.External.TokenSecretRef.Name = "copy"
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy = &theirs })
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False Unreachable: "))
		Expect(w.env(dstack.EnvServerSSHProxyAddress).Value).To(Equal("lb.example.com:22"))
		Expect(w.server().Status.SSHProxy.Address).To(Equal("lb.example.com:22"), "where users still log in")
		Expect(w.proxyObjects()).To(HaveLen(7))

		By("it answers: the managed one goes when no pod relies on it")
		w.network.at("theirs.example.com:2222", w.network.greet(sshBanner))
		w.settle()
		Expect(w.env(dstack.EnvServerSSHProxyAddress).Value).To(Equal("theirs.example.com:2222"))
		Expect(w.proxyObjects()).To(HaveLen(7))
		w.rollSSH("copy")
		w.settle()
		Expect(w.proxyObjects()).To(BeEmpty())
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True "))
	})

	It("is never a Secret that goes with the managed proxy", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.SSHProxy = &v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{
				Address: "ssh.example.com", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "isolation-ssh-main-token", Key: "token"},
			}}
		})
		before := w.sshToken("isolation-ssh-main-token")
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False SecretInvalid: spec.sshProxy.external.tokenSecretRef names Secret isolation-ssh-main-token, " +
			"which is the operator's own and goes with the proxy that it ran: copy the token into another Secret, and name that"))
		Expect(w.sshToken("isolation-ssh-main-token")).To(Equal(before))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
	})

	It("is never a copy of one either, which goes when no pod reads it", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		name := w.onlyCopy("isolation-ssh-main-token")
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			s.Spec.SSHProxy.Managed.TokenSecretRef = &v1alpha1.SecretKeyReference{Name: name, Key: "token"}
		})
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False SecretInvalid: spec.sshProxy.managed.tokenSecretRef names Secret " + name + ", " +
			"a copy that the operator deletes when no pod reads it: leave the reference out, or put the value into another Secret and name that"))
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(w.copies("isolation-ssh-main-token")).To(Equal([]string{name}))
	})

	It("is taken out with approval only, and status says what is kept meanwhile", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) {
			onApproval(s)
			s.Spec.SSHProxy = nil
		})
		w.settle()
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False Releasing: the SSH proxy that the operator ran is kept until no server pod relies on it any more"))
		Expect(w.proxyObjects()).To(HaveLen(7))
		change(w, w.server(), approves(w.pendingChange().Revision))
		w.settle()
		Expect(w.toldOfSSH()).To(BeEmpty())
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.proxyObjects()).To(BeEmpty())
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True NotConfigured"))
	})

	It("is enforced no more, and known still, when nobody denies login to hosts", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		change(w, w.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls = &v1alpha1.Controls{HostSSH: v1alpha1.Allowed} })
		w.pass()
		w.policyServersUp()
		w.settle()
		Expect(w.toldOfSSH()).To(Equal(sshVariables[:2]), "ENFORCED must be absent, not empty")
	})

	It("keeps its host key, token and Service while injection is Disabled", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		said, token := w.server().Status.SSHProxy, w.sshToken("isolation-ssh-main-token")
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
		w.settle()
		Expect(w.toldOfSSH()).To(BeEmpty())
		w.roll("dstack-server-0")
		w.settle()
		Expect(w.proxyObjects()).To(ConsistOf("Secret isolation-ssh-main-token", "Secret isolation-ssh-main-host-keys", "Service isolation-ssh-main"))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionEnabled })
		w.bringUp()
		w.sshProxiesUp()
		w.settle()
		w.rollSSH("isolation-ssh-main-token")
		Expect(w.server().Status.SSHProxy).To(Equal(said))
		Expect(w.sshToken("isolation-ssh-main-token")).To(Equal(token))
	})

	It("leaves its Secrets, Services and NetworkPolicy to pods that still have sessions", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		pod := testkit.PodOf(w.ns, "isolation-ssh-main-0", get(w, sshProxyName, &appsv1.Deployment{}).Spec.Template)
		pod.Spec.NodeName = "node"
		Expect(api.Client.Create(ctx, pod)).To(Succeed())
		token := w.sshToken("isolation-ssh-main-token")
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		w.roll("dstack-server-0")
		Expect(w.try("main")).To(Succeed())
		Expect(apierrors.IsNotFound(api.Client.Get(ctx, w.key("main"), &v1alpha1.DstackServer{}))).To(BeTrue(), "a deletion does not wait for sessions")
		Expect(w.proxyObjects()).To(ConsistOf("Secret isolation-ssh-main-token", "Secret isolation-ssh-main-host-keys",
			"Service isolation-ssh-main", "Service isolation-server-main", "NetworkPolicy isolation-ssh-main"))
		owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}
		for _, o := range []client.Object{
			get(w, "isolation-ssh-main-token", &corev1.Secret{}), get(w, "isolation-ssh-main-host-keys", &corev1.Secret{}),
			get(w, w.onlyCopy("isolation-ssh-main-token"), &corev1.Secret{}), get(w, w.onlyCopy("isolation-ssh-main-host-keys"), &corev1.Secret{}),
			get(w, sshProxyName, &corev1.Service{}), get(w, "isolation-server-main", &corev1.Service{}), get(w, sshProxyName, &networkingv1.NetworkPolicy{}),
		} {
			Expect(o.GetOwnerReferences()).To(Equal(owner), o.GetName())
		}

		By("a new proxy takes back what has not gone")
		w.create(testkit.MakeServer("main").SSHProxy(managedAt("ssh.example.com")).Obj())
		w.inject()
		w.roll("dstack-server-0")
		w.sshProxiesUp()
		w.settle()
		Expect(w.sshToken("isolation-ssh-main-token")).To(Equal(token))
		Expect(get(w, "isolation-ssh-main-token", &corev1.Secret{}).OwnerReferences).To(BeEmpty())
		Expect(get(w, sshProxyName, &corev1.Service{}).OwnerReferences).To(BeEmpty())
		Expect(get(w, sshProxyName, &networkingv1.NetworkPolicy{}).OwnerReferences).To(BeEmpty())
	})

	It("leaves nothing where its Deployment was never made", func() {
		w := withSSHProxy(managedAt("ssh.example.com"))
		Expect(api.Client.Delete(ctx, get(w, sshProxyName, &appsv1.Deployment{}))).To(Succeed())
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy = nil })
		w.settle()
		Expect(w.proxyObjects()).To(BeEmpty())
	})
})

// proxyObjects are the objects of the managed SSH proxy that are there.
func (w *world) proxyObjects() []string {
	GinkgoHelper()
	var found []string
	for _, o := range []struct {
		name   string
		object client.Object
	}{
		{sshProxyName, &appsv1.Deployment{}},
		{sshProxyName, &corev1.Service{}},
		{sshProxyName, &policyv1.PodDisruptionBudget{}},
		{sshProxyName, &networkingv1.NetworkPolicy{}},
		{"isolation-server-main", &corev1.Service{}},
		{"isolation-ssh-main-token", &corev1.Secret{}},
		{"isolation-ssh-main-host-keys", &corev1.Secret{}},
	} {
		err := api.Client.Get(context.Background(), w.key(o.name), o.object)
		Expect(client.IgnoreNotFound(err)).To(Succeed())
		if err == nil && o.object.GetDeletionTimestamp() == nil {
			found = append(found, kindOf(o.object)+" "+o.name)
		}
	}
	return found
}
