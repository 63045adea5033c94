package isolation

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

func ruled(name, expression string) func(*spec) {
	return func(s *spec) {
		s.Rules = append(s.Rules, v1alpha1.Rule{Name: name, Kind: v1alpha1.RuleKindRun, Expression: expression, Message: "no"})
	}
}

// TestRuleThatDoesNotCompile is a problem of its own profile, and the rest of
// the profile and every other one stand.
func TestRuleThatDoesNotCompile(t *testing.T) {
	e := resolve(newServer("Open"),
		newProfile("a", "Baseline", ruled("fine", `true`), ruled("typo", "user == 'ada' &&\n  objct.x"), ruled("later", `true`), func(s *spec) { s.Rules[2].Kind = "Secret" }),
		newProfile("b", "Open", ruled("fine", `true`)),
		newProfile("c", "Open", ruled("dyn", `object.x`), audited))
	var got []string
	for _, p := range e.Profiles {
		for _, problem := range p.Problems {
			got = append(got, p.Name+": "+problem.String())
		}
	}
	want := []string{
		"a: spec.rules[1].expression: the expression of rule typo does not compile, so every run of its projects is refused: " +
			"line 2, column 3: undeclared reference to 'objct'",
		`a: spec.rules[2].kind: kind "Secret" of rule later is not known to this release, so every object of its projects is refused: ` +
			"use Run, Fleet, Volume or Gateway",
		"c: spec.rules[0].expression: the expression of rule dyn does not compile, so every run of its projects counts as refused: " +
			"line 1, column 1: is of type dyn and not bool; compare it with a value, as in == true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	a := e.Profile("a")
	for kind, want := range map[dstack.ApplyKind]string{dstack.KindRun: "fine true, typo false, later false, ", dstack.KindFleet: "later false, "} {
		got := ""
		for _, r := range a.Rules(kind) {
			got += fmt.Sprintf("%s %t, ", r.Name, r.Problem == nil && r.Program != nil)
		}
		if got != want {
			t.Errorf("rules about a %s that can be evaluated: %s, want %s", kind, got, want)
		}
	}
	if a.Values[Privileged].Mode != ModeDenied || a.Values[DistributedTasks].Mode != ModeAllowed {
		t.Errorf("the controls changed: %v", a.Values)
	}
}

func TestRuleMessage(t *testing.T) {
	for want, rule := range map[string]v1alpha1.Rule{
		"runs must end":                  {Name: "r", Message: " runs must end. "},
		"runs must end: set a duration":  {Name: "r", Message: "runs must end", Hint: "set a duration..."},
		"set a duration":                 {Name: "r", Message: ".", Hint: "set a duration"},
		"rule r does not allow this":     {Name: "r", Message: " "},
		"what about e.g. this? set that": {Name: "r", Message: "what about e.g. this? set that"},
	} {
		if got := ruleMessage(&rule); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestResolveManyRules holds that a rule that many profiles share is compiled
// once.
func TestResolveManyRules(t *testing.T) {
	var profiles []v1alpha1.IsolationProfile
	for i := range 10_000 {
		profiles = append(profiles, newProfile(fmt.Sprintf("p%d", i), "Open", ruled("r", `has(object.configuration.shared)`)))
	}
	start := time.Now()
	e := resolve(newServer("Open"), profiles...)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
	first := e.Profiles[0].Rules(dstack.KindRun)[0].Program
	for _, p := range e.Profiles {
		if p.Rules(dstack.KindRun)[0].Program != first {
			t.Fatal("compiled twice")
		}
	}
}

// BenchmarkResolveRules resolves 10,000 profiles with a rule each, after one of
// them changed.
func BenchmarkResolveRules(b *testing.B) {
	for name, text := range map[string]string{"shared": `true`, "own": `has(object.configuration.k%d) && object.configuration.k%[1]d != null`} {
		b.Run(name, func(b *testing.B) {
			var profiles []v1alpha1.IsolationProfile
			for i := range 10_000 {
				if name == "own" {
					profiles = append(profiles, newProfile(fmt.Sprintf("p%d", i), "Open", ruled("r", fmt.Sprintf(text, i))))
				} else {
					profiles = append(profiles, newProfile(fmt.Sprintf("p%d", i), "Open", ruled("r", text)))
				}
			}
			e := resolve(newServer("Open"), profiles...)
			n := 0
			for b.Loop() {
				n++
				profiles[0].Spec.Rules[0].Expression = fmt.Sprintf(`user != 'u%d'`, n)
				e = resolve(newServer("Open"), profiles...)
			}
			_ = e
		})
	}
}
