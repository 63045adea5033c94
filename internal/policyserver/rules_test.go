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

// TestRuleErrors: the user reads the rule's own words, the administrator why it
// could not be evaluated, and neither what stands in the specification.
func TestRuleErrors(t *testing.T) {
	ruled := newProfile("ruled", v1alpha1.LevelOpen, "research-*")
	ruled.Spec.Rules = []v1alpha1.Rule{{
		Name: "max-duration", Kind: v1alpha1.RuleKindRun, Expression: "object.configuration.max_duration <= 3600",
		Message: "runs must end within an hour", Hint: "set max_duration to 1h or less",
	}}
	audited := newProfile("audited", v1alpha1.LevelOpen, "research-*")
	audited.Spec.Enforcement = v1alpha1.EnforcementAudit
	audited.Spec.Rules = []v1alpha1.Rule{{Name: "key", Kind: v1alpha1.RuleKindRun, Expression: "object.no_such_key == 1", Message: "no"}}
	log, out := newLog(0)
	s := newHandler(t, newSnapshot(ruled, audited), Options{Log: log})
	answer := s.post(runPath, plainTask(t)).Body.String()
	if want := `"error":"runs must end within an hour: set max_duration to 1h or less (profile dstack/ruled, rule max-duration). [isolation rev=`; !strings.Contains(answer, want) {
		t.Errorf("got %s, want %s in it", answer, want)
	}
	var got []string
	for _, line := range own(s.scrape()) {
		if strings.Contains(line, "rule_errors_total") {
			got = append(got, line)
		}
	}
	want := []string{`rule_errors_total{kind="run",profile="audited"} 1`, `rule_errors_total{kind="run",profile="ruled"} 1`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	const logged = `"ruleErrors":["rules/max-duration: a value is of another type than an operator or function in it takes: test it first, as in != null",` +
		`"rules/key: the object has no key no_such_key there: test it first with has()"]`
	if !strings.Contains(out.String(), logged) {
		t.Errorf("got log %s, want %s in it", out, logged)
	}
	s.publish(newSnapshot(audited))
	if left := strings.Join(own(s.scrape()), "\n"); strings.Contains(left, `profile="ruled"`) {
		t.Errorf("series of a profile that is gone are left: %s", left)
	}
}
