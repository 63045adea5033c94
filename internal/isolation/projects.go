package isolation

import (
	"fmt"
	"slices"
	"strings"
)

// Projects names the projects of a profile in messages.
func (p *Profile) Projects() string {
	if p.Name == "" {
		return "projects that no profile names"
	}
	text := "projects " + patternNames(p.selector.include)
	if len(p.selector.exclude) > 0 {
		text += " without " + patternNames(p.selector.exclude)
	}
	return text
}

func patternNames(all []string) string {
	const most = 5
	text := strings.Join(all[:min(len(all), most)], ", ")
	if more := len(all) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// HasRules tells whether the profile has rules of its own.
func (p *Profile) HasRules() bool { return len(p.rules) > 0 }

// Refuses tells whether anything is refused under the profile: it enforces, and
// a control or a rule of it denies something.
func (p *Profile) Refuses() bool {
	denies := func(c Control) bool { return !p.Values[c].Equal(c.Loosest()) }
	return p.Enforce && (p.HasRules() || slices.ContainsFunc(AllControls(), denies))
}
