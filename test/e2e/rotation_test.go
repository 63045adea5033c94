//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

const sshProxies = "isolation.dstack.ai/server=main,app.kubernetes.io/component=ssh-proxy"

// rotationSpecs delete Secrets of the operator's, as docs/operations.md says, and ask
// the running processes which value they take.
func rotationSpecs(s *site) {
	const policyToken, sshToken, hostKeys = "isolation-policy-main-token", "isolation-ssh-main-token", "isolation-ssh-main-host-keys"

	It("takes a new token of the policy server in every process, and refuses no run meanwhile", func() {
		s.isolate()
		former, server, proxies := s.secret(policyToken, "token"), s.serverPod().UID, s.uids(sshProxies)
		policy := s.uids(policyServers)
		p := s.probe(probing)
		now := s.renew(policyToken, "token", former)
		s.onlyCopyLeft(policyToken)
		s.waitReady("main")
		p.expectNoRefusal()

		for _, pod := range s.pods(policyServers) {
			Expect(takes(&pod, string(former))).To(Equal(http.StatusUnauthorized), "policy server %s and the former token", pod.Name)
			Expect(takes(&pod, string(now))).To(Equal(http.StatusOK), "policy server %s and the new token", pod.Name)
			Expect(policy).NotTo(ContainElement(pod.UID))
		}
		s.expectIsolated() // The server's process presents the only token that is taken.
		Expect(s.serverPod().UID).NotTo(Equal(server))
		Expect(s.uids(sshProxies)).To(Equal(proxies), "the SSH proxies do not use it")
		s.expectNoRestarts()
	})

	It("takes a new token of the SSH proxy in every process, the server first", func() {
		s.isolate()
		former, server, policy := s.secret(sshToken, "token"), s.serverPod().UID, s.uids(policyServers)
		proxies := s.uids(sshProxies)
		held := always(200*time.Millisecond, s.noProxyAnswers)
		now := s.renew(sshToken, "token", former)
		s.onlyCopyLeft(sshToken)
		s.waitReady("main")
		held.expectHeld("the proxy answers at all times")

		pod := s.serverPod()
		Expect(pod.UID).NotTo(Equal(server))
		Expect(upstream(pod, string(former))).To(Equal(http.StatusForbidden), "the server and the former token")
		Expect(upstream(pod, string(now))).To(Equal(http.StatusBadRequest), "the server and the new token: it knows no such job")
		for _, proxy := range s.pods(sshProxies) {
			Expect(proxies).NotTo(ContainElement(proxy.UID))
			Expect(s.presented(&proxy)).To(Equal("400"), "the server knows no such job, for proxy %s: with another token it would answer 403", proxy.Name)
		}
		Expect(s.uids(policyServers)).To(Equal(policy), "the policy servers do not use it")
		s.expectNoRestarts()
	})

	It("presents new host keys at every proxy, and tells users when it does", func() {
		s.isolate()
		said, server, policy := s.dstackServer(Default, "main").Status.SSHProxy, s.serverPod().UID, s.uids(policyServers)
		former, proxies := s.secret(hostKeys, "host-keys"), s.uids(sshProxies)
		held := always(200*time.Millisecond, s.claimsWhatNoProxyPresents)
		s.renew(hostKeys, "host-keys", former)
		s.onlyCopyLeft(hostKeys)
		s.waitReady("main")
		held.expectHeld("a host key that users are told is one that a proxy presents")

		status := s.dstackServer(Default, "main").Status.SSHProxy
		Expect(status.KnownHosts).NotTo(Equal(said.KnownHosts))
		for _, proxy := range s.pods(sshProxies) {
			at := proxy.Status.PodIP + ":30022"
			Expect(proxies).NotTo(ContainElement(proxy.UID))
			Expect(newSSHClient(at, status.Address, status.KnownHosts).login()).To(Succeed(), "who trusts the new key")
			Expect(newSSHClient(at, said.Address, said.KnownHosts).login()).To(MatchError(ContainSubstring("knownhosts: key mismatch")), "who trusts the former key")
		}
		Expect(s.serverPod().UID).To(Equal(server), "the server does not use them")
		Expect(s.uids(policyServers)).To(Equal(policy), "nor do the policy servers")
		s.expectNoRestarts()
	})
}

// uids are those of the pods that are not being deleted, sorted.
func (s *site) uids(selector string) []types.UID {
	GinkgoHelper()
	var uids []types.UID
	for _, pod := range s.pods(selector) {
		uids = append(uids, pod.UID)
	}
	slices.Sort(uids)
	return uids
}

// renew deletes a Secret of the operator's own and waits for another one.
func (s *site) renew(name, key string, former []byte) (now []byte) {
	GinkgoHelper()
	s.kubectl("delete", "secret", name)
	Eventually(func(g Gomega) {
		var secret corev1.Secret
		g.Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: name}, &secret)).To(Succeed())
		now = secret.Data[key]
		g.Expect(now).NotTo(Or(BeEmpty(), Equal(former)))
	}).WithTimeout(2*time.Minute).WithPolling(300*time.Millisecond).Should(Succeed(), "Secret %s must be made anew", name)
	return now
}

// onlyCopyLeft waits until no pod reads an earlier value of a Secret any more.
func (s *site) onlyCopyLeft(of string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var all corev1.SecretList
		g.Expect(cluster.List(context.Background(), &all, client.InNamespace(s.namespace))).To(Succeed())
		all.Items = slices.DeleteFunc(all.Items, func(secret corev1.Secret) bool { return !workload.IsSecretCopy(secret.Name, of) })
		g.Expect(all.Items).To(HaveLen(1), "of earlier values no copy may be left")
		var own corev1.Secret
		g.Expect(cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: of}, &own)).To(Succeed())
		g.Expect(all.Items[0].Data).To(Equal(own.Data))
	}).WithTimeout(readyTimeout).WithPolling(300 * time.Millisecond).Should(Succeed())
}

// takes asks a policy server what it makes of a token.
func takes(pod *corev1.Pod, token string) (status int) {
	GinkgoHelper()
	request, err := http.NewRequest(http.MethodGet, "http://"+pod.Status.PodIP+":8080"+dstack.PathRevision, nil)
	Expect(err).NotTo(HaveOccurred())
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := direct.Do(request)
	Expect(err).NotTo(HaveOccurred())
	response.Body.Close()
	return response.StatusCode
}

// upstream asks a dstack server what it makes of an SSH proxy's token.
func upstream(pod *corev1.Pod, token string) (status int) {
	status, _ = call("http://"+pod.Status.PodIP+":3000"+dstack.SSHProxyUpstreamPath, token, `{"id":"00000000000000000000000000000000"}`)
	return status
}

var upstreamStatus = regexp.MustCompile(`the server answered with status (\d+)`)

// presented is what the dstack server answers to the token that an SSH proxy presents
// for somebody who logs in.
func (s *site) presented(proxy *corev1.Pod) string {
	GinkgoHelper()
	status := s.dstackServer(Default, "main").Status.SSHProxy
	Expect(newSSHClient(proxy.Status.PodIP+":30022", status.Address, status.KnownHosts).login()).To(Succeed())
	var answers [][]string
	Eventually(func() [][]string {
		answers = upstreamStatus.FindAllStringSubmatch(s.kubectl("logs", proxy.Name), -1)
		return answers
	}).WithTimeout(soon).ShouldNot(BeEmpty())
	return answers[len(answers)-1][1]
}

// claimsWhatNoProxyPresents says so when users are told to trust a host key that no
// proxy has.
func (s *site) claimsWhatNoProxyPresents() string {
	told, err := s.toldToTrust()
	if err != nil || len(told) == 0 {
		return message(err)
	}
	proxies, err := s.allPods(proxyPods)
	if err != nil {
		return err.Error()
	}
	for i := range proxies {
		if proxies[i].Status.PodIP != "" && strings.Contains(told[0], presentedAt(proxies[i].Status.PodIP+":30022")) {
			return ""
		}
	}
	// What users are told may have changed since.
	if now, err := s.toldToTrust(); err != nil || !slices.Equal(now, told) {
		return message(err)
	}
	return "no proxy presents a host key that users are told to trust"
}

func message(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// toldToTrust are the lines for known_hosts.
func (s *site) toldToTrust() ([]string, error) {
	var server v1alpha1.DstackServer
	err := cluster.Get(context.Background(), client.ObjectKey{Namespace: s.namespace, Name: "main"}, &server)
	if err != nil || server.Status.SSHProxy == nil {
		return nil, err
	}
	return server.Status.SSHProxy.KnownHosts, nil
}

// presentedAt is the host key that an SSH server presents, as known_hosts has it.
func presentedAt(at string) string {
	presented := "no host key"
	conn, err := net.DialTimeout("tcp", at, sshTimeout)
	if err != nil {
		return presented
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(sshTimeout))
	_, _, _, _ = ssh.NewClientConn(conn, at, &ssh.ClientConfig{
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			presented = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
			return errors.New("that is all")
		},
	})
	return presented
}
