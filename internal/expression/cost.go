package expression

import (
	"strings"

	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

const (
	// bytesPerUnit is how much text is read or written at the price of one unit,
	// and stepsPerUnit how many steps of a regular expression are taken for it.
	bytesPerUnit = 32
	stepsPerUnit = 32
)

// costs prices the calls of one expression. CEL's own prices are for objects
// with a schema: there equality of whole objects costs next to nothing, and so
// does a regular expression with large repetitions.
type costs struct {
	// regexes are the sizes of the regular expressions by their text.
	regexes map[string]int
}

// CallCost prices a call by what it reads and makes.
func (c costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	cost := uint64(1)
	for _, arg := range args {
		cost += textCost(arg)
	}
	cost += textCost(result)
	switch {
	case function == operators.Equals || function == operators.NotEquals || function == operators.In || function == operators.OldIn:
		cost += valuesIn(args...)
	case strings.HasPrefix(function, "sets."):
		product := uint64(1)
		for _, arg := range args {
			product *= valuesIn(arg)
		}
		cost += product
	case len(args) > 1 && c.regexes[text(args[1])] > 0:
		cost += uint64(len(text(args[0]))) * uint64(c.regexes[text(args[1])]) / stepsPerUnit
	case len(args) > 0 && walksList(function):
		cost += size(args[0])
	}
	return &cost
}

func walksList(function string) bool {
	switch function {
	case "isSorted", "sum", "max", "min", "indexOf", "lastIndexOf":
		return true
	}
	return false
}

func text(v ref.Val) string {
	s, _ := v.(types.String)
	return string(s)
}

// textCost prices the text of a value: none for what is no text, and for lists
// of text what they hold, as split makes them.
func textCost(v ref.Val) uint64 {
	switch v := v.(type) {
	case types.String:
		return uint64(len(v)) / bytesPerUnit
	case types.Bytes:
		return uint64(len(v)) / bytesPerUnit
	}
	return 0
}

func size(v ref.Val) uint64 {
	if sizer, ok := v.(traits.Sizer); ok {
		if n, ok := sizer.Size().(types.Int); ok {
			return uint64(n)
		}
	}
	return 1
}

// valuesIn counts values with all that is in them, as a comparison may visit
// them, up to the limit of an evaluation.
func valuesIn(all ...ref.Val) uint64 {
	counter := counter{left: evaluationLimit}
	for _, v := range all {
		counter.count(v)
	}
	return evaluationLimit - counter.left
}

type counter struct{ left uint64 }

func (c *counter) count(v ref.Val) {
	if c.left == 0 {
		return
	}
	c.left--
	switch v := v.(type) {
	case traits.Mapper:
		for it := v.Iterator(); it.HasNext() == types.True && c.left > 0; {
			value, _ := v.Find(it.Next())
			c.count(value)
		}
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True && c.left > 0; {
			c.count(it.Next())
		}
	}
}
