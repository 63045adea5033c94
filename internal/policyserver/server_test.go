package policyserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

func TestRunServesAndEnds(t *testing.T) {
	r := startServer(t, nil, Options{Version: "v1.2.3"})
	status := func(url string) int {
		response, err := r.client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	if got := status(r.url + "/readyz"); got != 503 {
		t.Errorf("before the sync: got %d", got)
	}
	r.options.Source.(fakeSource) <- restricted()
	eventually(t, func() bool { return status(r.healthURL+"/readyz") == 200 })
	response, err := r.client.Post(r.url+runPath, "application/json", strings.NewReader(plainTask(t)))
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, response.Body); response.StatusCode != 200 || !strings.HasSuffix(body, `,"error":null}`) {
		t.Errorf("got %s %s", response.Status, body)
	}
	response.Body.Close()
	r.stop()
	if err := r.wait(t); err != nil {
		t.Errorf("got error %v", err)
	}
}

// While draining the server says that it is not ready, goes on answering, lets
// kept-alive clients go elsewhere, and waits for requests under way.
func TestDrain(t *testing.T) {
	r := startServer(t, restricted(), Options{DrainDelay: 300 * time.Millisecond})
	body := plainTask(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", runPath, len(body), body[:10])
	eventually(t, func() bool { return strings.Contains(r.scrape(), "dstack_isolation_requests_in_flight 1") })
	before := time.Now()
	r.stop()

	eventually(t, r.draining.Load)
	for _, url := range []string{r.url, r.healthURL} {
		response, err := r.client.Get(url + dstack.PathReady)
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, response.Body); response.StatusCode != 503 || body != "draining\n" {
			t.Errorf("got %s %s", response.Status, body)
		}
		response.Body.Close()
	}
	response, err := r.client.Post(r.url+runPath, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 || !response.Close {
		t.Errorf("while draining: got %s, close %v", response.Status, response.Close)
	}
	// After the delay the listener is closed, but the first request still ends.
	eventually(t, func() bool {
		probe, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err == nil {
			probe.Close()
		}
		return err != nil
	})
	if took := time.Since(before); took < r.options.DrainDelay {
		t.Errorf("the listener was closed after %s", took)
	}
	if _, err := io.WriteString(conn, body[10:]); err != nil {
		t.Fatal(err)
	}
	if first := readResponse(t, conn); first.StatusCode != 200 {
		t.Errorf("the first request got %s", first.Status)
	}
	if err := r.wait(t); err != nil {
		t.Errorf("got error %v", err)
	}
}

func TestDrainCutsOffWhatDoesNotEnd(t *testing.T) {
	limits := DefaultLimits()
	limits.Shutdown = 50 * time.Millisecond
	r := startServer(t, restricted(), Options{Limits: limits})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", runPath)
	eventually(t, func() bool { return len(r.gate.slots) == 1 })
	r.stop()
	if err := r.wait(t); !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "drain requests: ") {
		t.Errorf("got error %v", err)
	}
}

type failingSource struct{ err error }

func (f failingSource) Run(context.Context, func(*Snapshot)) error { return f.err }

func TestRunFailsWithItsParts(t *testing.T) {
	want := errors.New("folder x: holds no DstackServer")
	r := startServer(t, nil, Options{Source: failingSource{want}})
	if err := r.wait(t); !errors.Is(err, want) {
		t.Errorf("source: got error %v", err)
	}
	r = startServer(t, nil, Options{DrainDelay: time.Hour})
	r.options.HealthListener.Close()
	if err := r.wait(t); err == nil || !strings.HasPrefix(err.Error(), "serve 127.0.0.1:") {
		t.Errorf("listener: got error %v", err)
	}
}

// Requests see one policy each while it changes under them.
func TestConcurrentRequests(t *testing.T) {
	closed := restricted()
	open := newSnapshot(newProfile("research", v1alpha1.LevelOpen, "research-*"))
	r := startServer(t, closed, Options{TokenFile: writeToken(t, "s3cret")})
	privileged := string(capturedCase(t, "0.22.5/task-privileged").Request)
	spec := string(specOf(t, []byte(privileged)))
	stop := make(chan struct{})
	var publisher, clients sync.WaitGroup
	publisher.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case r.options.Source.(fakeSource) <- []*Snapshot{open, closed}[i%2]:
			}
		}
	})
	var mu sync.Mutex
	seen := map[bool]int{}
	for range 8 {
		clients.Go(func() {
			for range 50 {
				request, err := http.NewRequest(http.MethodPost, r.url+runPath, strings.NewReader(privileged))
				if err != nil {
					t.Error(err)
					return
				}
				request.Header.Set("Authorization", "Bearer s3cret")
				response, err := r.client.Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				allowed := string(body) == `{"spec":`+spec+`,"error":null}`
				refused := strings.HasPrefix(string(body), `{"spec":`+spec+`,"error":"privileged`) &&
					strings.HasSuffix(string(body), closed.Effective.Revision+`]"}`)
				if err != nil || allowed == refused {
					t.Errorf("got %v %s", err, body)
					return
				}
				mu.Lock()
				seen[allowed]++
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	close(stop)
	publisher.Wait()
	if seen[true]+seen[false] != 400 {
		t.Errorf("got %v", seen)
	}
}
