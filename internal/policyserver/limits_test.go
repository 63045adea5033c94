package policyserver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// bodyOfSize is a well-formed body of exactly n bytes, padded inside the
// specification.
func bodyOfSize(t testing.TB, n int) string {
	t.Helper()
	plain := plainTask(t)
	end := strings.LastIndex(strings.TrimRight(plain, " \n}"), "}")
	if padding := n - len(plain); padding >= 0 {
		return plain[:end] + strings.Repeat(" ", padding) + plain[end:]
	}
	t.Fatalf("%d bytes are too few", n)
	return ""
}

func TestDefaultLimitsEndBeforeDstackGivesUp(t *testing.T) {
	const patience = 8 * time.Second
	l := DefaultLimits()
	if l.Write+l.Queue >= patience || l.Read >= l.Write || l.ReadHeader >= l.Read || l.Queue+l.Read >= l.Write {
		t.Errorf("got queue %s, header %s, read %s, write %s", l.Queue, l.ReadHeader, l.Read, l.Write)
	}
	if l.BodyBytes > l.LargeBodiesBytes {
		t.Error("a body within its limit never gets its share")
	}
}

func TestBodyLimit(t *testing.T) {
	const limit = 1 << 20
	s := newHandler(t, restricted(), Options{})
	for _, declared := range []bool{true, false} {
		for n, want := range map[int]int{limit - 1: 200, limit: 200, limit + 1: 413} {
			r := httptest.NewRequest(http.MethodPost, runPath, strings.NewReader(bodyOfSize(t, n)))
			if !declared {
				r.ContentLength = -1
			}
			w := httptest.NewRecorder()
			s.decisionHandler().ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%d bytes, length declared %v: got %d, want %d", n, declared, w.Code, want)
			}
			if want == 413 && (w.Body.String() != `{"error":"body must not be larger than 1048576 bytes"}` || w.Header().Get("Connection") != "close") {
				t.Errorf("got %s, %v", w.Body, w.Header())
			}
		}
	}
}

// The sender of a body that is too large gets an answer before it has sent it.
func TestTooLargeIsSaidAtOnce(t *testing.T) {
	r := startServer(t, restricted(), Options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{", runPath, r.limits.BodyBytes+1)
	response := readResponse(t, conn)
	if response.StatusCode != http.StatusRequestEntityTooLarge || !response.Close {
		t.Errorf("got %s, close %v", response.Status, response.Close)
	}
}

func readResponse(t testing.TB, conn net.Conn) *http.Response {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func TestHeaderLimit(t *testing.T) {
	r := startServer(t, restricted(), Options{})
	// net/http adds 4096 bytes to MaxHeaderBytes, and counts the request line.
	most := r.limits.HeaderBytes + 4096
	for size, want := range map[int]int{most - 1: 200, most: 200, most + 1: 431} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		request := "GET /readyz HTTP/1.1\r\nHost: x\r\nX-Padding: %s\r\n\r\n"
		fmt.Fprintf(conn, request, strings.Repeat("p", size-len(request)+len("%s")))
		if got := readResponse(t, conn).StatusCode; got != want {
			t.Errorf("%d bytes of header: got %d, want %d", size, got, want)
		}
		conn.Close()
	}
}

func shortLimits() Limits {
	l := DefaultLimits()
	l.ReadHeader, l.Read, l.Write, l.Queue = 150*time.Millisecond, 300*time.Millisecond, 2*time.Second, 50*time.Millisecond
	return l
}

func TestSlowBody(t *testing.T) {
	r := startServer(t, restricted(), Options{Limits: shortLimits()})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", runPath)
	response := readResponse(t, conn)
	if body := readAll(t, response.Body); response.StatusCode != http.StatusRequestTimeout || body != `{"error":"body did not arrive in time"}` {
		t.Errorf("got %s %s", response.Status, body)
	}
	if took := time.Since(start); took < r.limits.Read/2 || took > r.limits.Read+5*time.Second {
		t.Errorf("took %s", took)
	}
	if !strings.Contains(r.scrape(), `dstack_isolation_request_errors_total{kind="run",reason="too_slow"} 1`) {
		t.Error("not counted")
	}
}

func TestSlowHeader(t *testing.T) {
	r := startServer(t, restricted(), Options{Limits: shortLimits()})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /apply")
	if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	// The connection is closed, with or without an answer.
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the connection stays: %v", err)
	}
}

func TestBodyThatEndsEarly(t *testing.T) {
	r := startServer(t, restricted(), Options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", runPath)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	response := readResponse(t, conn)
	if body := readAll(t, response.Body); response.StatusCode != http.StatusBadRequest || body != `{"error":"body ended early"}` {
		t.Errorf("got %s %s", response.Status, body)
	}
}

func TestGate(t *testing.T) {
	limits := DefaultLimits()
	limits.Requests, limits.SmallBodyBytes, limits.BodyBytes, limits.LargeBodiesBytes, limits.Queue = 4, 10, 20, 40, 10*time.Millisecond
	ctx := context.Background()
	enter := func(g *gate, lengths ...int64) (leaves []func(), refused int) {
		for _, length := range lengths {
			if leave, entered := g.enter(ctx, length); entered {
				leaves = append(leaves, leave)
			} else {
				refused++
			}
		}
		return leaves, refused
	}
	for name, tc := range map[string]struct {
		lengths     []int64
		wantRefused int
	}{
		"as many as there are slots":             {[]int64{0, 1, 10, 10}, 0},
		"one more":                               {[]int64{0, 1, 10, 10, 0}, 1},
		"large ones take their share":            {[]int64{20, 20}, 0},
		"one byte too many":                      {[]int64{20, 20, 11}, 1},
		"small ones go on":                       {[]int64{20, 20, 11, 10, 10}, 1},
		"at the boundary one is small":           {[]int64{20, 20, 10}, 0},
		"unknown length counts as the largest":   {[]int64{-1, 20, -1}, 1},
		"what was refused a share holds no slot": {[]int64{20, 20, 20, 20, 20, 1, 1}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(limits)
			leaves, refused := enter(g, tc.lengths...)
			if refused != tc.wantRefused {
				t.Errorf("refused %d, want %d", refused, tc.wantRefused)
			}
			for _, leave := range leaves {
				leave()
			}
			if len(g.slots) != 0 || !g.large.TryAcquire(limits.LargeBodiesBytes) {
				t.Error("something was kept")
			}
		})
	}
	t.Run("who waits gets the turn of who leaves", func(t *testing.T) {
		patient := limits
		patient.Queue = testTimeout
		g := newGate(patient)
		leaves, _ := enter(g, 1, 1, 20, 20)
		got := make(chan bool)
		go func() { _, entered := g.enter(ctx, 20); got <- entered }()
		leaves[3]()
		if !<-got {
			t.Error("it did not")
		}
	})
	t.Run("a client that went away stops waiting", func(t *testing.T) {
		patient := limits
		patient.Queue = testTimeout
		g := newGate(patient)
		enter(g, 1, 1, 1, 1)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, entered := g.enter(gone, 1); entered {
			t.Error("it entered")
		}
	})
}

func TestOverload(t *testing.T) {
	limits := shortLimits()
	limits.Requests = 1
	s := newHandler(t, restricted(), Options{Limits: limits})
	leave, _ := s.gate.enter(context.Background(), 1)
	w := s.post(runPath, plainTask(t))
	if w.Code != http.StatusServiceUnavailable || w.Body.String() != `{"error":"too many requests at one time: try again"}` {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	leave()
	if w := s.post(runPath, plainTask(t)); w.Code != http.StatusOK {
		t.Errorf("after it: got %d %s", w.Code, w.Body)
	}
}
