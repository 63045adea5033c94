package policy

import (
	"bytes"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// list reads null or a list of at most maxEntries.
func (r *reader) list(at place, path string, entry func(place) error) error {
	return r.longList(at, path, maxEntries, entry)
}

// longList is list with another bound.
func (r *reader) longList(at place, path string, most int, entry func(place) error) error {
	switch kind := r.dec.PeekKind(); kind {
	case '[':
	case 'n':
		_, err := r.dec.ReadValue()
		return err
	default:
		return r.wrong(at, kind, "write a list")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for i := 0; r.dec.PeekKind() != ']'; i++ {
		if i == most {
			r.problem(at, "has more than %d entries", most)
		}
		read := entry
		if i >= most {
			read = r.skip
		}
		if err := read(place{object: path, index: i}); err != nil {
			return err
		}
	}
	_, err := r.dec.ReadToken()
	return err
}

func (r *reader) skip(place) error {
	_, err := r.dec.ReadValue()
	return err
}

// flag reads privileged or docker.
func (r *reader) flag(at place) error {
	set, err := r.isSet(at)
	if set {
		r.shared.flags = append(r.shared.flags, at)
	}
	return err
}

// isSet reads a boolean or null. What is neither counts as set: dstack takes 1
// and "true" for true.
func (r *reader) isSet(at place) (bool, error) {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return false, err
	}
	switch kind := raw.Kind(); kind {
	case 'n', 'f':
		return false, nil
	case 't':
	default:
		r.problem(at, "is %s; write true or false", kindName(kind))
	}
	return true, nil
}

// count reads a number of nodes; null is none.
func (r *reader) count(at place, into *int) error {
	const most = 1_000_000
	raw, err := r.dec.ReadValue()
	if err != nil || raw.Kind() == 'n' {
		return err
	}
	n, err := strconv.Atoi(string(raw))
	switch {
	case raw.Kind() != '0':
		r.problem(at, "is %s; write a whole number", kindName(raw.Kind()))
	case err != nil || n < 1 || n > most:
		r.problem(at, "is not a whole number from 1 to %d", most)
	default:
		*into = n
	}
	return nil
}

// text reads a string; anything else is a problem.
func (r *reader) text(at place, remedy string) (s string, isString bool, err error) {
	if kind := r.dec.PeekKind(); kind != '"' {
		return "", false, r.wrong(at, kind, remedy)
	}
	raw, err := r.dec.ReadValue()
	if err != nil {
		return "", false, err
	}
	s, err = unquote(raw)
	return s, err == nil, err
}

// freeForm reads a map whose keys are the user's own, or null.
func (r *reader) freeForm(at place) (jsontext.Value, error) {
	if kind := r.dec.PeekKind(); kind != '{' && kind != 'n' {
		return nil, r.wrong(at, kind, "write an object")
	}
	return r.dec.ReadValue()
}

// hasKeys tells whether a map has any.
func hasKeys(raw jsontext.Value) bool { return bytes.IndexByte(raw, '"') >= 0 }

// tags reads a map of tags. Those of a profile count also where tags of the
// configuration replace them: to refuse too many of them harms nobody.
func (r *reader) tags(at place) error {
	raw, err := r.freeForm(at)
	if hasKeys(raw) {
		r.shared.tags = append(r.shared.tags, at)
	}
	if hasObjectBelow(raw) {
		r.unknownField(raw, holdsObject, func() place { return at })
	}
	return err
}

// search looks for what hides in a value that no rule reads.
func (r *reader) search(raw jsontext.Value, at place) error {
	if !hides(raw) {
		return nil
	}
	at.key = label(at.key)
	return r.searchHidden(raw, func() place { return at })
}

const anotherCase = "is written in another case"

// checkName refuses a name that only looks like a key of dstack's.
func (r *reader) checkName(at place) {
	if known := variantOf(at.key); known != "" {
		at.key = known
		r.problem(at, anotherCase)
	}
}

// wrong passes over a value of a kind that is not expected.
func (r *reader) wrong(at place, got jsontext.Kind, remedy string) error {
	if _, err := r.dec.ReadValue(); err != nil {
		return err
	}
	r.problem(at, "is %s; %s", kindName(got), remedy)
	return nil
}
