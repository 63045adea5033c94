package inject

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

func TestRunPolicyServer(t *testing.T) {
	const wrote = "Wrote TARGET: SOURCE with plugin dstack_isolation"
	tests := map[string]struct {
		prepare func(p *pod)
		reason  string
	}{
		"not ready":   {func(p *pod) { p.status.Store(503) }, "not ready within 400ms: it does not know its policy yet (HTTP 503)"},
		"wrong token": {func(p *pod) { p.Token = "other" }, "not ready within 400ms: it does not accept the token (HTTP 401)"},
		"redirect":    {func(p *pod) { p.status.Store(302) }, "not ready within 400ms: it answered HTTP 302"},
		"broken":      {func(p *pod) { p.status.Store(500) }, "not ready within 400ms: it answered HTTP 500"},
		"other path":  {func(p *pod) { p.PolicyURL += "/prefix" }, "not ready within 400ms: it answered HTTP 418"},
		"no token":    {func(p *pod) { p.Token = " \n" }, "there is no token to ask it with"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits in vain, twice
			p := newPod(t, users)
			tc.prepare(p)
			want := fmt.Sprintf("policy server at %s: %s. The dstack server was not started with the plugin, which would refuse every run", p.PolicyURL, tc.reason)
			if message := p.run(t); message != want {
				t.Errorf("got  %s\nwant %s", message, want)
			}

			write(t, p.TerminationLog, "")
			p.First = false
			p.out.Reset()
			if message := p.run(t); message != "" {
				t.Errorf("an error although it is not the first time: %s", message)
			}
			lines := []string{wrote}
			if _, reason, waited := strings.Cut(tc.reason, ": "); waited {
				lines = append(lines, "Waiting for the policy server at URL: "+reason)
			}
			p.wantOut(t, append(lines, "Warning: policy server at URL: "+tc.reason+
				". The dstack server starts all the same, and refuses every run until the policy server answers")...)
			if got := read(t, p.Target); got != merged {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestRunWaitsUntilThePolicyServerIsReady(t *testing.T) {
	p := newPod(t, users)
	p.Timeout = time.Minute
	p.status.Store(http.StatusServiceUnavailable)
	time.AfterFunc(500*time.Millisecond, func() { p.status.Store(http.StatusOK) })
	if message := p.run(t); message != "" {
		t.Fatal(message)
	}
	p.wantOut(t, "Wrote TARGET: SOURCE with plugin dstack_isolation",
		"Waiting for the policy server at URL: it does not know its policy yet (HTTP 503)",
		"Policy server at URL is ready")
}

func TestRunPolicyServerThatHangs(t *testing.T) {
	p := newPod(t, users)
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	defer close(release)
	p.PolicyURL = hanging.URL
	want := "policy server at " + hanging.URL + ": not ready within 400ms: it did not answer in time. The dstack server was not started with the plugin, which would refuse every run"
	if message := p.run(t); message != want {
		t.Errorf("got  %s\nwant %s", message, want)
	}
}

func TestRunPolicyServerThatIsGone(t *testing.T) {
	p := newPod(t, users)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	p.PolicyURL = gone.URL
	message := p.run(t)
	if !strings.Contains(message, ": not ready within 400ms: it cannot be asked: dial tcp 127.0.0.1:") || !strings.Contains(message, "connection refused. The dstack server") {
		t.Errorf("got %s", message)
	}
}

func TestRunStops(t *testing.T) {
	p := newPod(t, users)
	p.status.Store(http.StatusServiceUnavailable)
	p.Timeout = time.Hour
	for _, first := range []bool{true, false} {
		p.First = first
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := Run(ctx, p.Options)
		cancel()
		if want := "stopped while waiting for the policy server: context deadline exceeded"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestRunREST(t *testing.T) {
	p := newPod(t, users)
	p.Plugin = dstack.PluginREST
	p.Token = "sent, it would be refused"
	if message := p.run(t); message != "" {
		t.Fatal(message)
	}
	if got, want := read(t, p.Target), strings.Replace(merged, "dstack_isolation", "rest_plugin", 1); got != want {
		t.Errorf("got %s", got)
	}
}
