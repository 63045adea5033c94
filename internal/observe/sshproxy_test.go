package observe_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/observe"
)

// greeting is a prober of one TCP server that handles connections by answer.
func greeting(t *testing.T, answer func(net.Conn)) *observe.Prober {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				answer(conn)
			}()
		}
	}()
	return observe.New(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
	})
}

// hostKeys are new private keys, of the types that the proxy may have.
func hostKeys(t *testing.T) (ed25519Key, ecdsaKey, rsaKey ssh.Signer) {
	t.Helper()
	signer := func(key crypto.Signer, err error) ssh.Signer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		s, err := ssh.NewSignerFromSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	ecKey, ecErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	big, rsaErr := rsa.GenerateKey(rand.Reader, 2048)
	return signer(ed, err), signer(ecKey, ecErr), signer(big, rsaErr)
}

// proxy answers as dstack's does, with host keys, and counts what it is sent to log in.
func proxy(logins *atomic.Int32, keys ...ssh.Signer) func(net.Conn) {
	return func(c net.Conn) {
		config := &ssh.ServerConfig{
			ServerVersion:   "SSH-2.0-dstack_sshproxy_0.0.2",
			AuthLogCallback: func(ssh.ConnMetadata, string, error) { logins.Add(1) },
			NoClientAuth:    true,
		}
		for _, key := range keys {
			config.AddHostKey(key)
		}
		_, _, _, _ = ssh.NewServerConn(c, config)
	}
}

func TestSSHProxiesPresentHostKeys(t *testing.T) {
	ed, ec, big := hostKeys(t)
	for name, tc := range map[string]struct {
		has   []ssh.Signer
		types []string
		want  []ssh.Signer
	}{
		"the one that it chooses": {[]ssh.Signer{ed}, nil, []ssh.Signer{ed}},
		"one type":                {[]ssh.Signer{ed, ec}, []string{"ecdsa-sha2-nistp256"}, []ssh.Signer{ec}},
		"each type":               {[]ssh.Signer{ed, ec, big}, []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"}, []ssh.Signer{ed, ec, big}},
		"a type that it has not":  {[]ssh.Signer{ed}, []string{"ssh-rsa", "ssh-ed25519"}, []ssh.Signer{ed}},
		"none of the types":       {[]ssh.Signer{ed}, []string{"ssh-rsa"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var logins atomic.Int32
			got := greeting(t, proxy(&logins, tc.has...)).SSHProxies(t.Context(), []string{"10.0.0.7:30022"}, tc.types)[0]
			if got.Err != nil || got.Version != "0.0.2" {
				t.Fatalf("got %+v", got)
			}
			var want, keys []string
			for _, k := range tc.want {
				want = append(want, ssh.FingerprintSHA256(k.PublicKey()))
			}
			for _, k := range got.HostKeys {
				keys = append(keys, ssh.FingerprintSHA256(k))
			}
			if diff := cmp.Diff(want, keys); diff != "" {
				t.Errorf("host keys (-want +got):\n%s", diff)
			}
			if n := logins.Load(); n != 0 {
				t.Errorf("%d attempts to log in were made, want none", n)
			}
		})
	}
}

// liar presents the host key of another, and signs with its own.
type liar struct {
	ssh.Signer
	presents ssh.PublicKey
}

func (l liar) PublicKey() ssh.PublicKey { return l.presents }

func TestSSHProxies(t *testing.T) {
	over := make(chan struct{})
	ed, _, _ := hostKeys(t)
	other, _, _ := hostKeys(t)
	const banner = "SSH-2.0-dstack_sshproxy_0.0.2\r\n"
	write := func(parts ...string) func(net.Conn) {
		return func(c net.Conn) {
			for _, part := range parts {
				fmt.Fprint(c, part)
			}
		}
	}
	var logins atomic.Int32
	cases := map[string]struct {
		answer  func(net.Conn)
		wantErr string
	}{
		"a banner alone": {answer: func(c net.Conn) {
			fmt.Fprint(c, banner)
			_, _ = c.Read(make([]byte, 1000))
		}, wantErr: "broke off the SSH handshake"},
		"a banner and silence": {answer: func(c net.Conn) {
			fmt.Fprint(c, banner)
			<-over
		}, wantErr: "did not answer in time"},
		"nonsense behind the banner": {answer: func(c net.Conn) {
			fmt.Fprint(c, banner, token, strings.Repeat("\x00", 100))
			_, _ = io.Copy(io.Discard, c)
		}, wantErr: "broke off the SSH handshake"},
		"bytes without end": {answer: func(c net.Conn) {
			fmt.Fprint(c, banner)
			for packet := "\x00\x00\x80\x00\x04\x02" + strings.Repeat("x", 0x7ffe); ; { // SSH_MSG_IGNORE
				if _, err := fmt.Fprint(c, packet); err != nil {
					return
				}
			}
		}, wantErr: "broke off the SSH handshake"},
		"a host key that is not its own": {answer: proxy(&logins, liar{ed, other.PublicKey()}), wantErr: "broke off the SSH handshake"},
		"no version":                     {answer: write("SSH-2.0-dstack_sshproxy_\r\n"), wantErr: "did not answer in SSH"},
		"a strange version":              {answer: write("SSH-2.0-dstack_sshproxy_0.0.2 " + token + "\r\n"), wantErr: "did not answer in SSH"},
		"another SSH server":             {answer: write("SSH-2.0-OpenSSH_9.2 " + token + "\r\n"), wantErr: "is another SSH server than dstack's proxy"},
		"a web server":                   {answer: write("HTTP/1.1 400 Bad Request\r\n\r\n" + token), wantErr: "did not answer in SSH"},
		"an endless line":                {answer: write("SSH-2.0-dstack_sshproxy_" + strings.Repeat("1", 1000)), wantErr: "did not answer in SSH"},
		"half a banner":                  {answer: write("SSH-2.0-dstack_sshproxy_0.0"), wantErr: "closed the connection"},
		"a closed door":                  {answer: write(), wantErr: "closed the connection"},
		"silence for too long":           {answer: func(net.Conn) { <-over }, wantErr: "did not answer in time"},
		"a reset":                        {answer: func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, wantErr: "connection reset by peer"},
		"a line without an end":          {answer: func(c net.Conn) { write("SSH-2.0-dstack_sshproxy_0")(c); <-over }, wantErr: "did not answer in time"},
	}
	t.Cleanup(func() { close(over) })
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := greeting(t, tc.answer).SSHProxies(t.Context(), []string{"10.0.0.7:30022"}, nil)[0]
			if got.Version != "" || got.HostKeys != nil || text(t, got.Err) != tc.wantErr {
				t.Errorf("got %+v, %q, want %q", got, text(t, got.Err), tc.wantErr)
			}
		})
	}
}

func TestSSHProxiesThatCannotBeReached(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"an unknown name": {err: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "10.0.0.7"}}, want: "no such host"},
		"words with an address": {
			err:  &net.OpError{Op: "dial", Net: "tcp", Err: &net.AddrError{Err: "missing port in address", Addr: "10.0.0.7"}},
			want: "could not be reached",
		},
	} {
		p := observe.New(func(context.Context, string, string) (net.Conn, error) { return nil, tc.err })
		if got := text(t, p.SSHProxies(t.Context(), []string{"10.0.0.7:30022"}, nil)[0].Err); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func TestSSHProxiesAreNotWaitedForAfterTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := greeting(t, func(c net.Conn) {
		cancel()
		_, _ = c.Read(make([]byte, 1))
	})
	if got := p.SSHProxies(ctx, []string{"10.0.0.7:30022"}, nil)[0]; got.Err == nil {
		t.Errorf("got %+v, want an error", got)
	}
}

func TestSSHProxyTokens(t *testing.T) {
	p := prober(t, func(w http.ResponseWriter, r *http.Request) {
		switch host, _, _ := net.SplitHostPort(r.Host); host {
		case "10.0.0.1":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"detail":[{"msg":"Resource not found","code":"resource_not_exists"}]}`)
		case "10.0.0.2":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"detail":{"msg":"Invalid token","code":null}}`)
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	got := p.SSHProxyTokens(t.Context(), []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, 3000, token)
	var status *dstack.StatusError
	if got[0].State != dstack.SSHProxyTokenAccepted || got[1].State != dstack.SSHProxyTokenRejected || !errors.As(got[2].Err, &status) {
		t.Errorf("got %+v", got)
	}
}
