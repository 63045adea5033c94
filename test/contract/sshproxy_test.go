package contract_test

import (
	"context"
	"net"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/observe"
)

// toldOfSSHProxy is what a server is told of an SSH proxy. None runs: a server
// does not look for it.
type toldOfSSHProxy struct{ token, address string }

const (
	sshToken      = "token-of-the-ssh-proxy"
	otherSSHToken = "token-of-another-ssh-proxy"
	sshAddress    = "ssh.example.com:30022"
	// notEnforced is the server's warning that it takes itself to have no proxy.
	notEnforced = "sshproxy is not enabled, ignoring " + dstack.EnvServerSSHProxyEnforced
)

// specsOfSSHProxy are about what shows whether an SSH proxy is the only way in.
// That a server is told so does not: one whose token is empty starts nonetheless,
// and lets users in past the proxy. So the operator asks each process, too.
func specsOfSSHProxy(r *release) {
	It("accepts the token of the SSH proxy that it is told of, and no other, and enforces that proxy", func(ctx context.Context) {
		Expect(r.makesOf(ctx, withPython, sshToken)).To(Equal(dstack.SSHProxyTokenAccepted))
		Expect(r.makesOf(ctx, withPython, otherSSHToken)).To(Equal(dstack.SSHProxyTokenRejected))
		Expect(r.world.dstack[withPython].out.raw(0)).NotTo(ContainSubstring(notEnforced))
		Expect(r.attested(withPython)).To(HaveField("SSHProxyEnforced", HaveValue(BeTrue())))
	})

	It("has no token to compare with when it is told of no SSH proxy", func(ctx context.Context) {
		for _, token := range []string{sshToken, otherSSHToken} {
			Expect(r.makesOf(ctx, withREST, token)).To(Equal(dstack.SSHProxyTokenUnset), token)
		}
	})

	It("starts with an SSH proxy whose token is empty, warns, and does not enforce that proxy", func(ctx context.Context) {
		for _, token := range []string{sshToken, otherSSHToken} {
			Expect(r.makesOf(ctx, withoutSSHToken, token)).To(Equal(dstack.SSHProxyTokenUnset), token)
		}
		Expect(r.world.dstack[withoutSSHToken].out.raw(0)).To(ContainSubstring(notEnforced))
		Expect(r.attested(withoutSSHToken)).To(HaveField("SSHProxyEnforced", HaveValue(BeFalse())))
	})

	It("tells the operator, which asks as the SSH proxy does, a wrong token from there being none", func(ctx context.Context) {
		pods := []string{withPython, withREST, withoutSSHToken}
		for token, want := range map[string][]dstack.SSHProxyToken{
			sshToken:      {dstack.SSHProxyTokenAccepted, dstack.SSHProxyTokenUnset, dstack.SSHProxyTokenUnset},
			otherSSHToken: {dstack.SSHProxyTokenRejected, dstack.SSHProxyTokenUnset, dstack.SSHProxyTokenUnset},
		} {
			for i, got := range r.probeSSHTokens(ctx, pods, token) {
				Expect(got).To(Equal(observe.SSHProxyToken{State: want[i]}), pods[i]+" asked with "+token)
			}
		}
	})

	It("does not start with an SSH proxy whose address is empty", func(ctx context.Context) {
		s := &dstackServer{
			name: "dstack-empty-ssh-address", dir: GinkgoT().TempDir(), venv: r.world.dstack[withREST].venv,
			out: &transcript{secrets: []string{adminToken}}, sshProxy: &toldOfSSHProxy{sshToken, ""},
		}
		err := s.start(ctx)
		DeferCleanup(s.process.kill) // when it did start
		Expect(err).To(HaveOccurred())
		Expect(s.process.hasEnded()).To(BeTrue(), err.Error())
		Expect(s.process.err).To(MatchError("exit status 1"))
		Expect(s.out.raw(0)).To(HaveSuffix("must be valid HOSTNAME[:PORT]: " + dstack.EnvServerSSHProxyAddress + "=\n"))
	})
}

// makesOf is what a server makes of a token for its SSH proxy.
func (r *release) makesOf(ctx context.Context, server, token string) (dstack.SSHProxyToken, error) {
	return (&dstack.Client{HTTP: direct, BaseURL: r.world.dstack[server].admin.url}).CheckSSHProxyToken(ctx, token)
}

// probeSSHTokens asks servers with the operator's prober, as if each was a pod:
// all have one port, and addresses of their own.
func (r *release) probeSSHTokens(ctx context.Context, pods []string, token string) []observe.SSHProxyToken {
	var addresses []string
	listens := map[string]string{}
	for i, pod := range pods {
		address := "10.0.0." + strconv.Itoa(i+1)
		addresses = append(addresses, address)
		listens[net.JoinHostPort(address, strconv.Itoa(dstack.DefaultPort))] = strings.TrimPrefix(r.world.dstack[pod].admin.url, "http://")
	}
	prober := observe.New(func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, listens[address])
	})
	return prober.SSHProxyTokens(ctx, addresses, dstack.DefaultPort, token)
}
