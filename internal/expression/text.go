package expression

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/interpreter"
)

const (
	// maxIssues is how many errors of one expression are told, and maxIssue how
	// long each may be, in characters.
	maxIssues = 3
	maxIssue  = 200
)

// ErrCost matches the errors of Holds for an expression that was cut off for
// what it costs. Every other error is about a value that it met.
var ErrCost = errors.New("the expression costs too much")

type costError string

// Error tells what cost too much.
func (e costError) Error() string { return string(e) }

// Is matches ErrCost.
func (e costError) Is(target error) bool { return target == ErrCost }

var (
	errEvaluationLimit = costError("it costs more than one evaluation may: look at less of the object, or write a rule for each part")
	errDecisionLimit   = costError("all rules together cost more than one decision may: write fewer or simpler ones")
	errNoOverload      = errors.New("a value is of another type than an operator or function in it takes: test it first, as in != null")
	errIndex           = errors.New("an index is out of range: test size() first")
	errArithmetic      = errors.New("a number is divided by zero or out of range")
	errConversion      = errors.New("a value cannot be converted to the type that is asked for")
	errOther           = errors.New("CEL reports an error that may quote the object, so it is not shown: try the expression on a specification")
)

// describeIssues tells the first errors of an expression in one line.
func describeIssues(all []*cel.Error) string {
	var told []string
	for _, issue := range all[:min(len(all), maxIssues)] {
		message := oneLine(strings.TrimSuffix(issue.Message, " (in container '')"))
		if line := issue.Location.Line(); line > 0 {
			message = fmt.Sprintf("line %d, column %d: %s", line, issue.Location.Column()+1, message)
		}
		told = append(told, message)
	}
	if more := len(all) - len(told); more > 0 {
		told = append(told, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, "; ")
}

// oneLine bounds a text and leaves out control characters.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), " ")
	if r := []rune(s); len(r) > maxIssue {
		s = string(r[:maxIssue]) + "…"
	}
	return s
}

// describeFailure tells why an expression could not be evaluated. CEL's own
// words quote what it met, which may be the value of a variable of the
// environment; of those only what stands in the expression is repeated.
func describeFailure(expression string, err error) error {
	if cancelled, ok := errors.AsType[interpreter.EvalCancelledError](err); ok && cancelled.Cause == interpreter.CostLimitExceeded {
		return errEvaluationLimit
	}
	message := err.Error()
	if key, found := strings.CutPrefix(message, "no such key: "); found {
		if isName(key) && strings.Contains(expression, key) {
			return fmt.Errorf("the object has no key %s there: test it first with has()", key)
		}
		return errors.New("the object has no key that it looks for: test it first with has()")
	}
	for _, known := range []struct {
		sign string
		err  error
	}{
		{"no such overload", errNoOverload},
		{"expected iterable type", errNoOverload},
		{"unsupported index type", errNoOverload},
		{"index out of bounds", errIndex},
		{"out of range in list size", errIndex},
		{"by zero", errArithmetic},
		{"overflow", errArithmetic},
		{"NaN values", errArithmetic},
		{"type conversion error", errConversion},
	} {
		if strings.Contains(message, known.sign) {
			return known.err
		}
	}
	return errOther
}

// isName tells whether a key looks like one of dstack's.
func isName(key string) bool {
	return key != "" && len(key) <= 60 && strings.IndexFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) < 0
}
