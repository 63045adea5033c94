package observe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

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

func TestSSHProxies(t *testing.T) {
	over := make(chan struct{})
	write := func(parts ...string) func(net.Conn) {
		return func(c net.Conn) {
			for _, part := range parts {
				fmt.Fprint(c, part)
			}
		}
	}
	cases := map[string]struct {
		answer  func(net.Conn)
		want    string
		wantErr string
	}{
		"its version": {answer: func(c net.Conn) {
			fmt.Fprint(c, "SSH-2.0-dstack_sshproxy_0.0.2\r\n")
			<-over // As the real one, which waits for the client's banner.
		}, want: "0.0.2"},
		"with more behind it":   {answer: write("SSH-2.0-dstack_sshproxy_0.0.2\r\n", "\x00\x00\x01"), want: "0.0.2"},
		"a newline alone":       {answer: write("SSH-2.0-dstack_sshproxy_", "0.1.0-rc1\n"), want: "0.1.0-rc1"},
		"no version":            {answer: write("SSH-2.0-dstack_sshproxy_\r\n"), wantErr: "did not answer in SSH"},
		"a strange version":     {answer: write("SSH-2.0-dstack_sshproxy_0.0.2 " + token + "\r\n"), wantErr: "did not answer in SSH"},
		"another SSH server":    {answer: write("SSH-2.0-OpenSSH_9.2 " + token + "\r\n"), wantErr: "is another SSH server than dstack's proxy"},
		"a web server":          {answer: write("HTTP/1.1 400 Bad Request\r\n\r\n" + token), wantErr: "did not answer in SSH"},
		"an endless line":       {answer: write("SSH-2.0-dstack_sshproxy_" + strings.Repeat("1", 1000)), wantErr: "did not answer in SSH"},
		"half a banner":         {answer: write("SSH-2.0-dstack_sshproxy_0.0"), wantErr: "closed the connection"},
		"a closed door":         {answer: write(), wantErr: "closed the connection"},
		"silence for too long":  {answer: func(net.Conn) { <-over }, wantErr: "did not answer in time"},
		"a reset":               {answer: func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, wantErr: "connection reset by peer"},
		"a line without an end": {answer: func(c net.Conn) { write("SSH-2.0-dstack_sshproxy_0")(c); <-over }, wantErr: "did not answer in time"},
	}
	t.Cleanup(func() { close(over) })
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := greeting(t, tc.answer).SSHProxies(t.Context(), []string{"10.0.0.7:30022"})[0]
			if got.Version != tc.want || text(t, got.Err) != tc.wantErr {
				t.Errorf("got %q, %q, want %q, %q", got.Version, text(t, got.Err), tc.want, tc.wantErr)
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
		if got := text(t, p.SSHProxies(t.Context(), []string{"10.0.0.7:30022"})[0].Err); got != tc.want {
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
	if got := p.SSHProxies(ctx, []string{"10.0.0.7:30022"})[0]; got.Err == nil {
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
