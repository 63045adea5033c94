package controllers_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/crypto/ssh"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

const (
	sshProxyName = "isolation-ssh-main"
	sshBanner    = "SSH-2.0-dstack_sshproxy_0.0.2"
)

// sshVariables are those by which a server knows of its SSH proxy.
var sshVariables = []string{dstack.EnvSSHProxyAPIToken, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced}

// withSSHProxy is a server that runs, with an SSH proxy that does not answer yet
// and a profile that denies hostSSH.
func withSSHProxy(p v1alpha1.SSHProxy, more ...client.Object) *world {
	GinkgoHelper()
	w := stock(testkit.MakeServer("main").SSHProxy(p), testkit.MakeServerPod().Data(),
		append(more, testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())...)
	w.bringUp()
	return w
}

// sshProxiesUp plays the controllers of the SSH proxy's Deployment and of its
// EndpointSlice, and its pods.
func (w *world) sshProxiesUp() {
	GinkgoHelper()
	d := testkit.SetRolledOut(get(w, sshProxyName, &appsv1.Deployment{}))
	Expect(api.Client.Status().Update(context.Background(), d)).To(Succeed())
	for i := range sshReplicas {
		w.network.at(fmt.Sprintf("10.0.2.%d:30022", i+1), w.network.sshServer(sshBanner, w.hostKeysOf(d)))
	}
	w.endpointsOf(sshProxyName, "10.0.2.", sshReplicas)
}

// sshReplicas is how many proxies there are by default.
const sshReplicas = 3

// hostKeysOf are the host keys that pods of the SSH proxy's Deployment mount.
func (w *world) hostKeysOf(d *appsv1.Deployment) []byte {
	GinkgoHelper()
	mounted := d.Spec.Template.Spec.Volumes[0].Secret
	return get(w, mounted.SecretName, &corev1.Secret{}).Data[mounted.Items[0].Key]
}

// sshProxiesDown lets none of them answer any more.
func (w *world) sshProxiesDown() {
	GinkgoHelper()
	d := get(w, sshProxyName, &appsv1.Deployment{})
	d.Status.ReadyReplicas, d.Status.AvailableReplicas = 0, 0
	Expect(api.Client.Status().Update(context.Background(), d)).To(Succeed())
	w.endpointsOf(sshProxyName, "10.0.2.", 0)
}

// balanced gives the SSH proxy's Service an address of a load balancer.
func (w *world) balanced(ingress corev1.LoadBalancerIngress) {
	GinkgoHelper()
	service := get(w, sshProxyName, &corev1.Service{})
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{ingress}
	Expect(api.Client.Status().Update(context.Background(), service)).To(Succeed())
}

// sshToken is the token in a Secret.
func (w *world) sshToken(secret string) string {
	GinkgoHelper()
	return string(get(w, secret, &corev1.Secret{}).Data["token"])
}

// rollSSH replaces the server's pod by one that has the token of a Secret.
func (w *world) rollSSH(secret string) *dstackServer {
	GinkgoHelper()
	w.end("dstack-server-0")
	w.startPod("dstack-server-0")
	process := w.ready("dstack-server-0", "10.0.0.1").setSSHToken(w.sshToken(secret))
	w.rolledOut()
	w.settle()
	return process
}

// toldOfSSH are the variables of the SSH proxy that the workload has.
func (w *world) toldOfSSH() []string {
	GinkgoHelper()
	var found []string
	for _, name := range sshVariables {
		if w.env(name).Set {
			found = append(found, name)
		}
	}
	return found
}

func managed() v1alpha1.SSHProxy { return v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{}} }

// secretOf is a Secret of the user's with a token.
func secretOf(name, token string) *corev1.Secret {
	s := &corev1.Secret{Data: map[string][]byte{"token": []byte(token)}}
	s.Name = name
	return s
}

var _ = Describe("The SSH proxy", func() {
	ctx := context.Background()

	It("is told to the server in one apply, once it answers, and its token is tried there", func() {
		w := withSSHProxy(managed())
		Expect(w.toldOfSSH()).To(BeEmpty())
		w.expectStatus("ssh-proxy-starting")

		By("the load balancer has an address, and no proxy answers")
		w.balanced(corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
		w.settle()
		Expect(w.toldOfSSH()).To(BeEmpty())
		w.expectStatus("ssh-proxy-without-pods")
		w.expectProfile(w.profile("research"), "profile-ssh-proxy-without-pods")

		By("another SSH server answers")
		w.sshProxiesUp()
		w.network.at("10.0.2.2:30022", w.network.greet("SSH-2.0-OpenSSH_9.2"))
		w.settle()
		Expect(w.toldOfSSH()).To(BeEmpty())
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False Unreachable: an SSH proxy does not greet as dstack's does: is another SSH server than dstack's proxy"))

		By("all answer")
		w.sshProxiesUp()
		before := w.deployment().Generation
		w.pass()
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		Expect(w.deployment().Generation).To(Equal(before + 1))
		Expect(w.env(dstack.EnvServerSSHProxyAddress).Value).To(Equal("lb.example.com:22"))

		By("a pod with another token")
		process := w.rollSSH("isolation-ssh-main-token").setSSHToken("another")
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False TokenMismatch: server pod dstack-server-0 has another token than Secret isolation-ssh-main-token and accepts no login. No rollout replaces it: run " +
			"kubectl -n NS rollout restart deployment/dstack-server"))

		By("a pod that found the token empty")
		process.setSSHToken("")
		w.settle()
		w.expectStatus("ssh-proxy-not-enforced")
		w.expectProfile(w.profile("research"), "profile-ssh-proxy-not-enforced")

		By("a pod with the token")
		process.setSSHToken(w.sshToken("isolation-ssh-main-token"))
		w.settle()
		w.expectStatus("ssh-proxy-ready")
		w.expectProfile(w.profile("research"), "profile-ssh-proxy-ready")

		By("a further pass, also of another manager")
		versions := w.versions()
		w.restart()
		w.pass()
		Expect(w.versions()).To(Equal(versions), "Secrets are never made again")

		By("what users must trust is what the proxy presents")
		key, err := ssh.ParsePrivateKey(get(w, "isolation-ssh-main-host-keys", &corev1.Secret{}).Data["host-keys"])
		Expect(err).NotTo(HaveOccurred())
		said := w.server().Status.SSHProxy
		Expect(said.Fingerprints).To(Equal([]string{ssh.FingerprintSHA256(key.PublicKey())}))
		Expect(said.KnownHosts).To(HaveLen(1))
		Expect(said.KnownHosts[0] + "\n").To(Equal("lb.example.com " + string(ssh.MarshalAuthorizedKey(key.PublicKey()))))
		for _, text := range append(w.events(), specAndStatus(w.server()), specAndStatus(w.deployment())) {
			Expect(text).NotTo(ContainSubstring(w.sshToken("isolation-ssh-main-token")))
		}
	})

	It("that goes away leaves the server closed", func() {
		w := withSSHProxy(managed())
		w.balanced(corev1.LoadBalancerIngress{IP: "203.0.113.7"})
		w.sshProxiesUp()
		w.settle()
		w.rollSSH("isolation-ssh-main-token")
		told := specOf(w.deployment())

		w.events()
		w.sshProxiesDown()
		w.settle()
		Expect(specOf(w.deployment())).To(Equal(told))
		Expect(w.events()).To(ContainElement(HavePrefix("Warning Unreachable SSHProxyReady is False: no SSH proxy answers, so nobody can log in, and the server stays closed; ")))
		w.expectStatus("ssh-proxy-gone")
		w.expectProfile(w.profile("research"), "profile-ssh-proxy-gone")

		By("its load balancer has another address, which is written to the spec")
		w.sshProxiesUp()
		w.balanced(corev1.LoadBalancerIngress{IP: "203.0.113.8"})
		w.settle()
		Expect(specOf(w.deployment())).To(Equal(told))
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy.Managed.Address = "203.0.113.8" })
		w.pass()
		Expect(w.env(dstack.EnvServerSSHProxyAddress).Value).To(Equal("203.0.113.8:22"))
	})

	It("that runs out of memory is told of, each time", func() {
		w, _, _ := closed(managedAt("ssh.example.com"))
		now := w.clock.Now().Truncate(time.Second)
		pod := testkit.PodOf(w.ns, "isolation-ssh-main-0", get(w, sshProxyName, &appsv1.Deployment{}).Spec.Template)
		Expect(api.Client.Create(ctx, pod)).To(Succeed())
		killed := func(after time.Duration) {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
				Name: "ssh-proxy", RestartCount: 1, Image: "i", ImageID: "i",
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: 137, Reason: "OOMKilled", FinishedAt: metav1.NewTime(now.Add(after)),
				}},
			}}
			w.setStatus(pod)
		}
		const message = "1 of 1 SSH proxy pods ran out of memory, which ended their sessions: raise spec.sshProxy.managed.resources.limits.memory"
		w.events()
		for _, after := range []time.Duration{0, time.Minute} {
			killed(after)
			w.settle()
			Expect(w.condition("SSHProxyReady")).To(And(HavePrefix("SSHProxyReady=True Answering: "), HaveSuffix("; "+message)))
			Expect(w.events()).To(Equal([]string{"Warning OutOfMemory " + message}), "once each time")
			Expect(w.server().Status.SSHProxy.LastOutOfMemory.Time).To(BeTemporally("==", now.Add(after)))
		}
		w.restart()
		w.settle()
		Expect(w.events()).To(BeEmpty(), "another manager has nothing new to tell")

		By("the status is lost while no proxy answers")
		lost := w.server()
		lost.Status.SSHProxy = nil
		Expect(api.Client.Status().Update(ctx, lost)).To(Succeed())
		for i := range sshReplicas {
			w.network.gone(fmt.Sprintf("10.0.2.%d:30022", i+1))
		}
		w.pass()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False Unreachable: "))
		Expect(w.events()).To(ContainElement("Warning OutOfMemory " + message))
		Expect(w.server().Status.SSHProxy).To(Equal(&v1alpha1.SSHProxyStatus{LastOutOfMemory: &metav1.Time{Time: now.Add(time.Minute)}}))
		w.settle()
		Expect(w.events()).NotTo(ContainElement(ContainSubstring("OutOfMemory")), "nor again with each pass")
		w.sshProxiesUp()
		w.settle()

		By("its pod is gone, and so is what the kubelet remembered")
		w.end(pod.Name)
		w.settle()
		Expect(w.condition("SSHProxyReady")).NotTo(ContainSubstring("memory"))
		Expect(w.server().Status.SSHProxy.LastOutOfMemory.Time).To(BeTemporally("==", now.Add(time.Minute)))
	})

	It("follows a new token after the server", func() {
		w := withSSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{
			Address: "ssh.example.com", TokenSecretRef: &v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"},
		}}, secretOf("ssh", "tok-old"), secretOf("ssh-2", "tok-new"))
		proxysToken := func() string {
			return get(w, sshProxyName, &appsv1.Deployment{}).Spec.Template.Spec.Containers[0].Env[0].ValueFrom.SecretKeyRef.Name
		}
		w.sshProxiesUp()
		w.settle()
		w.rollSSH("ssh")
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True"))

		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy.Managed.TokenSecretRef.Name = "ssh-2" })
		w.pass()
		Expect(w.toldOfSSH()).To(Equal(sshVariables), "the server is never told less")
		template := w.template()
		Expect(template.Spec.Containers[0].Env).To(ContainElement(HaveField("ValueFrom.SecretKeyRef.Name", "ssh-2")))
		Expect(proxysToken()).To(Equal("ssh"), "the server goes first")
		w.pass()
		Expect(proxysToken()).To(Equal("ssh"))
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=False TokenMismatch: the token was changed"))

		w.rollSSH("ssh-2")
		Expect(proxysToken()).To(Equal("ssh-2"))
		w.sshProxiesUp()
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True"))
	})

	It("that runs elsewhere is told to the server once it answers", func() {
		w := withSSHProxy(v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{
			Address: "SSH.example.com:2222", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"},
		}})
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False SecretInvalid: key token of Secret ssh is missing or empty: create it, or mend spec.sshProxy"))

		w.create(secretOf("ssh", "tok-7f3e\n"))
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False SecretInvalid: the token in key token of Secret ssh has a character that is no printable ASCII, such as a space or a newline at its end: put another there"))

		change(w, secretIn(w, "ssh"), func(s *corev1.Secret) { s.Data["token"] = []byte("tok-7f3e") })
		w.settle()
		Expect(w.condition("SSHProxyReady")).To(Equal("SSHProxyReady=False Unreachable: an SSH proxy does not greet as dstack's does: connection refused"))
		Expect(w.toldOfSSH()).To(BeEmpty())

		w.network.at("ssh.example.com:2222", w.network.greet(sshBanner))
		w.settle()
		Expect(w.toldOfSSH()).To(Equal(sshVariables))
		w.rollSSH("ssh")
		w.expectStatus("ssh-proxy-external")
		var all appsv1.DeploymentList
		Expect(api.Client.List(ctx, &all, client.InNamespace(w.ns))).To(Succeed())
		Expect(all.Items).To(HaveLen(2), "of the server and of the policy server")
	})

	It("is not told to a server where somebody else sets one of its variables", func() {
		w := stock(testkit.MakeServer("main").SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}}),
			testkit.MakeServerPod().Data().Env(dstack.EnvServerSSHProxyAddress, "elsewhere.example.com"),
			testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj())
		w.bringUp()
		w.sshProxiesUp()
		w.settle()
		Expect(w.toldOfSSH()).To(Equal([]string{dstack.EnvServerSSHProxyAddress}))
		w.expectStatus("ssh-proxy-conflict")
	})

	It("is deleted last, when no server pod relies on it", func() {
		w := withSSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}})
		w.sshProxiesUp()
		w.settle()
		w.rollSSH("isolation-ssh-main-token")
		own := []client.Object{
			&appsv1.Deployment{}, &corev1.Service{}, &policyv1.PodDisruptionBudget{}, &networkingv1.NetworkPolicy{},
		}
		there := func() (n int) {
			for _, o := range own {
				if err := api.Client.Get(ctx, w.key(sshProxyName), o); err == nil {
					n++
				} else {
					Expect(apierrors.IsNotFound(err)).To(BeTrue())
				}
			}
			for name, o := range map[string]client.Object{
				"isolation-server-main": &corev1.Service{}, "isolation-ssh-main-token": &corev1.Secret{}, "isolation-ssh-main-host-keys": &corev1.Secret{},
			} {
				if api.Client.Get(ctx, w.key(name), o) == nil {
					n++
				}
			}
			return n
		}
		Expect(there()).To(Equal(7))

		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy = nil })
		w.pass()
		Expect(w.toldOfSSH()).To(BeEmpty())
		w.pass()
		Expect(there()).To(Equal(7), "a server pod still relies on it")
		w.roll("dstack-server-0")
		w.settle()
		Expect(there()).To(BeZero())
		Expect(w.condition("SSHProxyReady")).To(HavePrefix("SSHProxyReady=True NotConfigured"))
	})

	It("goes with its DstackServer", func() {
		w := withSSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}})
		w.sshProxiesUp()
		w.settle()
		w.rollSSH("isolation-ssh-main-token")
		Expect(api.Client.Delete(ctx, w.server())).To(Succeed())
		Expect(w.try("main")).To(Succeed())
		Expect(w.toldOfSSH()).To(BeEmpty())
		Expect(w.sshToken("isolation-ssh-main-token")).NotTo(BeEmpty(), "a server pod still relies on it")
		w.roll("dstack-server-0")
		Expect(w.try("main")).To(Succeed())
		err := api.Client.Get(ctx, w.key("isolation-ssh-main-token"), &corev1.Secret{})
		Expect(apierrors.IsNotFound(err)).To(BeTrue())
	})
})

func secretIn(w *world, name string) *corev1.Secret {
	s := &corev1.Secret{}
	s.Namespace, s.Name = w.ns, name
	return s
}
