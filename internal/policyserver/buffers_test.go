package policyserver

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// What one client sent never comes back to another one, whatever their bodies'
// lengths, and however they end.
func TestBuffersDoNotLeak(t *testing.T) {
	r := startServer(t, restricted(), Options{})
	const secret = "hunter2"
	var wait sync.WaitGroup
	for client := range 8 {
		wait.Go(func() {
			for i := range 40 {
				// Every other body is large, malformed, refused or of undeclared length.
				own := "client-" + strconv.Itoa(client) + "-" + strconv.Itoa(i)
				spec := `{"configuration":{"type":"volume","backend":"aws","name":"` + own + `","region":"` +
					strings.Repeat(secret, (i*client*97)%(maxPooled/len(secret)+100)) + `"}}`
				body := bodyOf(spec)
				if i%4 == 1 {
					body = body[:len(body)-1]
				}
				var reader io.Reader = strings.NewReader(body)
				if i%4 == 2 {
					reader = io.MultiReader(reader) // hides the length
				}
				response, err := r.client.Post(r.url+"/apply_policies/on_volume_apply", "application/json", reader)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil {
					t.Error(err)
					return
				}
				want := `{"spec":` + spec + `,"error":null}`
				if i%4 == 1 {
					want = `{"error":"body is not valid JSON in UTF-8 at byte ` + strconv.Itoa(len(body)) + `"}`
				}
				if string(got) != want {
					t.Errorf("client %d: asked with %d bytes and got %d: %.200s", client, len(body), len(got), got)
				}
			}
		})
	}
	wait.Wait()
}

// Buffers that wait for their next use hold nothing of their last one.
func TestReleasedBuffersAreEmpty(t *testing.T) {
	for _, n := range []int{1, 2000, maxPooled} {
		b := new(buffers)
		for i := range b.forBody(n) {
			b.body[i] = 'x'
		}
		b.answer = append(b.answer[:0], b.body...)
		b.release()
		for name, left := range map[string][]byte{"body": b.body, "answer": b.answer} {
			if len(left) != 0 || bytes.ContainsRune(left[:cap(left)], 'x') {
				t.Errorf("after %d bytes the %s is kept", n, name)
			}
		}
	}
}

// A request allocates little: what is garbage must be collected, and under
// little CPU a collection takes longer than a decision. The numbers are those of
// the test too, and a third above what was measured.
func TestAllocationsOfARequest(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and makes pools forget")
	}
	s := newHandler(t, restricted(), Options{Log: quiet()})
	handler := s.decisionHandler()
	for name, tc := range map[string]struct {
		body string
		most float64
	}{
		"allowed": {plainTask(t), 60},
		"refused": {string(capturedCase(t, "0.22.5/task-privileged").Request), 105},
	} {
		w := discard{http.Header{}}
		got := testing.AllocsPerRun(200, func() {
			clear(w.header)
			handler.ServeHTTP(w, newRequest(tc.body))
		})
		if got > tc.most {
			t.Errorf("%s: got %v allocations, want at most %v", name, got, tc.most)
		}
	}
}

// discard is a response that nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func newRequest(body string) *http.Request {
	return &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: runPath}, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}
