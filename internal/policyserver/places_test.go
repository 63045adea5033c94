package policyserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

const placesToken = "s3cret"

// startGuarded runs a server that has a token.
func startGuarded(t *testing.T, limits Limits) *running {
	t.Helper()
	return startServer(t, restricted(), Options{Limits: limits, TokenFile: writeToken(t, placesToken)})
}

// dial opens a connection to the server's port for decisions, from an address of
// loopback if one is given.
func (r *running) dial(t testing.TB, from string) net.Conn {
	t.Helper()
	return dialTo(t, strings.TrimPrefix(r.url, "http://"), from)
}

func dialTo(t testing.TB, address, from string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Timeout: testTimeout}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := dialer.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	ready      = "GET " + dstack.PathReady + " HTTP/1.1\r\nHost: x\r\n\r\n"
	authorized = "Authorization: Bearer " + placesToken + "\r\n"
	withToken  = "GET " + dstack.PathReady + " HTTP/1.1\r\nHost: x\r\n" + authorized + "\r\n"
)

// exchange sends a request, reads the answer and tells whether the server then
// ends the connection.
func exchange(t testing.TB, c net.Conn, request string) (status int, ended bool) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, response.Body)
	if !response.Close {
		return response.StatusCode, false
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after \"Connection: close\": %v", err)
	}
	return response.StatusCode, true
}

func decisionRequest(t testing.TB, headers string) string {
	body := plainTask(t)
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", runPath, headers, len(body), body)
}

// decides asks for a decision on a connection that presents the token.
func decides(t testing.TB, c net.Conn) {
	t.Helper()
	if status, ended := exchange(t, c, decisionRequest(t, authorized)); status != http.StatusOK || ended {
		t.Errorf("got %d, ended %v", status, ended)
	}
}

func TestConnectionsWithoutTheTokenEndWithTheirAnswer(t *testing.T) {
	r := startGuarded(t, DefaultLimits())
	for name, tc := range map[string]struct {
		request string
		status  int
		ended   bool
	}{
		"ready":              {ready, 200, true},
		"ready, token":       {withToken, 200, false},
		"decision":           {decisionRequest(t, ""), 401, true},
		"decision, token":    {decisionRequest(t, authorized), 200, false},
		"wrong token":        {decisionRequest(t, "Authorization: Bearer x\r\n"), 401, true},
		"no such path":       {"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 404, true},
		"wrong method":       {"PUT " + dstack.PathReady + " HTTP/1.1\r\nHost: x\r\n\r\n", 405, true},
		"wants to be kept":   {"GET " + dstack.PathReady + " HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, true},
		"no HTTP":            {"x\r\n\r\n", 400, true},
		"revision":           {"GET /revision?profiles HTTP/1.1\r\nHost: x\r\n\r\n", 401, true},
		"revision, token":    {"GET /revision?profiles HTTP/1.1\r\nHost: x\r\n" + authorized + "\r\n", 200, false},
		"several at a time":  {ready + ready, 200, true},
		"waits for continue": {"POST " + runPath + " HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", 401, true},
	} {
		t.Run(name, func(t *testing.T) {
			if status, ended := exchange(t, r.dial(t, ""), tc.request); status != tc.status || ended != tc.ended {
				t.Errorf("got %d, ended %v; want %d, %v", status, ended, tc.status, tc.ended)
			}
		})
	}
	t.Run("one that is kept ends when its token is wrong", func(t *testing.T) {
		c := r.dial(t, "")
		decides(t, c)
		decides(t, c)
		if kept, _, _ := r.places.count(); kept == 0 {
			t.Error("it has no place")
		}
		if status, ended := exchange(t, c, ready); status != 200 || !ended {
			t.Errorf("got %d, ended %v", status, ended)
		}
	})
	eventually(t, func() bool { kept, strangers, _ := r.places.count(); return kept+strangers <= 3 })
	for _, path := range []string{"/healthz", dstack.PathReady, "/metrics"} {
		c := dialTo(t, strings.TrimPrefix(r.healthURL, "http://"), "")
		if status, ended := exchange(t, c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); status != 200 || !ended {
			t.Errorf("health, %s: got %d, ended %v", path, status, ended)
		}
	}
}

// While decisions need no token, as with dstack's own plugin, connections end with
// their answer too.
func TestConnectionsEndWithTheirAnswerWhereNoTokenIsRequired(t *testing.T) {
	snapshot := *restricted()
	snapshot.TokenRequired = false
	r := startServer(t, &snapshot, Options{TokenFile: writeToken(t, placesToken)})
	if status, ended := exchange(t, r.dial(t, ""), decisionRequest(t, "")); status != 200 || !ended {
		t.Errorf("got %d, ended %v", status, ended)
	}
	decides(t, r.dial(t, ""))
}

// However many strangers ask something and stay, or say nothing at all, who has
// the token is answered, on a connection that was there before and on a new one.
func TestStrangersDoNotKeepAnybodyOut(t *testing.T) {
	const crowd = 1500
	for name, request := range map[string]string{"that ask": ready, "that say nothing": "", "that send half a header": "GET / HTTP/1.1\r\nX: "} {
		t.Run(name, func(t *testing.T) {
			r := startGuarded(t, patient())
			before := r.dial(t, "")
			decides(t, before)
			for i := range crowd {
				c := r.dial(t, fmt.Sprintf("127.0.%d.%d", 1+i%3, 1+i%200))
				if _, err := io.WriteString(c, request); err != nil {
					t.Fatal(err)
				}
				if kept, strangers, _ := r.places.count(); kept > 2 || strangers > r.limits.Strangers {
					t.Fatalf("%d connections are kept, and %d strangers are there", kept, strangers)
				}
				if i%500 == 499 {
					decides(t, before)
					c := r.dial(t, "")
					decides(t, c)
					c.Close()
				}
			}
			decides(t, before)
		})
	}
}

// One address takes its own places only.
func TestOneAddressTakesItsOwnPlaces(t *testing.T) {
	r := startGuarded(t, patient())
	other := r.dial(t, "127.0.0.2")
	eventually(t, func() bool { _, strangers, _ := r.places.count(); return strangers == 1 })
	var silent []net.Conn
	for range 2 * r.limits.StrangersOfPeer {
		silent = append(silent, r.dial(t, "127.0.0.3"))
	}
	eventually(t, func() bool { _, strangers, dropped := r.places.count(); return strangers == 65 && dropped == 64 })
	for _, want := range []string{`connections{token="presented"} 0`, `connections{token="none"} 65`, "connections_dropped_total 64"} {
		if got := r.scrape(); !strings.Contains(got, "dstack_isolation_"+want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	if status, _ := exchange(t, other, ready); status != http.StatusOK {
		t.Errorf("a stranger of another address got %d", status)
	}
	for i, c := range silent {
		if i < r.limits.StrangersOfPeer {
			if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("one of the oldest stays")
			}
		} else if status, _ := exchange(t, c, ready); status != http.StatusOK {
			t.Fatalf("one of the newest got %d", status)
		}
	}
	eventually(t, func() bool { kept, strangers, _ := r.places.count(); return kept+strangers == 0 })
}

// A stranger that says nothing loses its place soon, also when nobody else wants
// it.
func TestSilentStrangersEnd(t *testing.T) {
	r := startGuarded(t, shortLimits())
	for _, request := range []string{"", "GET / HTTP/1.1\r\nX: "} {
		c := r.dial(t, "")
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("with %q sent the connection stays", request)
		}
	}
	eventually(t, func() bool { kept, strangers, _ := r.places.count(); return kept+strangers == 0 })
}

// patient are limits under which nobody loses a place because of the time.
func patient() Limits {
	limits := DefaultLimits()
	limits.ReadHeader, limits.Read, limits.Write = testTimeout, testTimeout, testTimeout
	return limits
}

// When all places that are kept are taken, a further connection that presents the
// token is answered, and ends with its answer.
func TestKeptPlacesAreBounded(t *testing.T) {
	limits := DefaultLimits()
	limits.Connections = 2
	r := startGuarded(t, limits)
	first, second := r.dial(t, ""), r.dial(t, "")
	decides(t, first)
	decides(t, second)
	if status, ended := exchange(t, r.dial(t, ""), decisionRequest(t, authorized)); status != http.StatusOK || !ended {
		t.Errorf("got %d, ended %v", status, ended)
	}
	first.Close()
	eventually(t, func() bool { kept, _, _ := r.places.count(); return kept == 1 })
	decides(t, r.dial(t, ""))
}

func TestWhoGivesWay(t *testing.T) {
	for name, tc := range map[string]struct {
		strangers, next, want string
	}{
		"there is room":                               {"a1 a2 b1", "a3", ""},
		"a peer with too many":                        {"b1 a1 a2 a3", "a4", "a1"},
		"too many together, the peer that has most":   {"b1 a1 a2 a3 c1", "d1", "a1"},
		"too many together, the oldest of as many":    {"b1 a1 a2 c1 b2", "d1", "b1"},
		"too many together, each of another peer":     {"a1 b1 c1 d1 e1", "f1", "a1"},
		"a new one of a peer with too many, all full": {"b1 b2 a1 a2 a3", "a4", "a1"},
	} {
		p := &places{mostStrangers: 5, mostOfPeer: 3}
		named := map[string]*conn{}
		enter := func(name string) *conn {
			named[name] = &conn{places: p, peer: netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/32", name[0]))}
			return p.enter(named[name])
		}
		for _, name := range strings.Fields(tc.strangers) {
			if enter(name) != nil {
				t.Fatalf("%s: there is no room for %s", name, name)
			}
		}
		before := len(p.strangers)
		got := enter(tc.next)
		if got != named[tc.want] {
			t.Errorf("%s: another one gave way", name)
		}
		if _, n, dropped := p.count(); got != nil && (n != before || dropped != 1) || slices.Contains(p.strangers, got) {
			t.Errorf("%s: %d are there, %d were dropped", name, n, dropped)
		}
		// It is gone, and its end changes nothing more.
		if got != nil && got.keep() {
			t.Errorf("%s: it gets a place", name)
		}
	}
}

func TestPeer(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:80":                "192.0.2.7/32",
		"[::ffff:192.0.2.7]:80":       "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:80":   "2001:db8:1:2::/64",
		"[fe80::1%lo]:80":             "fe80::/64",
		"[2001:db8:1:2:ffff::9]:8080": "2001:db8:1:2::/64",
	} {
		if got := peerOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))).String(); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	if got := peerOf(&net.UnixAddr{Name: "x"}); got.IsValid() {
		t.Errorf("got %s", got)
	}
}

// The numbers in the threat model are those of the default limits.
func TestThreatModelNamesTheDefaultLimits(t *testing.T) {
	text, err := os.ReadFile("../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	l := DefaultLimits()
	for _, want := range []string{
		fmt.Sprintf("%d,%03d places", l.Connections/1000, l.Connections%1000),
		fmt.Sprintf("At most %d of them are open, %d from one address", l.Strangers, l.StrangersOfPeer),
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not there", want)
		}
	}
	if l.Strangers >= l.Requests {
		t.Error("strangers can take every turn")
	}
}
