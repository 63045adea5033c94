package policyserver

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestEveryKindIsCounted: log and metrics name the kind of what is refused, and
// the log nothing of what is in it.
func TestEveryKindIsCounted(t *testing.T) {
	for kind, tc := range map[string]struct{ capture, control, content string }{
		"fleet":   {"0.22.5/fleet-ssh", "sshFleets", "private key placeholder"},
		"volume":  {"0.22.5/volume-existing-id", "existingVolumes", "vol-0123456789"},
		"gateway": {"0.22.5/gateway-new", "backends", "example.org"},
	} {
		t.Run(kind, func(t *testing.T) {
			research := newProfile("research", v1alpha1.LevelRestricted, "research-*")
			if kind == "gateway" {
				research.Spec.Controls = &v1alpha1.Controls{Backends: &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"gcp"}}}
			}
			log, out := newLog(slog.LevelDebug)
			s := newHandler(t, newSnapshot(research), Options{Log: log})
			c := capturedCase(t, tc.capture)
			a := decoded(t, s.post(c.Path, string(c.Request)))
			if a.Error == nil || !strings.Contains(*a.Error, "control "+tc.control) {
				t.Fatalf("got error %v", a.Error)
			}
			for _, want := range []string{`"kind":"` + kind + `"`, `"decision":"refused"`, `"controls":["` + tc.control + `"]`} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%s is not in the log: %s", want, out.String())
				}
			}
			if !strings.Contains(string(c.Request), tc.content) || strings.Contains(out.String(), tc.content) {
				t.Errorf("%q is not sent, or logged: %s", tc.content, out.String())
			}
			metrics := s.scrape()
			for _, want := range []string{
				`decisions_total{control="` + tc.control + `",decision="refused",kind="` + kind + `"} 1`,
				`refusals_total{control="` + tc.control + `",kind="` + kind + `",profile="research"} 1`,
			} {
				if !strings.Contains(metrics, want) {
					t.Errorf("%s is not in the metrics", want)
				}
			}
		})
	}
}
