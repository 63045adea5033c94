package policy

import (
	"fmt"
	"strings"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// importedFleets refuses fleets of other projects, and instances of such fleets.
// Instances that are named otherwise, and runs that name no fleet, may end up on
// an imported one too: that is for the control fleets.
func importedFleets(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, ref := range s.run.allFleets() {
		if s.imported(ref) {
			found = append(found, finding{ref.String(), fmt.Sprintf(
				"fleets of other projects are not allowed in project %s, and %s is one: name fleets of this project only",
				s.project, quote(ref.full()))})
		}
	}
	return found
}

// fleets refuses fleets outside the list. A run that names none gets the list
// filled in, unless nothing would be left of it. dstack looks for instances in
// the fleets that the run names; still one must be named by a fleet in the list,
// so that no release which looks elsewhere lets it pass.
func fleets(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, ref := range s.run.allFleets() {
		if !s.allowsFleet(v, ref) {
			found = append(found, finding{ref.String(), fmt.Sprintf("fleet %s is not allowed in project %s: %s",
				quote(ref.full()), s.project, s.fleetRemedy(v))})
		}
	}
	for _, instance := range s.run.instances {
		if instance.fleet == nil {
			found = append(found, finding{instance.String(), fmt.Sprintf(
				"an instance that is named without its fleet is not allowed in project %s: name it by fleet and instance, or remove instances",
				s.project)})
		}
	}
	if len(s.run.fleets) == 0 && len(s.fillable(v)) == 0 {
		found = append(found, finding{inConfiguration + ".fleets", s.nothingToFill(v)})
	}
	return found
}

func (s *subject) nothingToFill(v isolation.Value) string {
	return fmt.Sprintf("this run names no fleet, so that any could be used, which is not allowed in project %s: %s",
		s.project, s.fleetRemedy(v))
}

// fleetRemedy says which fleets to use instead: never one that importedFleets
// refuses.
func (s *subject) fleetRemedy(v isolation.Value) string {
	var usable []string
	for _, ref := range s.fillable(v) {
		usable = append(usable, ref.full())
	}
	if len(v.List) > 0 && len(usable) == 0 {
		return "the list has only fleets of other projects, and importedFleets denies those: ask the administrator to allow a fleet of this project"
	}
	return allowedOf(isolation.Value{Mode: v.Mode, List: usable}, "use only", "fleets")
}

// allFleets are the fleets that the run names for itself and for instances.
func (r *run) allFleets() []reference {
	all := r.fleets
	for _, instance := range r.instances {
		if instance.fleet != nil {
			all = append(all[:len(all):len(all)], *instance.fleet)
		}
	}
	return all
}

// full is the name as the list has it.
func (f reference) full() string {
	if f.project == "" {
		return f.name
	}
	return f.project + "/" + f.name
}

// imported tells whether a fleet is another project's. dstack compares names of
// projects letter by letter here.
func (s *subject) imported(ref reference) bool {
	return ref.project != "" && ref.project != string(s.project)
}

// allowsFleet tells whether the list has a fleet, whether or not the run's own
// project is written before its name.
func (s *subject) allowsFleet(v isolation.Value, ref reference) bool {
	if s.imported(ref) {
		return allows(v, ref.full())
	}
	return allows(v, ref.name) || allows(v, string(s.project)+"/"+ref.name)
}

// fillable are the fleets of the list with which a run that names none can be
// filled in: those that importedFleets would refuse are left out.
func (s *subject) fillable(v isolation.Value) []reference {
	if v.Mode != isolation.ModeAllowedList {
		return nil
	}
	var refs []reference
	for _, entry := range v.List {
		ref := reference{name: entry}
		if project, name, found := strings.Cut(entry, "/"); found {
			ref.project, ref.name = project, name
		}
		if !s.noImported || !s.imported(ref) {
			refs = append(refs, ref)
		}
	}
	return refs
}
