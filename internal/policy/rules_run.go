package policy

import (
	"fmt"
	"regexp"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// serviceRouters refuses routers of services, of whatever type.
func serviceRouters(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, at := range s.run.routers {
		found = append(found, finding{at.String(), fmt.Sprintf(
			"routers are not allowed in project %s: remove router from %s", s.project, at.in())})
	}
	return found
}

// serverAccess refuses runs that get a tunnel to the dstack server.
func serverAccess(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || !s.run.serverAccess {
		return nil
	}
	return []finding{{inConfiguration + ".dstack", fmt.Sprintf(
		"access to the dstack server is not allowed in project %s: set dstack to false", s.project)}}
}

// services refuses services.
func services(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || s.run.kind != kindService {
		return nil
	}
	return []finding{{inConfiguration + ".type", fmt.Sprintf(
		"services are not allowed in project %s: run it as a task or a dev-environment", s.project)}}
}

// servicesWithoutGateway refuses services that may end up on the dstack server
// itself. true asks for the project's default gateway: whether there is one no
// specification tells, but where there is none dstack refuses the service.
func servicesWithoutGateway(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed || s.run.kind != kindService || s.run.gateway {
		return nil
	}
	return []finding{{inConfiguration + ".gateway", fmt.Sprintf(
		"services without a gateway are not allowed in project %s: set gateway to the name of one, or to true for the default one",
		s.project)}}
}

// importedGateways refuses gateways of other projects. Which gateway is the
// project's default no specification tells.
func importedGateways(v isolation.Value, s *subject) []finding {
	ref := s.run.namedGateway
	if v.Mode == isolation.ModeAllowed || ref == nil || !s.imported(*ref) {
		return nil
	}
	return []finding{{ref.String(), fmt.Sprintf(
		"gateways of other projects are not allowed in project %s, and %s is one: set gateway to the name of one of this project",
		s.project, quote(ref.full()))}}
}

// tags refuses tags, which become labels of pods on the Kubernetes backend.
func tags(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	for _, at := range s.tags {
		found = append(found, finding{at.String(), fmt.Sprintf(
			"tags are not allowed in project %s: remove tags from %s", s.project, at.in())})
	}
	return found
}

// unknownFields refuses fields that no known release of dstack has and that
// carry a value: what they do nobody here can tell.
func unknownFields(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	var found []finding
	fields, more := alike(s.unknown)
	for i, field := range fields {
		same := ""
		switch {
		case more[i] == 1:
			same = ", and the same in 1 more entry,"
		case more[i] > 1:
			same = fmt.Sprintf(", and the same in %d more entries,", more[i])
		}
		found = append(found, finding{field.String(), fmt.Sprintf(
			"the field %s%s %s and so not allowed in project %s: remove it or leave it empty",
			field, same, field.why, s.project)})
	}
	return found
}

var positions = regexp.MustCompile(`\[[0-9]+\]`)

// alike are the fields of which each is the first that differs from others in
// nothing but positions in lists, such as of hosts, and how many others there are.
func alike(fields []unknownField) (first []unknownField, more []int) {
	type kind struct{ path, why string }
	seen := make(map[kind]int)
	for _, field := range fields {
		k := kind{positions.ReplaceAllString(field.String(), "[]"), field.why}
		if i, found := seen[k]; found {
			more[i]++
			continue
		}
		seen[k] = len(first)
		first, more = append(first, field), append(more, 0)
	}
	return first, more
}

// backends refuses backends outside the list, and a run that names none, which
// dstack would place on any. A run on a fleet has the fleet's backend; but
// which that is no specification tells, so it must be named all the same. A
// request for offers that names none gets the list filled in.
func backends(v isolation.Value, s *subject) []finding {
	if v.Mode == isolation.ModeAllowed {
		return nil
	}
	if len(s.backends) == 0 {
		if len(s.offerable(v)) > 0 {
			return nil
		}
		return []finding{{inConfiguration + ".backends", fmt.Sprintf(
			"this %s names no backend, so that any could be used, which is not allowed in project %s: %s",
			s.kind, s.project, allowedOf(v, "set backends to", "backends"))}}
	}
	var found []finding
	for _, backend := range s.backends {
		if !allows(v, backend.name) {
			found = append(found, finding{backend.String(), fmt.Sprintf("backend %s is not allowed in project %s: %s",
				quote(backend.name), s.project, allowedOf(v, "use only", "backends"))})
		}
	}
	return found
}

// allows tells whether a name is in the list of a value that allows one.
func allows(v isolation.Value, name string) bool {
	if v.Mode != isolation.ModeAllowedList {
		return false
	}
	for _, allowed := range v.List {
		if allowed == name {
			return true
		}
	}
	return false
}

// allowedOf says what to do where only the list of a value is allowed.
func allowedOf(v isolation.Value, remedy, what string) string {
	if v.Mode != isolation.ModeAllowedList || len(v.List) == 0 {
		return fmt.Sprintf("none of the %s is, ask the administrator to allow some", what)
	}
	return remedy + " " + list(quoted(v.List), maxPaths, what)
}

func quoted(words []string) []string {
	all := make([]string, len(words))
	for i, word := range words {
		all[i] = quote(word)
	}
	return all
}
