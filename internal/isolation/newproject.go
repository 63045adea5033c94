package isolation

import "time"

// ofNewProjects is what a project of any name is refused at least: what the profiles
// say that match every name, or unmatchedProjects where there are none.
func (e *Effective) ofNewProjects() Policy {
	var project Project
	every := selector{include: []string{"*"}}
	for _, p := range e.Profiles {
		if p.selector.covers(every) {
			project.Governing = append(project.Governing, p)
		}
	}
	if len(project.Governing) == 0 {
		project.Governing = []*Profile{e.Unmatched}
	}
	return project.Enforced("", time.Time{})
}

// LooserInNewProjects are the controls of which a policy denies more than a project
// is refused whose name a user makes up. Those are left out that dstack enforces for
// the whole server.
func (e *Effective) LooserInNewProjects(policy *Policy) []Control {
	var looser []Control
	for _, c := range AllControls() {
		rest := e.rest[c].Value
		if !table[c].serverWide && !c.join(rest, policy[c].Value).Equal(rest) {
			looser = append(looser, c)
		}
	}
	return looser
}
