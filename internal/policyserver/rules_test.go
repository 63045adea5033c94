package policyserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestRulesInMetricsAndLog: the log names each rule, the metrics have one label
// for all of them, however many there are.
func TestRulesInMetricsAndLog(t *testing.T) {
	ruled := newProfile("ruled", v1alpha1.LevelOpen, "research-*")
	audited := newProfile("audited", v1alpha1.LevelOpen, "research-*")
	audited.Spec.Enforcement = v1alpha1.EnforcementAudit
	for i := range 3 {
		rule := v1alpha1.Rule{Name: fmt.Sprintf("rule-%d", i), Kind: v1alpha1.RuleKindRun, Expression: "false", Message: "no"}
		ruled.Spec.Rules = append(ruled.Spec.Rules, rule)
		rule.Name = "watch-" + rule.Name
		audited.Spec.Rules = append(audited.Spec.Rules, rule)
	}
	log, out := newLog(0)
	s := newHandler(t, newSnapshot(ruled, audited), Options{Log: log})
	answer := s.post(runPath, plainTask(t))
	if want := `no (profile dstack/ruled, rule rule-0). No (profile dstack/ruled, rule rule-1).`; !strings.Contains(answer.Body.String(), want) {
		t.Errorf("got %s, want %s in it", answer.Body, want)
	}
	var got []string
	for _, line := range own(s.scrape()) {
		if strings.Contains(line, "rule") {
			got = append(got, line)
		}
	}
	want := []string{
		`audited_total{control="rules",kind="run",profile="audited"} 1`,
		`decisions_total{control="rules",decision="refused",kind="run"} 1`,
		`refusals_total{control="rules",kind="run",profile="ruled"} 1`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	for _, want := range []string{`"controls":["rules/rule-0","rules/rule-1","rules/rule-2"]`, `"audited":["rules/watch-rule-0",`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got log %s, want %s in it", out, want)
		}
	}
}
