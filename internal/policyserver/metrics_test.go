package policyserver

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// own are the lines of a scrape that are ours, without help, buckets and what
// depends on the time.
func own(scrape string) []string {
	var lines []string
	for line := range strings.Lines(scrape) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, namespace+"_") && !strings.Contains(line, "_bucket{") && !strings.Contains(line, "_sum") &&
			!strings.Contains(line, "timestamp") && !strings.HasSuffix(line, " 0") {
			lines = append(lines, strings.TrimPrefix(line, namespace+"_"))
		}
	}
	return lines
}

func TestMetrics(t *testing.T) {
	audit := newProfile("audited", v1alpha1.LevelRestricted, "vision")
	audit.Spec.Enforcement = v1alpha1.EnforcementAudit
	excepted := newProfile("excepted", v1alpha1.LevelRestricted, "lab")
	excepted.Spec.Exceptions = []v1alpha1.Exception{{Name: "lead", Users: []string{"ada"}, Controls: []v1alpha1.ControlName{"privileged"}, Reason: "r"}}
	snapshot := newSnapshot(newProfile("research", v1alpha1.LevelRestricted, "research-*"), newProfile("too", v1alpha1.LevelBaseline, "*-nlp"), audit, excepted)
	s := newHandler(t, snapshot, Options{Version: "v1.2.3"})

	privileged := string(capturedCase(t, "0.22.5/task-privileged").Request)
	combined := string(capturedCase(t, "0.22.5/task-combined").Request)
	volume := capturedCase(t, "0.22.5/volume-new")
	s.post(runPath, plainTask(t))
	s.post(runPath, privileged)
	s.post(runPath, privileged)
	s.post(runPath, combined)
	s.post(runPath, strings.Replace(privileged, "research-nlp", "vision", 1))
	s.post(runPath, strings.Replace(privileged, "research-nlp", "lab", 1))
	s.post(volume.Path, string(volume.Request))
	s.post(volume.Path, "{")
	before := s.scrape()
	revision := snapshot.Effective.Revision
	want := []string{
		`audited_total{control="privileged",kind="run",profile="audited"} 1`,
		`decision_duration_seconds_count{kind="run"} 6`,
		`decision_duration_seconds_count{kind="volume"} 1`,
		`decisions_total{control="",decision="allowed",kind="run"} 3`,
		`decisions_total{control="",decision="allowed",kind="volume"} 1`,
		`decisions_total{control="",decision="error",kind="volume"} 1`,
		`decisions_total{control="privileged",decision="refused",kind="run"} 2`,
		`decisions_total{control="several",decision="refused",kind="run"} 1`,
		`lifted_total{exception="lead",profile="excepted"} 1`,
		`policy_info{revision="` + revision + `",server="dstack/main",version="v1.2.3"} 1`,
		`policy_profiles 4`,
		`policy_resolve_duration_seconds_count 1`,
		`refusals_total{control="distributedTasks",kind="run",profile="research"} 1`,
		`refusals_total{control="instanceVolumes",kind="run",profile="research"} 1`,
		`refusals_total{control="instanceVolumes",kind="run",profile="too"} 1`,
		`refusals_total{control="privileged",kind="run",profile="research"} 3`,
		`refusals_total{control="privileged",kind="run",profile="too"} 3`,
		`refusals_total{control="serverAccess",kind="run",profile="research"} 1`,
		`request_errors_total{kind="volume",reason="malformed"} 1`,
	}
	if diff := cmp.Diff(want, own(before)); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{`"ada"`, "research-nlp", "python train.py"} {
		if strings.Contains(before, name) {
			t.Errorf("%s is in the metrics", name)
		}
	}

	// A changed policy: the old revision goes, and with a profile its series.
	changed := newSnapshot(newProfile("research", v1alpha1.LevelOpen, "research-*"))
	s.publish(changed)
	after := s.scrape()
	for _, line := range own(after) {
		for _, gone := range []string{`"too"`, `"audited"`, `"excepted"`, revision} {
			if strings.Contains(line, gone) {
				t.Errorf("stayed: %s", line)
			}
		}
	}
	if !slices.Contains(own(after), `refusals_total{control="privileged",kind="run",profile="research"} 3`) {
		t.Error("the series of a profile that stays went")
	}
}

func TestStaleMetric(t *testing.T) {
	s := newHandler(t, nil, Options{})
	expect := func(want ...string) {
		t.Helper()
		for _, reason := range staleReasons() {
			value := " 0"
			if slices.Contains(want, string(reason)) {
				value = " 1"
			}
			if line := `dstack_isolation_policy_stale{reason="` + string(reason) + `"}` + value; !strings.Contains(s.scrape(), line) {
				t.Errorf("%s is missing", line)
			}
		}
	}
	expect()
	s.publish(restricted())
	expect()
	s.publish(restricted().kept(StaleFolderInvalid))
	expect("FolderInvalid")
	s.publish(restricted().kept(StaleServerGone))
	expect("ServerGone")
	s.publish(restricted())
	expect()
}

func TestChangesAreLoggedOnce(t *testing.T) {
	log, out := newLog(0)
	s := newHandler(t, nil, Options{Log: log})
	snapshot := restricted()
	for _, now := range []*Snapshot{snapshot, restricted(), snapshot.kept(StaleServerGone), snapshot.kept(StaleServerGone), {Server: serverName}} {
		s.publish(now)
	}
	if got := strings.Count(out.String(), `"msg":"Changed policy"`); got != 2 {
		t.Errorf("logged %d changes:\n%s", got, out)
	}
	if got := strings.Count(out.String(), `"msg":"Found no DstackServer, so that everything is refused"`); got != 1 {
		t.Errorf("got log %s", out)
	}
}

// slow is a metric that is collected once a test says so.
type slow struct{ began, goOn chan struct{} }

func (slow) Describe(chan<- *prometheus.Desc) {}

func (s slow) Collect(chan<- prometheus.Metric) {
	s.began <- struct{}{}
	<-s.goOn
}

func TestScrapesAreBounded(t *testing.T) {
	s := newHandler(t, restricted(), Options{})
	metric := slow{make(chan struct{}), make(chan struct{})}
	s.metrics.registry.MustRegister(metric)
	health := s.healthHandler()
	codes := make(chan int, 2)
	for range 2 {
		go func() { codes <- s.get(health, "/metrics").Code }()
		<-metric.began
	}
	third := make(chan *httptest.ResponseRecorder, 1)
	go func() { third <- s.get(health, "/metrics") }()
	select {
	case w := <-third:
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("a third scrape got %d, want 503", w.Code)
		}
	case <-metric.began:
		t.Error("a third scrape is answered beside two others")
	}
	if w := s.get(health, "/healthz"); w.Code != http.StatusOK {
		t.Errorf("a probe beside the scrapes got %d, want 200", w.Code)
	}
	close(metric.goOn)
	for range 2 {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("a scrape got %d, want 200", code)
		}
	}
}
