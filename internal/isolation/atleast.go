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

// Excepted are the users for whom exceptions that have not ended lift one of
// the controls from what AtLeast says: those of the same exceptions together,
// sorted.
func (e *Effective) Excepted(profile *Profile, now time.Time, controls ...Control) [][]string {
	exceptions := map[string]string{} // of each user
	for _, p := range e.atLeast(profile).Governing {
		for i := range p.exceptions {
			x := &p.exceptions[i]
			if !p.Enforce || !x.holdsAt(now) || !p.isLiftedBy(x, controls) {
				continue
			}
			for _, user := range x.users {
				exceptions[user] += p.Name + "/" + x.name + ","
			}
		}
	}
	position := map[string]int{}
	var groups [][]string
	for _, user := range slices.Sorted(maps.Keys(exceptions)) {
		i, found := position[exceptions[user]]
		if !found {
			i = len(groups)
			position[exceptions[user]] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], user)
	}
	return groups
}

// NextExpiryOf is the end of the first exception, of those that have not ended,
// of the profile and of those that certainly govern all its projects too; zero
// if there is none. What Excepted says may change then.
func (e *Effective) NextExpiryOf(profile *Profile, now time.Time) time.Time {
	return nextExpiry(e.atLeast(profile).Governing, now)
}

// isLiftedBy tells whether the exception lifts something that the profile denies
// by one of the controls.
func (p *Profile) isLiftedBy(x *exception, controls []Control) bool {
	return slices.ContainsFunc(controls, func(c Control) bool { return x.controls[c] && c.rank(p.Values[c]) > 0 })
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
