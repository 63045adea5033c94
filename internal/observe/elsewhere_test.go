package observe_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/observe"
)

const elsewhere = "dstack.example.com"

// resolving is a prober in whose network every name leads to one server.
func resolving(s *httptest.Server) *observe.Prober {
	return observe.New(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	})
}

func TestServerAtItsURL(t *testing.T) {
	for _, url := range []string{"http://" + elsewhere, "http://" + elsewhere + ":3000"} {
		p := prober(t, func(w http.ResponseWriter, r *http.Request) {
			if "http://"+r.Host != url {
				t.Errorf("got host %s, want that of %s", r.Host, url)
			}
			switch r.URL.Path {
			case "/api/server/get_info":
				say(200, `{"server_version": "0.22.5"}`)(w, r)
			case "/api/users/get_my_user":
				if r.Header.Get("Authorization") != "Bearer "+token {
					t.Error("the token did not come")
				}
				say(200, `{"global_role": "admin"}`)(w, r)
			case "/api/sshproxy/get_upstream":
				say(400, `{"detail": [{"code": "resource_not_exists"}]}`)(w, r)
			}
		})
		if got, want := p.ServerAt(t.Context(), url, token), (observe.Server{Release: "0.22.5"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if got, want := p.SSHProxyTokenAt(t.Context(), url, token), (observe.SSHProxyToken{State: dstack.SSHProxyTokenAccepted}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// A token must not reach anybody to whom an answer leads.
func TestNoTokenFollowsARedirect(t *testing.T) {
	var asked atomic.Int32
	p := prober(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Host != elsewhere {
			t.Errorf("%s was asked", r.Host)
		}
		if r.URL.Path == "/api/server/get_info" {
			say(200, `{"server_version": "0.22.5"}`)(w, r)
			return
		}
		http.Redirect(w, r, "http://evil.example.com"+r.URL.Path, http.StatusPermanentRedirect)
	})
	if got := text(t, p.ServerAt(t.Context(), "http://"+elsewhere, token).Err); got != "answered with status 308" {
		t.Errorf("got %q", got)
	}
	if got := text(t, p.SSHProxyTokenAt(t.Context(), "http://"+elsewhere, token).Err); got != "answered with status 308" {
		t.Errorf("got %q", got)
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times, want 3", asked.Load())
	}
}

// TestMain makes the certificate of httptest's servers, which is that of
// example.com, the only root of the system.
func TestMain(m *testing.M) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	s.Close()
	dir, err := os.MkdirTemp("", "observe")
	if err != nil {
		panic(err)
	}
	file := filepath.Join(dir, "roots.pem")
	err = errors.Join(os.WriteFile(file, root, 0o600), os.Setenv("SSL_CERT_FILE", file), os.Setenv("SSL_CERT_DIR", dir))
	if err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// Over https nothing is sent before the certificate was checked: for the name in
// the URL, and against the roots of the system.
func TestCertificates(t *testing.T) {
	for name, tc := range map[string]struct {
		url       string
		own       bool
		want      observe.Server
		wantErr   string
		wantAsked int32
	}{
		"trusted":              {url: "https://example.com", want: observe.Server{Release: "0.22.5"}, wantAsked: 1},
		"of another name":      {url: "https://dstack.example.org", wantErr: untrusted},
		"of unknown authority": {url: "https://" + elsewhere, own: true, wantErr: untrusted},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				say(200, `{"server_version": "0.22.5"}`)(w, r)
			}))
			if tc.own {
				s.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t, elsewhere)}}
			}
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			defer s.Close()
			p := resolving(s)
			got := p.ServerAt(t.Context(), tc.url, "")
			if message := text(t, got.Err); message != tc.wantErr {
				t.Errorf("got %q, want %q", message, tc.wantErr)
			}
			got.Err = nil
			if got != tc.want || asked.Load() != tc.wantAsked {
				t.Errorf("got %+v after %d requests, want %+v after %d", got, asked.Load(), tc.want, tc.wantAsked)
			}
			if tc.wantErr != "" {
				if got := text(t, p.SSHProxyTokenAt(t.Context(), tc.url, token).Err); got != tc.wantErr || asked.Load() != 0 {
					t.Errorf("the token of the SSH proxy: got %q after %d requests", got, asked.Load())
				}
			}
		})
	}
}

const untrusted = "has a TLS certificate that is not trusted here for this name"

// selfSigned is a certificate that nobody else has signed.
func selfSigned(t *testing.T, name string) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestPlainHTTPBehindHTTPS(t *testing.T) {
	p := prober(t, say(200, `{}`))
	if got := text(t, p.ServerAt(t.Context(), "https://"+elsewhere, token).Err); got != "did not answer in TLS" {
		t.Errorf("got %q", got)
	}
}
