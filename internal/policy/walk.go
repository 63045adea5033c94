package policy

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// membersOf reads an object and calls read with each of its members that is
// known; read must read the value. What is not known it finds.
func (r *reader) membersOf(known object, read func(member) error) error {
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for n := 0; r.dec.PeekKind() != '}'; n++ {
		if n == maxKeys {
			return errTooManyKeys
		}
		quoted, err := r.dec.ReadValue()
		if err != nil {
			return err
		}
		m, found := known[string(quoted[1:len(quoted)-1])]
		if !found {
			name, err := unquote(quoted)
			if err != nil {
				return err
			}
			if m, found = known[name]; !found {
				if err := r.unknown(name); err != nil {
					return err
				}
				continue
			}
		}
		if err := read(m); err != nil {
			return err
		}
	}
	_, err := r.dec.ReadToken()
	return err
}

// walk passes over a value that no rule reads, and finds what is not known in it
// or what hides in it.
func (r *reader) walk(below object) error {
	kind := r.dec.PeekKind()
	switch {
	case kind != '{' && kind != '[':
		_, err := r.dec.ReadValue()
		return err
	case below == nil:
		return r.leaf()
	case kind == '{':
		return r.membersOf(below, func(m member) error { return r.walk(m.below) })
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for r.dec.PeekKind() != ']' {
		if err := r.walk(below); err != nil {
			return err
		}
	}
	_, err := r.dec.ReadToken()
	return err
}

// leaf passes over a text, a number, or a list of them. An object in it is
// something that no known version of dstack has there.
func (r *reader) leaf() error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	if hasObject(raw) {
		r.unknownField(raw, holdsObject, r.here)
	}
	if hides(raw) {
		return r.searchHidden(raw, r.here)
	}
	return nil
}

// unknownField finds a value that this release does not know, if it carries
// something. Where it stands is asked for only then.
func (r *reader) unknownField(raw jsontext.Value, why string, at func() place) {
	if len(r.shared.unknown) < maxProblems && carriesValue(raw) {
		r.shared.unknown = append(r.shared.unknown, unknownField{at(), why})
	}
}

// unknown reads the value of a key that this release does not know in the
// object that it is in. Where it stands is worked out only for what is told of:
// a hostile specification has many.
func (r *reader) unknown(name string) error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	if variant := variantOf(name); variant != "" && len(r.problems) < maxProblems {
		at := r.here()
		at.key = variant
		r.problem(at, anotherCase)
	}
	r.unknownField(raw, notKnown, r.here)
	switch name {
	case "privileged", "docker", "instance_path":
		r.hiddenValue(name, raw.Kind(), func() place {
			at := r.here()
			return place{object: at.object, index: at.index}
		})
	}
	if !hides(raw) {
		return nil
	}
	return r.searchHidden(raw, r.here)
}

// here is the place of what was read last, its names fit to be shown.
func (r *reader) here() place {
	at := place{index: -1}
	level := 0
	for token := range r.dec.StackPointer().Tokens() {
		level++
		if kind, _ := r.dec.StackIndex(level); kind == '[' {
			index, err := strconv.Atoi(token)
			if err != nil {
				index = 0 // positions in a list are numbers
			}
			at = place{object: at.String(), index: index}
			continue
		}
		if at.index < 0 || at.key != "" {
			at = place{object: at.String(), index: -1}
		}
		at.key = label(token)
	}
	return at
}

// signs are what a value has in it that may hide something: a name, or an
// escape, in which any name can be written.
var signs = [][]byte{[]byte(`"privileged"`), []byte(`"docker"`), []byte(`"instance_path"`), []byte(`\u`)}

// hides tells whether a value may hide what a rule reads.
func hides(raw jsontext.Value) bool {
	const shortest = len(`{"docker":1}`)
	if kind := raw.Kind(); kind != '{' && kind != '[' || len(raw) < shortest {
		return false
	}
	return slices.ContainsFunc(signs, func(sign []byte) bool { return bytes.Contains(raw, sign) })
}

// searchHidden looks at every depth for keys that rules read, in places where no
// release of dstack has them so far, and judges them as elsewhere. at is asked
// for the place of the value only when something is found.
func (r *reader) searchHidden(raw jsontext.Value, at func() place) error {
	return decode(raw, func(dec *jsontext.Decoder) error { return r.hidden(dec, at) })
}

func (r *reader) hidden(dec *jsontext.Decoder, at func() place) error {
	switch dec.PeekKind() {
	case '{':
		return members(dec, func(name string) error {
			switch name {
			case "privileged", "docker", "instance_path":
				raw, err := dec.ReadValue()
				if err == nil {
					r.hiddenValue(name, raw.Kind(), func() place { return place{object: at().String(), index: -1} })
				}
				return err
			}
			return r.hidden(dec, at)
		})
	case '[':
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		for dec.PeekKind() != ']' {
			if err := r.hidden(dec, at); err != nil {
				return err
			}
		}
		_, err := dec.ReadToken()
		return err
	}
	_, err := dec.ReadValue()
	return err
}

// hiddenValue judges a key that a rule reads, in the object at a place that is
// not known.
func (r *reader) hiddenValue(key string, kind jsontext.Kind, object func() place) {
	switch {
	case key == "instance_path":
		if len(r.problems) < maxProblems {
			at := object()
			at.key = key
			r.problem(at, "is in a place that is not known to this release; remove it")
		}
	case kind != 'n' && kind != 'f' && len(r.shared.flags) < maxProblems:
		at := object()
		at.key = key
		r.shared.flags = append(r.shared.flags, at)
	}
}
