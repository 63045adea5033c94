package dstack_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// listed answers like a server with so many runs, submitted a minute apart, the
// last one at noon, 100 at a time.
func listed(t *testing.T, runs int) http.HandlerFunc {
	noon := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	return func(w http.ResponseWriter, r *http.Request) {
		var q map[string]any
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		if r.URL.Path != "/api/runs/list" || r.Header.Get("Authorization") != "Bearer "+token || q["include_jobs"] != false {
			t.Errorf("got %s with %v", r.URL.Path, q)
		}
		first := 0
		if id, ok := q["prev_run_id"]; ok {
			if _, err := fmt.Sscanf(id.(string), "id-%d", &first); err != nil {
				t.Error(err)
			}
			first++
		}
		page := []string{}
		for i := first; i < min(first+100, runs); i++ {
			at := noon.Add(-time.Duration(i) * time.Minute).Format("2006-01-02T15:04:05.000000-07:00")
			page = append(page, fmt.Sprintf(`{"id": "id-%d", "project_name": "main", "submitted_at": %q, "run_spec": {"run_name": "run-%d", "configuration": {"env": {"A": "secret"}}}}`, i, at, i))
		}
		fmt.Fprintf(w, "[%s]", strings.Join(page, ","))
	}
}

func TestRunsAreReadToTheEnd(t *testing.T) {
	for _, n := range []int{0, 1, 100, 101, 250} {
		runs, all, err := client(t, listed(t, n)).Runs(t.Context(), dstack.RunsQuery{OnlyActive: true})
		if err != nil || !all || len(runs) != n {
			t.Errorf("got %d runs, all %t, %v, want %d", len(runs), all, err, n)
		}
		if n > 0 && (runs[n-1].Name != fmt.Sprintf("run-%d", n-1) || runs[0].Project != "main") {
			t.Errorf("got %v", runs[n-1])
		}
	}
}

func TestRunsSinceAMoment(t *testing.T) {
	since := time.Date(2026, 11, 25, 11, 55, 0, 0, time.UTC)
	runs, all, err := client(t, listed(t, 250)).Runs(t.Context(), dstack.RunsQuery{Since: since})
	if err != nil || !all || len(runs) != 6 || runs[5].SubmittedAt.Before(since) {
		t.Errorf("got %d runs, all %t, %v, want the 6 from noon back to 11:55", len(runs), all, err)
	}
}

func TestRunsAreBounded(t *testing.T) {
	runs, all, err := client(t, listed(t, 10_500)).Runs(t.Context(), dstack.RunsQuery{})
	if err != nil || all || len(runs) != 10_000 {
		t.Errorf("got %d runs, all %t, %v, want 10000 and more to come", len(runs), all, err)
	}
}
