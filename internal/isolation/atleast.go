package isolation

import (
	"maps"
	"slices"
	"time"
)

// AtLeast is what every project of the profile gets at least: the strictest
// value of the profile itself and of those that certainly govern all its
// projects too, as far as they enforce. Exceptions are left aside.
func (e *Effective) AtLeast(profile *Profile) Policy {
	return e.atLeast(profile).Enforced("", time.Time{})
}

// AtLeastFor is AtLeast less the exceptions of a user that hold at this moment.
func (e *Effective) AtLeastFor(profile *Profile, user string, now time.Time) Policy {
	return e.atLeast(profile).Enforced(user, now)
}

// Excepted are the users for whom an exception lifts one of the controls from
// what AtLeast says, now or later, sorted; and the end of the first of these
// exceptions, zero if none ends.
func (e *Effective) Excepted(profile *Profile, now time.Time, controls ...Control) (users []string, until time.Time) {
	all := map[string]bool{}
	for _, p := range e.atLeast(profile).Governing {
		for _, x := range p.exceptions {
			lifts := slices.ContainsFunc(controls, func(c Control) bool { return x.controls[c] && c.rank(p.Values[c]) > 0 })
			if !p.Enforce || !lifts || !x.holdsAt(now) {
				continue
			}
			for _, user := range x.users {
				all[user] = true
			}
			if !x.expiresAt.IsZero() && (until.IsZero() || x.expiresAt.Before(until)) {
				until = x.expiresAt
			}
		}
	}
	return slices.Sorted(maps.Keys(all)), until
}

// atLeast is a project that only the profile governs, and those that certainly
// govern whatever the profile does; in order of name.
func (e *Effective) atLeast(profile *Profile) Project {
	var project Project
	patterns := profile.selector.include
	if len(patterns) == 0 {
		return Project{Governing: []*Profile{profile}} // selects nothing, or is the rest
	}
	// Who covers all of its patterns covers the first one.
	for _, i := range e.index.candidates(patterns[0]) {
		other := e.Profiles[i]
		if other == profile || other.Enforce && other.selector.covers(profile.selector) {
			project.Governing = append(project.Governing, other)
		}
	}
	return project
}
