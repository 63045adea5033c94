package policyserver

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// answer is the body of an answer with status 200.
type answer struct {
	Spec  json.RawMessage
	Error *string
}

func decoded(t testing.TB, w *httptest.ResponseRecorder) answer {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("got status %d: %s", w.Code, w.Body)
	}
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return a
}

// Every captured body is answered with its own specification, whatever the
// decision, and refused exactly when the case says so.
func TestCapturedCases(t *testing.T) {
	files, err := filepath.Glob("../policy/testdata/cases/*/*.json")
	if err != nil || len(files) < 50 {
		t.Fatalf("found %d cases: %v", len(files), err)
	}
	s := newHandler(t, restricted(), Options{})
	for _, file := range files {
		release, base := filepath.Base(filepath.Dir(file)), strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(release+"/"+base, func(t *testing.T) {
			c := capturedCase(t, release+"/"+base)
			w := s.post(c.Path, string(c.Request))
			a := decoded(t, w)
			if spec := specOf(t, c.Request); !bytes.Equal(a.Spec, spec) {
				t.Errorf("the specification came back changed:\n%s\n%s", spec, a.Spec)
			}
			// Cases may name controls of other releases.
			denied := slices.DeleteFunc(c.DeniedBy[v1alpha1.LevelRestricted], func(name string) bool {
				_, known := isolation.ControlByName(v1alpha1.ControlName(name))
				return !known
			})
			if refused, want := a.Error != nil, len(denied) > 0; refused != want {
				t.Errorf("got error %v, want one: %v", a.Error, want)
			}
			if a.Error != nil {
				for _, control := range denied {
					if !strings.Contains(*a.Error, control) {
						t.Errorf("control %s is not named in %s", control, *a.Error)
					}
				}
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("got Content-Type %q", got)
			}
		})
	}
}

// A run that names no fleet comes back with the allowed ones, and is logged and
// counted.
func TestFilledSpecification(t *testing.T) {
	profile := newProfile("research", v1alpha1.LevelOpen, "research-*")
	profile.Spec.Controls = &v1alpha1.Controls{Fleets: &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a100", "other/gpu"}}}
	log, out := newLog(slog.LevelInfo)
	s := newHandler(t, newSnapshot(profile), Options{Log: log})
	const list = `[{"project":null,"name":"a100"},{"project":"other","name":"gpu"}]`
	for _, release := range []string{"0.20.28", "0.21.2", "0.22.5"} {
		c := capturedCase(t, release+"/task-plain")
		w := s.post(runPath, string(c.Request))
		want := bytes.Replace(specOf(t, c.Request), []byte(`"fleets": null`), []byte(`"fleets": `+list), 1)
		if a := decoded(t, w); a.Error != nil || !bytes.Equal(a.Spec, want) {
			t.Errorf("%s: got %s, want %s", release, w.Body, want)
		}
		if got := w.Header().Get("Content-Length"); got != strconv.Itoa(w.Body.Len()) {
			t.Errorf("%s: Content-Length is %s and not %d", release, got, w.Body.Len())
		}
	}
	named := capturedCase(t, "0.22.5/task-own-fleet")
	if a := decoded(t, s.post(runPath, strings.Replace(string(named.Request), `"name": "gpu"`, `"name": "a100"`, 1))); a.Error != nil {
		t.Errorf("refused: %s", *a.Error)
	}
	if a := decoded(t, s.post(runPath, string(named.Request))); a.Error == nil || !bytes.Equal(a.Spec, specOf(t, named.Request)) {
		t.Errorf("got %+v", a)
	}
	if got := strings.Count(out.String(), `"decision":"allowed","controls":null,"audited":null,"lifted":null,"filled":true`); got != 3 {
		t.Errorf("logged %d: %s", got, out)
	}
	if got := s.scrape(); !strings.Contains(got, `dstack_isolation_filled_total{kind="run"} 3`) {
		t.Errorf("got %s", got)
	}
}

func TestRefusalAsDstackReadsIt(t *testing.T) {
	snapshot := restricted()
	w := newHandler(t, snapshot, Options{}).post(runPath, string(capturedCase(t, "0.22.5/task-privileged").Request))
	a := decoded(t, w)
	if a.Error == nil {
		t.Fatal("a privileged task was allowed")
	}
	for _, part := range []string{"privileged", `"research-nlp"`, "dstack/research", "[isolation rev=" + snapshot.Effective.Revision + "]"} {
		if !strings.Contains(*a.Error, part) {
			t.Errorf("%q is not in %q", part, *a.Error)
		}
	}
	// dstack takes keys that it does not know inside of spec for an error.
	if got := w.Body.String(); !strings.HasPrefix(got, `{"spec":{`) || !strings.HasSuffix(got, `"}`) {
		t.Errorf("got %s", got)
	}
}

func TestAnswersThatAreNoDecision(t *testing.T) {
	tests := map[string]struct {
		method, path, body string
		snapshot           *Snapshot
		wantStatus         int
		wantBody           string
		wantHeader         [2]string
		wantReason         string
	}{
		"GET":              {http.MethodGet, runPath, "", restricted(), 405, `{"error":"only POST is served here"}`, [2]string{"Allow", "POST"}, reasonMethod},
		"PUT":              {http.MethodPut, runPath, bodyOf("{}"), restricted(), 405, `{"error":"only POST is served here"}`, [2]string{"Allow", "POST"}, reasonMethod},
		"before the sync":  {http.MethodPost, runPath, bodyOf("{}"), nil, 503, `{"error":"the policy is not known yet: try again"}`, [2]string{"Retry-After", "1"}, reasonNotReady},
		"not JSON":         {http.MethodPost, runPath, "hello", restricted(), 400, "", [2]string{"Content-Type", "application/json"}, reasonMalformed},
		"empty":            {http.MethodPost, runPath, "", restricted(), 400, "", [2]string{}, reasonMalformed},
		"null":             {http.MethodPost, runPath, "null", restricted(), 400, "", [2]string{}, reasonMalformed},
		"a list":           {http.MethodPost, runPath, "[]", restricted(), 400, "", [2]string{}, reasonMalformed},
		"no spec":          {http.MethodPost, runPath, `{"user": "ada", "project": "p"}`, restricted(), 400, "", [2]string{}, reasonMalformed},
		"duplicate key":    {http.MethodPost, runPath, `{"user": "ada", "user": "eve", "project": "p", "spec": {}}`, restricted(), 400, "", [2]string{}, reasonMalformed},
		"case variant":     {http.MethodPost, runPath, `{"User": "ada", "user": "ada", "project": "p", "spec": {}}`, restricted(), 400, "", [2]string{}, reasonMalformed},
		"something after":  {http.MethodPost, runPath, bodyOf("{}") + "{}", restricted(), 400, "", [2]string{}, reasonMalformed},
		"wrong type":       {http.MethodPost, runPath, `{"user": 7, "project": "p", "spec": {}}`, restricted(), 400, "", [2]string{}, reasonMalformed},
		"not UTF-8":        {http.MethodPost, runPath, "{\"user\": \"\xff\", \"project\": \"p\", \"spec\": {}}", restricted(), 400, "", [2]string{}, reasonMalformed},
		"other path":       {http.MethodPost, "/apply_policies/on_secret_apply", "{}", restricted(), 404, `{"error":"no such path: DSTACK_PLUGIN_SERVICE_URI must be http://HOST:PORT, without a path or a slash at its end"}`, [2]string{}, ""},
		"slash at the end": {http.MethodPost, "/" + runPath, "{}", restricted(), 404, "", [2]string{}, ""},
		"slash after it":   {http.MethodPost, runPath + "/", "{}", restricted(), 404, "", [2]string{}, ""},
		"root":             {http.MethodGet, "/", "", restricted(), 404, "", [2]string{}, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := newHandler(t, tc.snapshot, Options{})
			w := httptest.NewRecorder()
			r := httptest.NewRequest(tc.method, "http://policy"+tc.path, strings.NewReader(tc.body))
			s.decisionHandler().ServeHTTP(w, r)
			if w.Code != tc.wantStatus {
				t.Errorf("got status %d, want %d: %s", w.Code, tc.wantStatus, w.Body)
			}
			var failure struct{ Error string }
			if err := json.Unmarshal(w.Body.Bytes(), &failure); err != nil || failure.Error == "" {
				t.Errorf("got body %s", w.Body)
			}
			if tc.wantBody != "" && w.Body.String() != tc.wantBody {
				t.Errorf("got body %s", w.Body)
			}
			if got := w.Header().Get(tc.wantHeader[0]); got != tc.wantHeader[1] {
				t.Errorf("got header %s: %q", tc.wantHeader[0], got)
			}
			counted := `dstack_isolation_request_errors_total{kind="run",reason="` + tc.wantReason + `"} 1`
			if got := strings.Contains(s.scrape(), counted); got != (tc.wantReason != "") {
				t.Errorf("counted %s: %v", counted, got)
			}
		})
	}
}

func TestWithoutDstackServerEverythingIsRefused(t *testing.T) {
	s := newHandler(t, &Snapshot{Server: serverName}, Options{})
	for _, kind := range dstack.ApplyKinds() {
		a := decoded(t, s.post(dstack.ApplyPath(kind), bodyOf(`{ "a" : 1.50 }`)))
		want := "everything is refused, because DstackServer dstack/main does not exist: " +
			"create it, or take the policy plugin out of the dstack server [isolation]"
		if a.Error == nil || *a.Error != want {
			t.Errorf("%s: got error %v", kind, a.Error)
		}
		if string(a.Spec) != `{ "a" : 1.50 }` {
			t.Errorf("%s: got spec %s", kind, a.Spec)
		}
	}
	if w := s.get(s.decisionHandler(), dstack.PathReady); w.Code != http.StatusOK {
		t.Errorf("/readyz: got %d, although the sync is done", w.Code)
	}
}

// A bug in a decision refuses that request; the process and others go on.
func TestPanicIsARefusal(t *testing.T) {
	broken := &Snapshot{Server: serverName, Effective: &isolation.Effective{}} // no Unmatched: panics
	log, out := newLog(slog.LevelInfo)
	s := newHandler(t, broken, Options{Log: log})
	w := s.post(runPath, bodyOf(`{"env": {"KEY": "hunter2"}}`))
	if w.Code != http.StatusInternalServerError || w.Body.String() != `{"error":"internal error: the log of the policy server has more"}` {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if metrics := s.scrape(); !strings.Contains(metrics, `dstack_isolation_request_errors_total{kind="run",reason="panic"} 1`) ||
		!strings.Contains(metrics, `dstack_isolation_decisions_total{control="",decision="error",kind="run"} 1`) ||
		!strings.Contains(metrics, "dstack_isolation_requests_in_flight 0") {
		t.Errorf("the panic is not counted:\n%s", metrics)
	}
	if got := out.String(); !strings.Contains(got, "nil pointer") || strings.Contains(got, "hunter2") {
		t.Errorf("got log %s", got)
	}
	s.publish(restricted())
	if a := decoded(t, s.post(runPath, plainTask(t))); a.Error != nil {
		t.Errorf("the next request: %s", *a.Error)
	}
	if len(s.gate.slots) != 0 {
		t.Error("the panic kept its slot")
	}
}

func TestDecisionLog(t *testing.T) {
	audit := newProfile("audited", v1alpha1.LevelRestricted, "vision")
	audit.Spec.Enforcement = v1alpha1.EnforcementAudit
	excepted := newProfile("excepted", v1alpha1.LevelRestricted, "lab")
	excepted.Spec.Exceptions = []v1alpha1.Exception{{Name: "lead", Users: []string{"ada"}, Controls: []v1alpha1.ControlName{"privileged"}, Reason: "r"}}
	snapshot := newSnapshot(newProfile("research", v1alpha1.LevelRestricted, "research-*"), audit, excepted)
	privileged := string(capturedCase(t, "0.22.5/task-privileged").Request)
	in := func(project string) string { return strings.Replace(privileged, "research-nlp", project, 1) }
	revision := snapshot.Effective.Revision

	tests := map[string]struct {
		body string
		want map[string]any
	}{
		"refused": {privileged, map[string]any{"project": "research-nlp", "decision": "refused", "controls": []any{"privileged"}, "audited": nil, "lifted": nil, "filled": false}},
		"audited": {in("vision"), map[string]any{"project": "vision", "decision": "allowed", "controls": nil, "audited": []any{"privileged"}, "lifted": nil, "filled": false}},
		"lifted":  {in("lab"), map[string]any{"project": "lab", "decision": "allowed", "controls": nil, "audited": nil, "lifted": []any{"excepted/lead"}, "filled": false}},
		"allowed": {plainTask(t), nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			log, out := newLog(slog.LevelInfo)
			s := newHandler(t, snapshot, Options{Log: log})
			before := len(out.String())
			decoded(t, s.post(runPath, tc.body))
			line := out.String()[before:]
			if tc.want == nil {
				if line != "" {
					t.Errorf("logged %s", line)
				}
				return
			}
			var got map[string]any
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if _, isNumber := got["durationSeconds"].(float64); !isNumber {
				t.Errorf("got duration %v", got["durationSeconds"])
			}
			delete(got, "durationSeconds")
			delete(got, "time")
			want := map[string]any{"level": "INFO", "msg": "Decided", "user": "ada", "kind": "run", "revision": revision}
			for k, v := range tc.want {
				want[k] = v
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAllowedDecisionsAreLoggedForDebugging(t *testing.T) {
	log, out := newLog(slog.LevelDebug)
	s := newHandler(t, restricted(), Options{Log: log})
	decoded(t, s.post(runPath, plainTask(t)))
	if got := out.String(); !strings.Contains(got, `"decision":"allowed"`) || strings.Contains(got, "python train.py") {
		t.Errorf("got log %s", got)
	}
}

// What clients send is never logged, but for the names of user and project,
// and those not at any length.
func TestLogIsBoundedAndFreeOfContent(t *testing.T) {
	log, out := newLog(slog.LevelDebug)
	s := newHandler(t, restricted(), Options{Log: log})
	long := strings.Repeat("é", 10_000)
	s.post(runPath, `{"user": "`+long+`", "project": "a\nb", "spec": {"configuration": {"type": "task", "env": {"TOKEN": "hunter2"}}}}`)
	s.post(runPath, `{"user": "ada", "project": "p", "spec": "hunter2"}`)
	s.post(runPath, `hunter2`)
	s.post(runPath, bodyOf("{}"), "Authorization", "Bearer hunter2")
	got := out.String()
	if strings.Contains(got, "hunter2") || strings.Contains(got, "env") {
		t.Errorf("content was logged: %s", got)
	}
	if len(got) > 4000 || !strings.Contains(got, `é…"`) || !strings.Contains(got, `a\nb`) {
		t.Errorf("got %d bytes of log", len(got))
	}
}

func TestRevision(t *testing.T) {
	snapshot := restricted()
	s := newHandler(t, nil, Options{Version: "v1.2.3"})
	if w := s.get(s.decisionHandler(), dstack.PathRevision); w.Code != http.StatusServiceUnavailable {
		t.Errorf("before the sync: got %d", w.Code)
	}
	s.publish(snapshot)
	revision := snapshot.Effective.Revision
	w := s.get(s.decisionHandler(), dstack.PathRevision)
	want := `{"revision":"` + revision + `","version":"v1.2.3","server":"dstack/main","generations":{"server":7},"networkMode":3}` + "\n"
	if w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("got %s", w.Body)
	}
	w = s.get(s.decisionHandler(), dstack.PathRevision+"?profiles")
	if !strings.Contains(w.Body.String(), `"generations":{"server":7,"profiles":{"research":2}}`) {
		t.Errorf("got %s", w.Body)
	}
	s.publish(snapshot.kept(StaleServerGone))
	if w = s.get(s.decisionHandler(), dstack.PathRevision); !strings.Contains(w.Body.String(), `"kept":"ServerGone"`) {
		t.Errorf("got %s", w.Body)
	}
	s.publish(&Snapshot{Server: serverName})
	if w = s.get(s.decisionHandler(), dstack.PathRevision); !strings.Contains(w.Body.String(), `"revision":""`) {
		t.Errorf("got %s", w.Body)
	}
	post := httptest.NewRecorder()
	s.decisionHandler().ServeHTTP(post, httptest.NewRequest(http.MethodPost, dstack.PathRevision, nil))
	if post.Code != http.StatusMethodNotAllowed || post.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: got %d", post.Code)
	}
}

func TestHealth(t *testing.T) {
	s := newHandler(t, nil, Options{})
	health, decisions := s.healthHandler(), s.decisionHandler()
	for _, h := range []http.Handler{health, decisions} {
		if w := s.get(h, dstack.PathReady); w.Code != http.StatusServiceUnavailable || w.Body.String() != "the policy is not known yet\n" {
			t.Errorf("before the sync: got %d %s", w.Code, w.Body)
		}
	}
	if w := s.get(health, "/healthz"); w.Code != http.StatusOK {
		t.Errorf("/healthz: got %d", w.Code)
	}
	s.publish(restricted())
	for _, h := range []http.Handler{health, decisions} {
		if w := s.get(h, dstack.PathReady); w.Code != http.StatusOK || w.Body.String() != "ok" {
			t.Errorf("after the sync: got %d %s", w.Code, w.Body)
		}
	}
	if w := s.get(health, runPath); w.Code != http.StatusNotFound {
		t.Errorf("decisions on the health port: got %d", w.Code)
	}
	if w := s.get(decisions, "/metrics"); w.Code != http.StatusNotFound {
		t.Errorf("metrics on the decision port: got %d", w.Code)
	}
}
