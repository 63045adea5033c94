package policyserver

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	"github.com/onsi/gomega/gleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// testTimeout is far beyond what anything here takes.
const testTimeout = 20 * time.Second

var serverName = types.NamespacedName{Namespace: "dstack", Name: "main"}

// fakeSource publishes what a test puts into it.
type fakeSource chan *Snapshot

func (f fakeSource) Run(ctx context.Context, publish func(*Snapshot)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-f:
			publish(s)
		}
	}
}

func newProfile(name string, level v1alpha1.Level, projects ...v1alpha1.ProjectPattern) v1alpha1.IsolationProfile {
	return v1alpha1.IsolationProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: serverName.Namespace, Name: name, Generation: 2},
		Spec: v1alpha1.IsolationProfileSpec{
			ServerRef:    v1alpha1.LocalObjectReference{Name: serverName.Name},
			Projects:     v1alpha1.ProjectSelector{Include: projects},
			Level:        level,
			LevelVersion: v1alpha1.LevelVersionV1,
			Enforcement:  v1alpha1.EnforcementEnforce,
		},
	}
}

// newSnapshot is the policy of the profiles; other projects are open.
func newSnapshot(profiles ...v1alpha1.IsolationProfile) *Snapshot {
	server := &v1alpha1.DstackServer{ObjectMeta: metav1.ObjectMeta{Namespace: serverName.Namespace, Name: serverName.Name, Generation: 7}}
	server.Spec.UnmatchedProjects = v1alpha1.UnmatchedProjects{Level: v1alpha1.LevelOpen, Enforcement: v1alpha1.EnforcementEnforce}
	eff := isolation.Resolve(isolation.Input{Server: server, Profiles: profiles, Now: time.Now()})
	return &Snapshot{
		Server: serverName, Effective: eff, ServerGeneration: 7, TokenRequired: true,
		Running: policy.Running{NetworkMode: v1alpha1.NetworkModeBridge}, ResolveDuration: time.Millisecond,
	}
}

func restricted() *Snapshot {
	return newSnapshot(newProfile("research", v1alpha1.LevelRestricted, "research-*"))
}

// syncBuffer is a log that goroutines share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newLog(level slog.Level) (logr.Logger, *syncBuffer) {
	out := &syncBuffer{}
	return logr.FromSlogHandler(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level})), out
}

// newHandler is a server that is not run, for tests of its handlers. A nil
// snapshot leaves it without policy.
func newHandler(t testing.TB, snapshot *Snapshot, options Options) *Server {
	t.Helper()
	if options.Log.IsZero() {
		options.Log, _ = newLog(slog.LevelDebug)
	}
	s, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	if snapshot != nil {
		s.publish(snapshot)
	}
	return s
}

// running is a server that runs on loopback.
type running struct {
	*Server
	url, healthURL string
	log            *syncBuffer
	stop           context.CancelFunc
	done           chan error
	client         *http.Client
}

// startServer runs a server until the test ends, and fails the test when it
// leaves goroutines behind.
func startServer(t *testing.T, snapshot *Snapshot, options Options) *running {
	t.Helper()
	before := gleak.Goroutines()
	var err error
	for _, l := range []*net.Listener{&options.Listener, &options.HealthListener} {
		if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	source := make(fakeSource, 1)
	if options.Source == nil {
		options.Source = source
	}
	log, out := newLog(slog.LevelDebug)
	options.Log = log
	s, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{
		Server: s, url: "http://" + options.Listener.Addr().String(), healthURL: "http://" + options.HealthListener.Addr().String(),
		log: out, stop: stop, done: make(chan error, 1), client: &http.Client{Timeout: testTimeout, Transport: &http.Transport{}},
	}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		stop()
		_ = r.wait(t) // tests that expect an error ask for it themselves
		g := gomega.NewWithT(t)
		g.Eventually(gleak.Goroutines, testTimeout).ShouldNot(gleak.HaveLeaked(before,
			// Kept-alive connections of client-go, which pools them for the process.
			gleak.IgnoringInBacktrace("golang.org/x/net/http2.(*ClientConn).readLoop"),
			// An API server that the test has started again.
			gleak.IgnoringInBacktrace("internal/testing/process.(*State).Start")))
	})
	if snapshot != nil {
		source <- snapshot
		eventually(t, func() bool { return r.current.Load() == snapshot })
	}
	return r
}

// wait waits for the end of Run and returns its error.
func (r *running) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(testTimeout):
		t.Fatal("the server does not end")
		return nil
	}
}

func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the condition never held")
		}
	}
}

const runPath = "/apply_policies/on_run_apply"

// post sends a body to the handler.
func (s *Server) post(path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.decisionHandler().ServeHTTP(w, r)
	return w
}

func (s *Server) get(handler http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func (s *Server) scrape() string { return s.get(s.healthHandler(), "/metrics").Body.String() }

// captured is a body that a real dstack server sent.
type captured struct {
	Name, Path string
	Request    json.RawMessage
	DeniedBy   map[v1alpha1.Level][]string `json:"denied_by"`
}

func capturedCase(t testing.TB, name string) captured {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "policy", "testdata", "cases", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var c captured
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// plainTask is the body of a harmless run.
func plainTask(t testing.TB) string {
	t.Helper()
	return string(capturedCase(t, "0.22.5/task-plain").Request)
}

// specOf cuts the bytes of the specification out of a captured body.
func specOf(t testing.TB, body []byte) []byte {
	t.Helper()
	var request struct{ Spec json.RawMessage }
	if err := json.Unmarshal(body, &request); err != nil {
		t.Fatal(err)
	}
	return request.Spec
}

// body makes a request body around the bytes of a specification.
func bodyOf(spec string) string {
	return `{"user": "ada", "project": "research-nlp", "spec": ` + spec + `}`
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
