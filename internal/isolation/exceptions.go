package isolation

import (
	"slices"
	"time"
)

// Lifts tells whether an exception of the profile, which may have ended, can lift
// any control.
func (p *Profile) Lifts(name string) bool {
	return slices.ContainsFunc(p.exceptions, func(x exception) bool {
		return x.name == name && slices.Contains(x.controls[:], true)
	})
}

// Ended is the exception of the profile that lifted the control for the user until
// it ended, the last of several, and its end; "" when there was none.
func (p *Profile) Ended(c Control, user string, now time.Time) (name string, at time.Time) {
	for i := range p.exceptions {
		x := &p.exceptions[i]
		if x.controls[c] && !x.holdsAt(now) && !x.expiresAt.Before(at) && slices.Contains(x.users, user) {
			name, at = x.name, x.expiresAt
		}
	}
	return name, at
}

// EndText is the end of an exception in messages.
func EndText(at time.Time) string { return at.UTC().Format("on 2006-01-02 at 15:04 MST") }
