package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxDepth is how deep a body may be nested. dstack's own specifications stay
	// below 12. It bounds all recursion.
	maxDepth = 64
	// maxKeys is how many keys an object may have that is read key by key. dstack's
	// have fewer than 60.
	maxKeys = 1024
	// maxEntries is how many volumes or groups a run may have, and maxProblems
	// how many problems are told of one. They bound the work of one decision.
	maxEntries  = 256
	maxProblems = 256
)

// tooDeep tells whether objects and arrays are nested deeper than maxDepth. It
// is asked before any decoder, whose errors cost more the deeper they occur.
func tooDeep(b []byte) bool {
	if bytes.Count(b, []byte("{"))+bytes.Count(b, []byte("[")) <= maxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// decoder is a decoder that is used again: the tables in which it keeps the
// names of an object are most of what a decision allocates.
type decoder struct {
	json  *jsontext.Decoder
	bytes bytes.Buffer
}

var decoders = sync.Pool{New: func() any { return &decoder{json: jsontext.NewDecoder(bytes.NewReader(nil))} }}

// decode reads all of b with read, as RFC 7493 asks: UTF-8, no name twice in an
// object, nothing after the value. What read gets must not be used after it.
func decode(b []byte, read func(*jsontext.Decoder) error, opts ...jsontext.Options) error {
	d := decoders.Get().(*decoder)
	d.bytes = *bytes.NewBuffer(b)
	d.json.Reset(&d.bytes, opts...)
	err := read(d.json)
	if err == nil {
		err = atEnd(d.json)
	}
	// Bodies hold secrets: none is kept.
	d.bytes = bytes.Buffer{}
	d.json.Reset(&d.bytes)
	decoders.Put(d)
	return err
}

// atEnd tells that nothing follows the value that was read.
func atEnd(dec *jsontext.Decoder) error {
	_, err := dec.ReadToken()
	switch {
	case err == nil:
		return errTrailing
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

var (
	errTrailing    = errors.New("something follows the value")
	errTooManyKeys = errors.New("too many keys in one object")
)

// describe says what is wrong with JSON and where, without quoting from it:
// what stands there may be a secret.
func describe(err error) string {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		if name := duplicateOf(err); name != "" {
			return fmt.Sprintf("has the key %s twice in one object", name)
		}
		return "has a key twice in one object"
	}
	switch {
	case errors.Is(err, errTrailing):
		return "is followed by something else"
	case errors.Is(err, errTooManyKeys):
		return fmt.Sprintf("has more than %d keys in one object", maxKeys)
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Sprintf("is not valid JSON in UTF-8 at byte %d", syntactic.ByteOffset)
	}
	return "is not valid JSON: it ends too early"
}

// duplicateOf is the name that stands twice, if it is one of dstack's keys.
func duplicateOf(err error) string {
	syntactic, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok {
		return ""
	}
	return knownKeys[syntactic.JSONPointer.LastToken()]
}

// members reads an object and calls read with each name; read must read the
// value. Names come without escapes, as dstack sees them.
func members(dec *jsontext.Decoder, read func(name string) error) error {
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for n := 0; dec.PeekKind() != '}'; n++ {
		if n == maxKeys {
			return errTooManyKeys
		}
		quoted, err := dec.ReadValue()
		if err != nil {
			return err
		}
		name, err := unquoteName(quoted)
		if err != nil {
			return err
		}
		if err := read(name); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// unquoteName decodes a name, and hands out known ones without allocating.
func unquoteName(quoted jsontext.Value) (string, error) {
	if known, ok := knownKeys[string(quoted[1:len(quoted)-1])]; ok {
		return known, nil
	}
	return unquote(quoted)
}

func unquote(quoted jsontext.Value) (string, error) {
	b, err := jsontext.AppendUnquote(nil, quoted)
	return string(b), err
}

// kindName is a JSON value's kind as messages name it.
func kindName(kind jsontext.Kind) string {
	switch kind {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "a list"
	}
	return "nothing"
}

// variantOf is the known key that name differs from in case only, or "".
// dstack's keys are all of a-z, 0-9 and _, so that whatever consists of these
// is no variant.
func variantOf(name string) string {
	plain := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
	}) < 0
	if plain {
		return ""
	}
	// Up and down again folds what has no lower case of its own.
	return knownKeys[strings.ToLower(strings.ToUpper(name))]
}
