package policy

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

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

// hasObject tells whether a value is an object or a list with one in it.
func hasObject(raw jsontext.Value) bool {
	kind := raw.Kind()
	return kind == '{' || kind == '[' && opensObject(raw)
}

// hasObjectBelow tells whether an object holds another one, or is none.
func hasObjectBelow(raw jsontext.Value) bool {
	return raw.Kind() == '{' && opensObject(raw[1:])
}

// opensObject tells whether an object begins in a part of valid JSON that does
// not begin within a text.
func opensObject(b []byte) bool {
	if bytes.IndexByte(b, '{') < 0 {
		return false
	}
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i = endOfString(b, i) - 1
		case '{':
			return true
		}
	}
	return false
}
