package policy

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// membersOf reads an object and calls read with each name that is known, and
// with what is below it; read must read the value. What is not known it finds.
func (r *reader) membersOf(known object, read func(name string, below object) error) error {
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
		if err := read(m.name, m.below); err != nil {
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
		raw, err := r.dec.ReadValue()
		if err == nil && hides(raw) {
			return r.searchHidden(raw, r.here)
		}
		return err
	case kind == '{':
		return r.membersOf(below, func(_ string, below object) error { return r.walk(below) })
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
	if len(r.shared.unknown) < maxProblems && carriesValue(raw) {
		r.shared.unknown = append(r.shared.unknown, r.here())
	}
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

// carriesValue tells whether a value, which must be valid, is anything but null,
// false, 0, "", [], {} and trees of those. A newer dstack sends its new fields
// with such values when the user left them out.
func carriesValue(raw jsontext.Value) bool {
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == 't':
			return true
		case c == '"':
			end := endOfString(raw, i)
			isName := bytes.HasPrefix(bytes.TrimLeft(raw[end:], " \t\r\n"), []byte(":"))
			if !isName && end-i > len(`""`) {
				return true
			}
			i = end - 1
		case '0' <= c && c <= '9':
			end, isZero := number(raw, i)
			if !isZero {
				return true
			}
			i = end - 1
		}
	}
	return false
}

// number is the position after the number that has a digit at start, and
// whether it is 0, whatever its exponent.
func number(raw []byte, start int) (end int, isZero bool) {
	mantissa := start
	for ; mantissa < len(raw) && (raw[mantissa] == '.' || '0' <= raw[mantissa] && raw[mantissa] <= '9'); mantissa++ {
		if raw[mantissa] > '0' {
			return mantissa, false
		}
	}
	rest := bytes.TrimLeft(raw[mantissa:], "eE+-0123456789")
	return len(raw) - len(rest), true
}

// endOfString is the position after the string that begins at start.
func endOfString(raw []byte, start int) int {
	for i := start + 1; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw)
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
