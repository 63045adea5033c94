package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/expression"
)

// Rule is a resolved rule of a profile.
type Rule struct {
	Name string
	// Message is what is not allowed, and what to write instead if the rule says
	// so, without full stop.
	Message string
	// Program is the compiled expression; nil when Problem says why there is none.
	Program *expression.Program
	// Problem is why the rule refuses all that it is about; nil when there is
	// none.
	Problem *Problem

	// kind of object that the rule is about; empty for every kind, when the rule
	// names one that this release does not know.
	kind dstack.ApplyKind
	// digested is what the revision digests of it.
	digested []string
}

func (r *Rule) isAbout(kind dstack.ApplyKind) bool { return r.kind == "" || r.kind == kind }

var ruleKinds = map[v1alpha1.RuleKind]dstack.ApplyKind{
	v1alpha1.RuleKindRun:     dstack.KindRun,
	v1alpha1.RuleKindFleet:   dstack.KindFleet,
	v1alpha1.RuleKindVolume:  dstack.KindVolume,
	v1alpha1.RuleKindGateway: dstack.KindGateway,
}

// addRule takes a rule in. One that does not compile refuses what it is about,
// whatever it said before: no replica may decide by what another one has
// forgotten.
func (p *Profile) addRule(i int, obj *v1alpha1.Rule) {
	field := fmt.Sprintf("spec.rules[%d]", i)
	rule := Rule{
		Name: obj.Name, Message: ruleMessage(obj), kind: ruleKinds[obj.Kind],
		digested: []string{"rule", expression.Environment, obj.Name, string(obj.Kind), obj.Expression, obj.Message, obj.Hint},
	}
	program := expression.Compile(obj.Expression)
	switch {
	case rule.kind == "":
		p.brokenRule(&rule, field+".kind", fmt.Sprintf(
			"kind %q of rule %s is not known to this release, so every object %s: use Run, Fleet, Volume or Gateway",
			obj.Kind, obj.Name, p.refused()))
	case program.Err() != nil:
		p.brokenRule(&rule, field+".expression", fmt.Sprintf(
			"the expression of rule %s does not compile, so every %s %s: %v", obj.Name, rule.kind, p.refused(), program.Err()))
	default:
		rule.Program = program
	}
	p.rules = append(p.rules, rule)
}

func (p *Profile) brokenRule(rule *Rule, field, message string) {
	rule.Problem = &Problem{Field: field, Message: message, Rule: true}
	p.Problems = append(p.Problems, *rule.Problem)
}

// refused is what becomes of objects that a rule of the profile refuses.
func (p *Profile) refused() string {
	if p.Enforce {
		return "of its projects is refused"
	}
	return "of its projects counts as refused"
}

func ruleMessage(obj *v1alpha1.Rule) string {
	parts := slices.DeleteFunc([]string{withoutStop(obj.Message), withoutStop(obj.Hint)}, func(s string) bool { return s == "" })
	return cmp.Or(strings.Join(parts, ": "), "rule "+obj.Name+" does not allow this")
}

func withoutStop(s string) string { return strings.TrimRight(strings.TrimSpace(s), ".") }

// Rules are the rules of the profile that are about a kind of object, in the
// order in which they are written.
func (p *Profile) Rules(kind dstack.ApplyKind) []*Rule {
	var all []*Rule
	for i := range p.rules {
		if p.rules[i].isAbout(kind) {
			all = append(all, &p.rules[i])
		}
	}
	return all
}
