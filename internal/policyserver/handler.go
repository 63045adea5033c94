package policyserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policy"
)

// failure is an answer that is no decision. dstack refuses the request then and
// shows its user a message of its own.
type failure struct {
	status int
	// reason is the metric's label; empty for what is not counted.
	reason  string
	message string
}

// Values of the label reason of request_errors_total.
const (
	reasonMethod       = "method"
	reasonUnauthorized = "unauthorized"
	reasonNotReady     = "not_ready"
	reasonOverloaded   = "overloaded"
	reasonTooLarge     = "too_large"
	reasonTooSlow      = "too_slow"
	reasonAborted      = "aborted"
	reasonMalformed    = "malformed"
	reasonPanic        = "panic"
)

// decisionHandler serves the port that dstack talks to. The connection of a
// request without the right token ends with its answer.
func (s *Server) decisionHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := s.token.read(r.Header)
		if token != rightToken || !connOf(r).keep() {
			endsWithAnswer(w)
		}
		if kind, found := s.routes[r.URL.Path]; found {
			s.serveApply(w, r, kind, token)
			return
		}
		switch r.URL.Path {
		case dstack.PathReady, dstack.PathRevision:
			s.serveInformation(w, r, token)
		default:
			writeFailure(w, &failure{status: http.StatusNotFound, message: "no such path: " + dstack.EnvPluginServiceURI +
				" must be http://HOST:PORT, without a path or a slash at its end"})
		}
	})
}

// serveApply answers one request of dstack's plugin protocol.
func (s *Server) serveApply(w http.ResponseWriter, r *http.Request, kind dstack.ApplyKind, token presented) {
	start := time.Now()
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	answered := false
	defer func() {
		if p := recover(); p != nil {
			s.recovered(w, kind, p, answered)
		}
	}()

	snapshot, f := s.admit(r, token)
	if f == nil {
		leave, entered := s.gate.enter(r.Context(), r.ContentLength)
		if entered {
			defer leave()
		} else {
			f = &failure{http.StatusServiceUnavailable, reasonOverloaded, "too many requests at one time: try again"}
		}
	}
	// Not given back after a panic, for nobody knows who uses them then.
	buffers := getBuffers()
	var req *policy.Request
	if f == nil {
		req, f = s.read(w, r, kind, buffers)
	}
	if f != nil {
		answered = true
		s.metrics.observeError(kind, f.reason)
		writeFailure(w, f)
		buffers.release()
		return
	}
	decision := snapshot.decide(req, time.Now())
	took := time.Since(start)
	s.metrics.observeDecision(kind, &decision, took)
	s.logDecision(req, &decision, took)
	answered = true
	writeDecision(w, req, &decision, buffers)
	buffers.release()
}

// admit checks all that can be checked before the body is read.
func (s *Server) admit(r *http.Request, token presented) (*Snapshot, *failure) {
	if r.Method != http.MethodPost {
		return nil, &failure{http.StatusMethodNotAllowed, reasonMethod, "only POST is served here"}
	}
	snapshot := s.current.Load()
	if err := token.check(s.token != nil && snapshot != nil && snapshot.TokenRequired); err != nil {
		return nil, &failure{http.StatusUnauthorized, reasonUnauthorized, err.Error()}
	}
	if snapshot == nil {
		return nil, &failure{http.StatusServiceUnavailable, reasonNotReady, "the policy is not known yet: try again"}
	}
	if r.ContentLength > s.limits.BodyBytes {
		return nil, s.tooLarge()
	}
	return snapshot, nil
}

func (s *Server) tooLarge() *failure {
	return &failure{
		http.StatusRequestEntityTooLarge, reasonTooLarge,
		fmt.Sprintf("body must not be larger than %d bytes", s.limits.BodyBytes),
	}
}

// read reads the request, whose specification lies in the buffers.
func (s *Server) read(w http.ResponseWriter, r *http.Request, kind dstack.ApplyKind, b *buffers) (*policy.Request, *failure) {
	body, err := readBody(w, r, s.limits, b)
	switch {
	case errors.Is(err, errBodyTooLarge):
		return nil, s.tooLarge()
	case isTooSlow(err):
		return nil, &failure{http.StatusRequestTimeout, reasonTooSlow, "body did not arrive in time"}
	case err != nil:
		return nil, &failure{http.StatusBadRequest, reasonAborted, "body ended early"}
	}
	req, err := policy.Parse(kind, body)
	if err != nil {
		return nil, &failure{http.StatusBadRequest, reasonMalformed, err.Error()}
	}
	return req, nil
}

// recovered answers a request whose handler panicked: a bug must refuse this
// one request, and no other.
func (s *Server) recovered(w http.ResponseWriter, kind dstack.ApplyKind, p any, answered bool) {
	s.metrics.observeError(kind, reasonPanic)
	s.options.Log.Error(fmt.Errorf("panic: %v", p), "Recovered from a bug, the request is refused",
		"kind", kind, "stack", string(debug.Stack()))
	if answered {
		panic(http.ErrAbortHandler) // the answer may be half out: cut it off
	}
	writeFailure(w, &failure{status: http.StatusInternalServerError, message: "internal error: the log of the policy server has more"})
}

// Parts of an answer around the specification.
const (
	answerHead    = `{"spec":`
	answerAllowed = `,"error":null}`
	answerError   = `,"error":`
)

// writeDecision sends the specification back byte for byte, or the one that is
// filled in: dstack replaces its own by it, and a second encoding could change
// numbers. A refusal is 200 too: only then does dstack show its text.
func writeDecision(w http.ResponseWriter, req *policy.Request, d *policy.Decision, b *buffers) {
	spec := req.Spec
	if d.Allowed && d.Filled != nil {
		spec = d.Filled
	}
	answer := append(append(b.answer[:0], answerHead...), spec...)
	if d.Allowed {
		answer = append(answer, answerAllowed...)
	} else {
		answer = append(append(append(answer, answerError...), jsonString(refusal(d))...), '}')
	}
	b.answer = answer
	h := w.Header()
	h["Content-Type"] = contentTypeJSON
	h["Content-Length"] = []string{strconv.Itoa(len(answer))}
	// The client that went away is told nothing, and a write error says no more.
	_, _ = w.Write(answer)
}

var contentTypeJSON = []string{"application/json"}

// refusal is never empty: dstack takes an empty error for a broken service.
func refusal(d *policy.Decision) string {
	if d.Message == "" {
		return "refused by policy [isolation rev=" + d.Revision + "]"
	}
	return d.Message
}

func jsonString(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return []byte(`"refused by policy"`) // strings always encode
	}
	return b
}

func writeFailure(w http.ResponseWriter, f *failure) {
	h := w.Header()
	switch f.status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodPost)
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	case http.StatusRequestEntityTooLarge, http.StatusRequestTimeout:
		endsWithAnswer(w) // the rest of the body is not read
	}
	h["Content-Type"] = contentTypeJSON
	w.WriteHeader(f.status)
	_, _ = w.Write(append(append([]byte(`{"error":`), jsonString(f.message)...), '}'))
}

// maxLoggedName bounds the names in the log, which clients choose.
const maxLoggedName = 256

func (s *Server) logDecision(req *policy.Request, d *policy.Decision, took time.Duration) {
	log := s.options.Log
	if d.Allowed && d.Filled == nil && len(d.Audited) == 0 && len(d.Lifted) == 0 {
		log = log.V(1)
	}
	if !log.Enabled() {
		return
	}
	decision := decisionRefused
	if d.Allowed {
		decision = decisionAllowed
	}
	if failed := ruleErrors(d); failed != nil {
		log = log.WithValues("ruleErrors", failed)
	}
	log.Info("Decided", "kind", string(req.Kind), "user", trimmed(req.User), "project", trimmed(req.Project),
		"decision", decision, "controls", controls(d.Reasons), "audited", controls(d.Audited), "lifted", d.Lifted,
		"filled", d.Filled != nil,
		"revision", d.Revision, "durationSeconds", took.Seconds())
}

// ruleErrors are the rules that could not be evaluated, each with the reason,
// which users are not shown.
func ruleErrors(d *policy.Decision) []string {
	var all []string
	for _, r := range slices.Concat(d.Reasons, d.Audited) {
		if r.Cause != "" {
			all = append(all, r.Control+": "+r.Cause)
		}
	}
	return all
}

func trimmed(name string) string {
	if len(name) > maxLoggedName {
		return strings.ToValidUTF8(name[:maxLoggedName], "") + "…"
	}
	return name
}

// serveInformation answers /readyz and /revision on the decision port. Without a
// token nobody learns more than whether the server is ready, and every client
// whether its own token is right.
func (s *Server) serveInformation(w http.ResponseWriter, r *http.Request, token presented) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET is served here", http.StatusMethodNotAllowed)
		return
	}
	if err := token.check(s.token != nil && r.URL.Path == dstack.PathRevision); err != nil {
		writeFailure(w, &failure{status: http.StatusUnauthorized, message: err.Error()})
		return
	}
	switch {
	case r.URL.Path == dstack.PathRevision:
		s.serveRevision(w, r)
	case s.token != nil && token == noToken && !s.ready():
		http.Error(w, "not ready", http.StatusServiceUnavailable)
	default:
		s.serveReady(w, r)
	}
}

func (s *Server) ready() bool { return !s.draining.Load() && s.current.Load() != nil }

func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.draining.Load():
		http.Error(w, "draining", http.StatusServiceUnavailable)
	case s.current.Load() == nil:
		http.Error(w, "the policy is not known yet", http.StatusServiceUnavailable)
	default:
		_, _ = w.Write([]byte("ok"))
	}
}

// Revision is the answer of /revision.
type Revision struct {
	// Revision of the policy that is decided by; empty when there is no
	// DstackServer.
	Revision string `json:"revision"`
	// Version is the build of the policy server.
	Version string `json:"version"`
	// Server is NAMESPACE/NAME of the DstackServer.
	Server string `json:"server"`
	// Generations of the objects that the policy was resolved from.
	Generations Generations `json:"generations"`
	// NetworkMode is what the dstack server's pods are taken to run with; absent
	// while it is not known, which counts as the loosest.
	NetworkMode v1alpha1.NetworkMode `json:"networkMode,omitempty"`
	// Kept tells why the last known policy is kept; empty for the present one.
	Kept string `json:"kept,omitempty"`
}

// Generations are metadata.generation of objects.
type Generations struct {
	Server int64 `json:"server"`
	// Profiles by name; only with ?profiles, because there may be thousands.
	Profiles map[string]int64 `json:"profiles,omitempty"`
}

func (s *Server) serveRevision(w http.ResponseWriter, r *http.Request) {
	snapshot := s.current.Load()
	if snapshot == nil {
		writeFailure(w, &failure{status: http.StatusServiceUnavailable, message: "the policy is not known yet: try again"})
		return
	}
	answer := Revision{
		Revision: snapshot.revision(), Version: s.options.Version, Server: snapshot.Server.String(),
		Generations: Generations{Server: snapshot.ServerGeneration}, Kept: string(snapshot.Stale),
		NetworkMode: snapshot.Running.NetworkMode,
	}
	if r.URL.Query().Has("profiles") && snapshot.Effective != nil {
		answer.Generations.Profiles = map[string]int64{}
		for _, p := range snapshot.Effective.Profiles {
			answer.Generations.Profiles[p.Name] = p.Generation
		}
	}
	w.Header()["Content-Type"] = contentTypeJSON
	_ = json.NewEncoder(w).Encode(answer)
}

// healthHandler serves the port for probes and metrics, where each connection
// ends with its answer: nobody there presents a token.
func (s *Server) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	mux.HandleFunc("GET "+dstack.PathReady, s.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{
		Registry: s.metrics.registry, MaxRequestsInFlight: s.limits.Scrapes,
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		endsWithAnswer(w)
		mux.ServeHTTP(w, r)
	})
}
