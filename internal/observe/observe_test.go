package observe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/observe"
)

const (
	token = "tok-7f3e"
	pod   = "10.0.0.7"
)

// prober sends everything to one server, whatever address was asked for.
func prober(t *testing.T, h http.HandlerFunc) *observe.Prober {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return observe.New(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	})
}

// text is an error's message, checked for what must not be in it.
func text(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	for _, never := range []string{token, pod, "127.0.0.1", "http://"} {
		if strings.Contains(err.Error(), never) {
			t.Errorf("%q holds %s", err, never)
		}
	}
	return err.Error()
}

func TestPolicyServers(t *testing.T) {
	cases := map[string]struct {
		answer  http.HandlerFunc
		want    observe.PolicyServer
		wantErr string
	}{
		"its revision":     {answer: say(200, `{"revision": "3f9c2a10", "version": "v1", "server": "dstack/main", "generations": {}}`), want: observe.PolicyServer{Revision: "3f9c2a10", Version: "v1"}},
		"its network mode": {answer: say(200, `{"revision": "3f9c2a10", "networkMode": 3}`), want: observe.PolicyServer{Revision: "3f9c2a10", NetworkMode: 3}},
		"no version":       {answer: say(200, `{"revision": "3f9c2a10"}`), want: observe.PolicyServer{Revision: "3f9c2a10"}},
		"no revision":      {answer: say(200, `{"version": "v1"}`), wantErr: "named no revision"},
		"an empty one":     {answer: say(200, `{"revision": ""}`), wantErr: "named no revision"},
		"the wrong token":  {answer: say(401, `{"error": "`+token+`"}`), wantErr: "answered with status 401"},
		"not ready":        {answer: say(503, `{"error": "not synced"}`), wantErr: "answered with status 503"},
		"a web page":       {answer: say(200, "<html>"), wantErr: "read the answer: invalid character '<' looking for beginning of value"},
		"nothing":          {answer: say(200, ""), wantErr: "read the answer: EOF"},
		"half":             {answer: say(200, `{"revision": "3f`), wantErr: "read the answer: unexpected EOF"},
		"wrong types":      {answer: say(200, `{"revision": 7}`), wantErr: "read the answer: json: cannot unmarshal number into Go struct field .revision of type string"},
		"a huge answer":    {answer: say(200, `{"revision": "`+strings.Repeat("a", 100<<10)+`"}`), wantErr: "read the answer: unexpected EOF"},
		"huge headers":     {answer: hugeHeaders, wantErr: "did not answer in HTTP"},
		"a redirect": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://elsewhere.example.com", http.StatusFound)
		}, wantErr: "answered with status 302"},
		"no HTTP":            {answer: raw("SSH-2.0-OpenSSH_9.2 " + token + "\r\n\r\n"), wantErr: "did not answer in HTTP"},
		"a closed door":      {answer: raw(""), wantErr: "closed the connection"},
		"a broken body":      {answer: raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), wantErr: "read the answer: unexpected EOF"},
		"a connection reset": {answer: reset, wantErr: "connection reset by peer"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := prober(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/revision" || r.Header.Get("Authorization") != "Bearer "+token || r.Host != pod+":8080" {
					t.Errorf("got %s %s%s with %q", r.Method, r.Host, r.URL.Path, r.Header.Get("Authorization"))
				}
				tc.answer(w, r)
			})
			got := p.PolicyServers(t.Context(), []string{pod}, 8080, token)[0]
			if message := text(t, got.Err); !strings.HasSuffix(message, tc.wantErr) || (message == "") != (tc.wantErr == "") {
				t.Errorf("got error %q, want %q", message, tc.wantErr)
			}
			got.Err = nil
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// raw answers with the given bytes and closes the connection.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		fmt.Fprint(conn, answer)
		conn.Close()
	}
}

func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		panic(err)
	}
	conn.Close()
}

func hugeHeaders(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Much", strings.Repeat("a", 1<<20))
	fmt.Fprint(w, `{"revision": "3f9c2a10"}`)
}

func TestServers(t *testing.T) {
	info, admin := say(200, `{"server_version": "0.22.5"}`), say(200, `{"global_role": "admin"}`)
	cases := map[string]struct {
		info, user http.HandlerFunc
		token      string
		want       observe.Server
		wantErr    string
	}{
		"no token to check":      {info: info, want: observe.Server{Release: "0.22.5"}},
		"an administrator":       {info: info, user: admin, token: token, want: observe.Server{Release: "0.22.5"}},
		"a mere user":            {info: info, user: say(200, `{"global_role": "user"}`), token: token, want: observe.Server{Release: "0.22.5", TokenRejected: true}},
		"a role left out":        {info: info, user: say(200, `{}`), token: token, want: observe.Server{Release: "0.22.5", TokenRejected: true}},
		"unknown token, 401":     {info: info, user: say(401, token), token: token, want: observe.Server{Release: "0.22.5", TokenRejected: true}},
		"unknown token, 403":     {info: info, user: say(403, token), token: token, want: observe.Server{Release: "0.22.5", TokenRejected: true}},
		"an error for the token": {info: info, user: say(500, token), token: token, want: observe.Server{Release: "0.22.5"}, wantErr: "answered with status 500"},
		"garbage for the token":  {info: info, user: raw(token), token: token, want: observe.Server{Release: "0.22.5"}, wantErr: "did not answer in HTTP"},
		"a development build":    {info: say(200, `{"server_version": null}`), want: observe.Server{}},
		"no dstack":              {info: say(404, `not found`), wantErr: "answered with status 404"},
		"no HTTP":                {info: raw("ERR\r\n"), wantErr: "did not answer in HTTP"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := prober(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/api/server/get_info":
					if r.Header.Get("Authorization") != "" {
						t.Error("the token was sent where none is needed")
					}
					tc.info(w, r)
				case "/api/users/get_my_user":
					if r.Header.Get("Authorization") != "Bearer "+tc.token {
						t.Errorf("got %q", r.Header.Get("Authorization"))
					}
					tc.user(w, r)
				}
			})
			got := p.Servers(t.Context(), []string{pod}, 3000, tc.token)[0]
			if message := text(t, got.Err); message != tc.wantErr {
				t.Errorf("got error %q, want %q", message, tc.wantErr)
			}
			got.Err = nil
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestErrorsOfTheNetwork(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.ParseIP(pod), Port: 8080}, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	cases := map[string]struct {
		err  error
		want string
	}{
		"refused":      {refused, "connection refused"},
		"timeout":      {&net.OpError{Op: "dial", Net: "tcp", Addr: refused.Addr, Err: os.ErrDeadlineExceeded}, "did not answer in time"},
		"no such host": {&net.DNSError{Err: "no such host", Name: pod, IsNotFound: true}, "no such host"},
		"any other":    {fmt.Errorf("route to %s: %w", pod, errors.New("lost")), "did not answer in HTTP"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := observe.New(func(context.Context, string, string) (net.Conn, error) { return nil, tc.err })
			if got := text(t, p.PolicyServers(t.Context(), []string{pod}, 8080, token)[0].Err); got != tc.want {
				t.Errorf("policy server: got %q, want %q", got, tc.want)
			}
			if got := text(t, p.Servers(t.Context(), []string{pod}, 3000, token)[0].Err); got != tc.want {
				t.Errorf("server: got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAddressThatIsNone(t *testing.T) {
	p := observe.New(nil)
	if got := text(t, p.PolicyServers(t.Context(), []string{"10.0.0.7\n"}, 8080, token)[0].Err); got != "has no usable address" {
		t.Errorf("got %q", got)
	}
	if got := text(t, p.Servers(t.Context(), []string{"10.0.0.7\n"}, 8080, token)[0].Err); got != "has no usable address" {
		t.Errorf("got %q", got)
	}
}

// A process that takes the connection and then says nothing costs three
// seconds, and the others are asked meanwhile.
func TestSilenceEnds(t *testing.T) {
	over := make(chan struct{})
	p := prober(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Host, pod+":") {
			fmt.Fprint(w, `{"revision": "3f9c2a10"}`)
			return
		}
		if strings.HasPrefix(r.Host, "10.0.0.9:") {
			fmt.Fprint(w, `{"revision": "3f`)
			if err := http.NewResponseController(w).Flush(); err != nil {
				panic(err)
			}
		}
		<-over
	})
	t.Cleanup(func() { close(over) }) // Before the server is closed, which waits for its answers.
	start := time.Now()
	got := p.PolicyServers(t.Context(), []string{"10.0.0.8", pod, "10.0.0.9"}, 8080, token)
	if took := time.Since(start); took < 2*time.Second || took > 20*time.Second {
		t.Errorf("took %s, want about 3s", took)
	}
	if text(t, got[0].Err) != "did not answer in time" || got[1].Revision != "3f9c2a10" || text(t, got[2].Err) != "did not answer in time" {
		t.Errorf("got %+v, want the answer of the second and no answer of the others", got)
	}
}

func TestCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := prober(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if got := text(t, p.PolicyServers(ctx, []string{pod}, 8080, token)[0].Err); got != "was not waited for" {
		t.Errorf("got %q", got)
	}
}

func TestManyAreAskedSomeAtATimeAndAnswerInOrder(t *testing.T) {
	var now, most atomic.Int32
	p := prober(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		host, _, _ := net.SplitHostPort(r.Host)
		fmt.Fprintf(w, `{"revision": %q}`, host)
	})
	var addresses []string
	for i := range 200 {
		addresses = append(addresses, fmt.Sprintf("10.0.1.%d", i))
	}
	var got []string
	for _, a := range p.PolicyServers(t.Context(), addresses, 8080, token) {
		got = append(got, a.Revision)
	}
	if !slices.Equal(got, addresses) {
		t.Errorf("answers are not in the order of the addresses: %v", got)
	}
	if most.Load() > 8 {
		t.Errorf("%d were asked at once, want at most 8", most.Load())
	}
}

func TestIPv6Address(t *testing.T) {
	p := prober(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"revision": %q}`, r.Host) })
	if got := p.PolicyServers(t.Context(), []string{"fd00::7"}, 8080, token)[0]; got.Revision != "[fd00::7]:8080" {
		t.Errorf("got %+v", got)
	}
}

// Specs and tokens would reach whoever runs the proxy.
func TestNeverThroughAProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	p := prober(t, say(200, `{"revision": "3f9c2a10"}`))
	if got := p.PolicyServers(t.Context(), []string{pod}, 8080, token)[0]; got.Revision != "3f9c2a10" {
		t.Errorf("got %+v", got)
	}
}

func TestNobodyToAsk(t *testing.T) {
	p := prober(t, func(http.ResponseWriter, *http.Request) { t.Error("somebody was asked") })
	if got := p.PolicyServers(t.Context(), nil, 8080, token); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	if got := p.Servers(t.Context(), nil, 8080, token); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
