package policy

import (
	"bytes"
	"strconv"
	"strings"

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

// flag reads privileged or docker. What is neither null nor a boolean counts as
// set: dstack takes 1 and "true" for true.
func (r *reader) flag(at place) error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	switch kind := raw.Kind(); kind {
	case 'n', 'f':
		return nil
	case 't':
	default:
		r.problem(at, "is %s; write true or false", kindName(kind))
	}
	r.shared.flags = append(r.shared.flags, at)
	return nil
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

// freeForm passes over a map whose keys are the user's own.
func (r *reader) freeForm(at place) error {
	if kind := r.dec.PeekKind(); kind != '{' && kind != 'n' {
		return r.wrong(at, kind, "write an object")
	}
	_, err := r.dec.ReadValue()
	return err
}

// rest passes over a value that no rule reads, unless it hides what one reads.
func (r *reader) rest(at place) error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	return r.search(raw, at)
}

// unknownField is rest for a field that this release does not know.
func (r *reader) unknownField(at place) error {
	r.checkName(at)
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	if carriesValue(raw) && len(r.shared.unknown) < maxProblems {
		r.shared.unknown = append(r.shared.unknown, at)
	}
	return r.search(raw, at)
}

// carriesValue tells whether a value is anything but null, false, 0, "", [], {}
// and trees of those. A newer dstack sends its new fields with such values when
// the user left them out.
func carriesValue(raw jsontext.Value) bool {
	carries := false
	err := decode(raw, func(dec *jsontext.Decoder) error {
		for !carries && dec.PeekKind() != jsontext.KindInvalid {
			kind, length := dec.StackIndex(dec.StackDepth())
			isName := kind == '{' && length%2 == 0
			token, err := dec.ReadToken()
			if err != nil {
				return err
			}
			switch token.Kind() {
			case 't':
				carries = true
			case '"':
				carries = !isName && token.String() != ""
			case '0':
				mantissa, _, _ := strings.Cut(strings.ToLower(token.String()), "e")
				carries = strings.ContainsAny(mantissa, "123456789")
			}
		}
		return nil
	})
	return carries || err != nil
}

func (r *reader) search(raw jsontext.Value, at place) error {
	if k := raw.Kind(); k != '{' && k != '[' {
		return nil
	}
	for _, sign := range [][]byte{[]byte(`"privileged"`), []byte(`"docker"`), []byte(`"instance_path"`), []byte(`\u`)} {
		if bytes.Contains(raw, sign) {
			return r.searchHidden(raw, at)
		}
	}
	return nil
}

func (r *reader) searchHidden(raw jsontext.Value, at place) error {
	at.key = label(at.key)
	return decode(raw, func(dec *jsontext.Decoder) error { return r.hidden(dec, at) })
}

// hidden looks at every depth for keys that rules read, in places where no
// release of dstack has them so far, and judges them as elsewhere.
func (r *reader) hidden(dec *jsontext.Decoder, at place) error {
	switch dec.PeekKind() {
	case '{':
		return members(dec, func(name string) error {
			switch name {
			case "privileged", "docker", "instance_path":
				return r.hiddenKey(dec, place{object: at.String(), index: -1, key: name})
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

func (r *reader) hiddenKey(dec *jsontext.Decoder, at place) error {
	raw, err := dec.ReadValue()
	if err != nil {
		return err
	}
	kind := raw.Kind()
	switch {
	case at.key == "instance_path":
		r.problem(at, "is in a place that is not known to this release; remove it")
	case kind != 'n' && kind != 'f' && len(r.shared.flags) < maxProblems:
		r.shared.flags = append(r.shared.flags, at)
	}
	return nil
}

// checkName refuses a name that only looks like a key of dstack's.
func (r *reader) checkName(at place) {
	if known := variantOf(at.key); known != "" {
		at.key = known
		r.problem(at, "is written in another case")
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
