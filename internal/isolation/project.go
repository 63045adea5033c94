package isolation

import (
	"slices"
	"strings"
	"time"
)

// Project is the policy of one project: all profiles that govern it.
type Project struct {
	// Name as it was asked for.
	Name string
	// Revision of the policy as a whole.
	Revision string
	// Governing are the profiles that match, or the server's unmatchedProjects
	// alone when none does.
	Governing []*Profile
}

// Held is the value of a control in a project, and who asks for it.
type Held struct {
	Value
	// By are the profiles that make the value what it is, for a value that denies
	// something; sorted by name.
	By []*Profile
	// Lifted are the names of exceptions ("PROFILE/EXCEPTION") without which the
	// value would be stricter.
	Lifted []string
}

// Policy is the value of every control, by index.
type Policy [ControlCount]Held

// ForProject finds the profiles that govern a project. Case does not matter.
func (e *Effective) ForProject(name string) Project {
	p := Project{Name: name, Revision: e.Revision}
	lower := strings.ToLower(name)
	for _, i := range e.index.candidates(lower) {
		if profile := e.Profiles[i]; profile.selector.matches(lower) {
			p.Governing = append(p.Governing, profile)
		}
	}
	if len(p.Governing) == 0 {
		p.Governing = []*Profile{e.Unmatched}
	}
	return p
}

// Enforced is what is refused: per control the strictest value of all profiles
// that enforce, less the exceptions of this user that hold at this moment.
func (p Project) Enforced(user string, now time.Time) Policy {
	return p.policy(user, now, func(profile *Profile) bool { return profile.Enforce })
}

// Counted is what would be refused if every profile enforced.
func (p Project) Counted(user string, now time.Time) Policy {
	return p.policy(user, now, func(*Profile) bool { return true })
}

// AuditOnly tells whether no governing profile enforces.
func (p Project) AuditOnly() bool {
	return !slices.ContainsFunc(p.Governing, func(profile *Profile) bool { return profile.Enforce })
}

// HasAudit tells whether Counted may differ from Enforced.
func (p Project) HasAudit() bool {
	return slices.ContainsFunc(p.Governing, func(profile *Profile) bool { return !profile.Enforce })
}

// Hints are the hints of the governing profiles, each once, in order of name.
func (p Project) Hints() []string {
	var hints []string
	for _, profile := range p.Governing {
		if profile.Hint != "" && !slices.Contains(hints, profile.Hint) {
			hints = append(hints, profile.Hint)
		}
	}
	return hints
}

func (p Project) policy(user string, now time.Time, counts func(*Profile) bool) Policy {
	var policy Policy
	for c := range policy {
		policy[c].Value = Control(c).Loosest()
	}
	for _, profile := range p.Governing {
		if counts(profile) {
			profile.tighten(&policy, user, now)
		}
	}
	return policy
}

// tighten joins the profile's values into the policy.
func (p *Profile) tighten(policy *Policy, user string, now time.Time) {
	for i := range policy {
		c, held := Control(i), &policy[i]
		if c.rank(p.Values[i]) == 0 {
			continue
		}
		if name := p.lifting(c, user, now); name != "" {
			held.Lifted = append(held.Lifted, name)
			continue
		}
		before := held.Value
		held.Value = c.join(before, p.Values[i])
		switch {
		case !held.Value.Equal(before) && held.Value.Equal(p.Values[i]):
			held.By = []*Profile{p}
		case !held.Value.Equal(before) || held.Value.Equal(p.Values[i]):
			held.By = append(held.By, p)
		}
	}
}

// lifting finds an exception that lifts the control for the user now, and
// returns its name as PROFILE/EXCEPTION, or "".
func (p *Profile) lifting(c Control, user string, now time.Time) string {
	for _, x := range p.exceptions {
		if x.controls[c] && x.holdsAt(now) && slices.Contains(x.users, user) {
			return p.Name + "/" + x.name
		}
	}
	return ""
}

// mayLift tells whether an exception lifts the control for anybody at or after
// now.
func (p *Profile) mayLift(c Control, now time.Time) bool {
	return slices.ContainsFunc(p.exceptions, func(x exception) bool {
		return x.controls[c] && len(x.users) > 0 && x.holdsAt(now)
	})
}

// holdsAt tells whether the exception has not ended yet.
func (x *exception) holdsAt(now time.Time) bool {
	return x.expiresAt.IsZero() || now.Before(x.expiresAt)
}
