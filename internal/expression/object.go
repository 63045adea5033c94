package expression

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// Bounds of a specification that rules are asked about. A real one has 2 to 20
// kB, fewer than 300 values and fewer than 60 keys in an object. CEL counts
// some calls after they were made: these bounds hold what one of them can cost.
const (
	maxSpecBytes = 64 << 10
	maxValues    = 8192
	maxEntries   = 1024
	maxDepth     = 64
)

var (
	errTooLarge = fmt.Errorf("the specification is larger than the %d bytes that rules can be asked about", maxSpecBytes)
	errTooMany  = fmt.Errorf("the specification has more than the %d values, or more than the %d entries in one list or object, that rules can be asked about", maxValues, maxEntries)
	errTooDeep  = fmt.Errorf("the specification is nested deeper than the %d levels that rules can be asked about", maxDepth)
	errNumber   = errors.New("the specification has a number that is too large for rules")
	errNotJSON  = errors.New("the specification is not valid JSON")
)

// object is a JSON object whose keys are walked in order: Go's own order
// differs each time, and with it a decision might.
type object struct {
	traits.Mapper
	keys []string
}

// Iterator walks the keys.
func (o *object) Iterator() traits.Iterator {
	return types.NewStringList(types.DefaultTypeAdapter, o.keys).Iterator()
}

// decode reads JSON as the API server does for its own CEL: a number without
// fraction and exponent is an int if it fits into one, every other is a double.
func decode(spec []byte) (ref.Val, error) {
	if len(spec) > maxSpecBytes {
		return nil, errTooLarge
	}
	d := decoder{json: jsontext.NewDecoder(bytes.NewReader(spec))}
	value, err := d.value(0)
	if err != nil {
		return nil, withoutQuotes(err)
	}
	if d.json.PeekKind() != jsontext.KindInvalid {
		return nil, errNotJSON
	}
	return value, nil
}

// withoutQuotes keeps only errors of this package: those of the decoder can
// quote keys.
func withoutQuotes(err error) error {
	for _, own := range []error{errTooMany, errTooDeep, errNumber} {
		if errors.Is(err, own) {
			return own
		}
	}
	return errNotJSON
}

type decoder struct {
	json   *jsontext.Decoder
	values int
}

func (d *decoder) value(depth int) (ref.Val, error) {
	if d.values++; d.values > maxValues {
		return nil, errTooMany
	}
	if depth > maxDepth {
		return nil, errTooDeep
	}
	token, err := d.json.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case 'n':
		return types.NullValue, nil
	case 't', 'f':
		return types.Bool(token.Bool()), nil
	case '"':
		return types.String(token.String()), nil
	case '0':
		return number(token.String())
	case '{':
		return d.object(depth)
	case '[':
		return d.list(depth)
	}
	return nil, errNotJSON
}

func number(text string) (ref.Val, error) {
	if !strings.ContainsAny(text, ".eE") {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return types.Int(n), nil
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, errNumber
	}
	return types.Double(f), nil
}

func (d *decoder) object(depth int) (ref.Val, error) {
	members := make(map[string]any)
	var keys []string
	for d.json.PeekKind() != '}' {
		if len(keys) == maxEntries {
			return nil, errTooMany
		}
		token, err := d.json.ReadToken()
		if err != nil {
			return nil, err
		}
		key := token.String()
		if members[key], err = d.value(depth + 1); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if _, err := d.json.ReadToken(); err != nil {
		return nil, err
	}
	slices.Sort(keys)
	return &object{Mapper: types.NewStringInterfaceMap(types.DefaultTypeAdapter, members), keys: keys}, nil
}

func (d *decoder) list(depth int) (ref.Val, error) {
	var entries []ref.Val
	for d.json.PeekKind() != ']' {
		if len(entries) == maxEntries {
			return nil, errTooMany
		}
		entry, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	if _, err := d.json.ReadToken(); err != nil {
		return nil, err
	}
	return types.NewRefValList(types.DefaultTypeAdapter, entries), nil
}
