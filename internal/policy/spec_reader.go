package policy

import (
	"github.com/go-json-experiment/json/jsontext"
)

// specReader reads what the specifications of fleets, volumes and gateways have
// in common. It asks for the keys of each object and finds those that are not
// known.
type specReader struct {
	reader
	hasConfiguration, hasType bool
}

// configuration reads spec.configuration, each of its keys with member.
func (r *specReader) configuration(at place, member func(place) error) error {
	if kind := r.dec.PeekKind(); kind != '{' {
		return r.wrong(at, kind, "write an object")
	}
	r.hasConfiguration = true
	return r.keys(at, member)
}

// kind reads configuration.type, of which there is only one for each kind of
// object.
func (r *specReader) kind(at place, want string) error {
	r.hasType = true
	kind, isString, err := r.text(at, "write "+want)
	if isString && kind != want {
		r.problem(at, "is %s, which is not known to this release; write %s", quote(kind), want)
	}
	return err
}

// complete judges what only the whole specification can tell.
func (r *specReader) complete(kind string) {
	configuration := place{index: -1, key: inConfiguration}
	switch {
	case r.hasConfiguration && !r.hasType:
		r.problem(inConfig("type"), "is missing; it is %s", kind)
	case !r.hasConfiguration && !r.hasProblem(configuration):
		r.problem(configuration, "is missing")
	}
}

// keys reads an object and calls read with the place of each of its keys; read
// must read the value.
func (r *specReader) keys(at place, read func(place) error) error {
	in := at
	if at.key != "" || at.index < 0 {
		in = place{object: at.String(), index: -1}
	}
	return members(r.dec, func(name string) error {
		in.key = name
		return read(in)
	})
}

// object is keys for a value that may be null.
func (r *specReader) object(at place, read func(place) error) error {
	switch kind := r.dec.PeekKind(); kind {
	case '{':
		return r.keys(at, read)
	case 'n':
		return r.skip(at)
	default:
		return r.wrong(at, kind, "write an object")
	}
}

// known passes over a value that no rule reads, and finds what is not known in
// it or not known itself.
func (r *specReader) known(at place, known keys) error {
	if n, ok := known[at.key]; ok {
		return r.tree(at, n.below)
	}
	return r.unknown(at)
}

func (r *specReader) tree(at place, known keys) error {
	kind := r.dec.PeekKind()
	switch {
	case known == nil:
		return r.plain(at)
	case kind == '{':
		return r.keys(at, func(in place) error { return r.known(in, known) })
	case kind == '[':
		return r.list(at, at.String(), func(in place) error {
			if r.dec.PeekKind() != '{' {
				return r.plain(at)
			}
			return r.keys(in, func(in place) error { return r.known(in, known) })
		})
	}
	return r.skip(at)
}

// plain passes over a text, a number, or a list of them. An object in it makes
// the key unknown.
func (r *specReader) plain(at place) error {
	raw, err := r.dec.ReadValue()
	if err != nil || !hasObject(raw) {
		return err
	}
	return r.unknownValue(at, raw, holdsObject)
}

// unknown passes over the value of a key that this release does not know, which
// may itself be what a rule reads, in a place where no release of dstack has it
// so far.
func (r *specReader) unknown(at place) error {
	r.checkName(at)
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	kind := raw.Kind()
	switch at.key {
	case "instance_path":
		r.problem(at, "is in a place that is not known to this release; remove it")
	case "privileged", "docker":
		if kind != 'n' && kind != 'f' && len(r.shared.flags) < maxProblems {
			r.shared.flags = append(r.shared.flags, at)
		}
	}
	return r.unknownValue(at, raw, notKnown)
}

func (r *specReader) unknownValue(at place, raw jsontext.Value, why string) error {
	r.unknownField(raw, why, func() place {
		shown := at
		shown.key = label(at.key)
		return shown
	})
	return r.search(raw, at)
}

// backend reads the name of a backend.
func (r *specReader) backend(at place, into *[]named) error {
	name, isString, err := r.text(at, "write the name of a backend")
	if isString {
		*into = append(*into, named{at, name})
	}
	return err
}

// oneBackend reads the backend of a volume or a gateway, which cannot be
// without.
func (r *specReader) oneBackend(at place) error { return r.backend(at, &r.shared.backends) }

// completeBackend tells of a specification without oneBackend.
func (r *specReader) completeBackend() {
	at := inConfig("backend")
	if r.hasConfiguration && len(r.shared.backends) == 0 && !r.hasProblem(at) {
		r.problem(at, "is missing; write the name of a backend")
	}
}
