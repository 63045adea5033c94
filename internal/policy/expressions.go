package policy

import (
	"errors"
	"fmt"

	"github.com/dstack-isolation/operator/internal/expression"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// ControlRules stands before the name of a profile's rule in Reason.Control.
const ControlRules = "rules/"

// wholeObject is the field of a rule's reason: a rule is about all of a
// specification.
const wholeObject = "object"

// asked is a rule, and the profiles that have it.
type asked struct {
	rule *isolation.Rule
	by   []*isolation.Profile
}

// rulesOf lists the rules that the governing profiles have for the subject,
// those that several share once, without those among others.
func (d *decider) rulesOf(enforced bool, others []asked) []asked {
	var all []asked
	var at map[ruleKey]int
	for _, p := range d.project.Governing {
		if p.Enforce != enforced {
			continue
		}
		for _, rule := range p.Rules(d.subject.kind) {
			if at == nil {
				at = keysOf(others)
			}
			key := keyOf(rule)
			i, found := at[key]
			switch {
			case !found:
				at[key] = len(all)
				all = append(all, asked{rule, []*isolation.Profile{p}})
			case i >= 0:
				all[i].by = append(all[i].by, p)
			}
		}
	}
	return all
}

// ruleKey is equal for rules that say the same.
type ruleKey struct {
	name, message string
	program       *expression.Program
	problem       *isolation.Problem
}

func keyOf(r *isolation.Rule) ruleKey { return ruleKey{r.Name, r.Message, r.Program, r.Problem} }

// keysOf has -1 for the rules that are asked already.
func keysOf(others []asked) map[ruleKey]int {
	at := make(map[ruleKey]int)
	for _, o := range others {
		at[keyOf(o.rule)] = -1
	}
	return at
}

// judgeRules asks the rules of the profiles: those that refuse, and, as long as
// they differ from them, those that only audit.
func (d *decider) judgeRules(req *Request) (refused, audited []verdict) {
	if !d.readable {
		return nil, nil
	}
	enforced := d.rulesOf(true, nil)
	counted := d.rulesOf(false, enforced)
	if len(enforced)+len(counted) == 0 {
		return nil, nil
	}
	object, err := expression.NewRequest(req.Spec, expression.Asker{User: req.User, Project: req.Project, Offer: d.subject.run.offer})
	refused = d.ask(enforced, object, err)
	if len(counted) > 0 && err == nil {
		object = object.Refilled()
	}
	return refused, d.ask(counted, object, err)
}

// ask evaluates rules. With unreadable, none can be.
func (d *decider) ask(rules []asked, object *expression.Request, unreadable error) []verdict {
	var reasons []verdict
	for _, a := range rules {
		message, cause := d.wrongByRule(a.rule, object, unreadable)
		if message == "" {
			continue
		}
		reasons = append(reasons, verdict{
			Reason: Reason{Control: ControlRules + a.rule.Name, Field: wholeObject, Message: message, Cause: cause, Profiles: names(a.by)},
			by:     a.by,
		})
	}
	return reasons
}

// wrongByRule says what a rule refuses, or "", and why it could not be
// evaluated. One that fails on a value refuses in its own words, which tell the
// user what to write; why it failed only its author can make use of.
func (d *decider) wrongByRule(rule *isolation.Rule, object *expression.Request, unreadable error) (message, cause string) {
	switch {
	case rule.Problem != nil:
		return fmt.Sprintf("no %s is allowed in project %s until the profile is corrected: %s", d.subject.kind, d.subject.project, rule.Problem), ""
	case unreadable != nil:
		return fmt.Sprintf("this %s is not allowed in project %s, because rule %s cannot be evaluated for it: %v",
			d.subject.kind, d.subject.project, rule.Name, unreadable), unreadable.Error()
	}
	holds, err := object.Holds(rule.Program)
	switch {
	case errors.Is(err, expression.ErrCost):
		return fmt.Sprintf("this %s is too large for rule %s and so not allowed in project %s: make it smaller, or ask the administrator to simplify the rule",
			d.subject.kind, rule.Name, d.subject.project), err.Error()
	case err != nil:
		return rule.Message, err.Error()
	case !holds:
		return rule.Message, ""
	}
	return "", ""
}
