//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/sshproxy"
)

// sshTimeout is for a handshake, with the question to the dstack server.
const sshTimeout = 10 * time.Second

// sshClient is a user's: it trusts what known_hosts has and nothing else.
type sshClient struct {
	// at is the address that it dials, and name the one that it knows the proxy by.
	at, name string
	trust    ssh.HostKeyCallback
	key      ssh.Signer
}

// newSSHClient makes a client with lines of known_hosts.
func newSSHClient(at, name string, knownHosts []string) *sshClient {
	GinkgoHelper()
	Expect(knownHosts).NotTo(BeEmpty(), "users must be told what to trust")
	file := filepath.Join(GinkgoT().TempDir(), "known_hosts")
	Expect(os.WriteFile(file, []byte(strings.Join(knownHosts, "\n")+"\n"), 0o600)).To(Succeed())
	trust, err := knownhosts.New(file)
	Expect(err).NotTo(HaveOccurred())
	_, private, err := ed25519.GenerateKey(rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	key, err := ssh.NewSignerFromKey(private)
	Expect(err).NotTo(HaveOccurred())
	return &sshClient{at: at, name: name, trust: trust, key: key}
}

// login goes as far as anybody can for whom no job runs: the proxy presents its
// host key, which must be the one to trust, and refuses the user after it has
// asked the dstack server.
func (c *sshClient) login() error {
	conn, err := net.DialTimeout("tcp", c.at, sshTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(sshTimeout)); err != nil {
		return err
	}
	trusted := false
	_, _, _, err = ssh.NewClientConn(conn, c.name, &ssh.ClientConfig{
		User: "00000000000000000000000000000000",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(c.key)},
		HostKeyCallback: func(hostname string, remote net.Addr, key ssh.PublicKey) error {
			err := c.trust(hostname, remote, key)
			trusted = err == nil
			return err
		},
	})
	switch {
	case err == nil:
		return errors.New("nobody may be let in for whom no job runs")
	case !trusted || !strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("log in at %s: %w", c.at, err)
	}
	return nil
}

// wrong is login for an invariant.
func (c *sshClient) wrong() string {
	if err := c.login(); err != nil {
		return err.Error()
	}
	return ""
}

// greeting is the first line that is said at an address.
func greeting(at string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), sshTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(sshTimeout)); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// session is a connection that stays open for as long as the other side lets it.
type session struct {
	mu   sync.Mutex
	over time.Time
}

// openSession connects to an SSH proxy and waits for its greeting.
func openSession(at string) *session {
	GinkgoHelper()
	conn, err := net.DialTimeout("tcp", at, sshTimeout)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(conn.Close)
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	Expect(err).NotTo(HaveOccurred())
	Expect(line).To(HavePrefix(dstack.SSHProxyBanner))
	s := &session{}
	go func() {
		_, _ = io.Copy(io.Discard, reader)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.over = time.Now()
	}()
	return s
}

// ended waits until the other side has cut it, and tells when.
func (s *session) ended() (at time.Time) {
	GinkgoHelper()
	Eventually(func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		at = s.over
		return at
	}).WithTimeout(time.Minute).ShouldNot(BeZero(), "the proxy that had it must have gone")
	return at
}

// greets tells whether dstack's SSH proxy answers at an address.
func greets(at string) bool {
	line, err := greeting(at)
	return err == nil && strings.HasPrefix(line, dstack.SSHProxyBanner)
}

// hostKey is a new private host key of a user's own.
func hostKey() string {
	GinkgoHelper()
	key, err := sshproxy.NewHostKey()
	Expect(err).NotTo(HaveOccurred())
	return string(key)
}
