package expression

import (
	"cmp"
	"fmt"
	"regexp/syntax"
	"slices"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
)

// maxRegexSize is how many instructions a regular expression may compile to: a
// repetition such as {1,500} is short to write and takes 500 times as long.
const maxRegexSize = 150

// unbounded are functions whose result can be far larger than what goes in. CEL
// counts their cost when the memory is spent already.
var unbounded = []string{"replace", "join", "format"}

// patterned are functions whose last argument is a regular expression.
var patterned = []string{"matches", "find", "findAll"}

// zoned are functions that can be asked for the time in a zone, whose rules are
// read from the machine.
var zoned = []string{
	"getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate", "getDayOfWeek",
	"getHours", "getMinutes", "getSeconds", "getMilliseconds",
}

// checkCalls refuses calls that no limit could hold once they are made, and
// returns the sizes of the regular expressions.
func checkCalls(checked *cel.Ast) (map[string]int, error) {
	native := checked.NativeRep()
	calls := ast.MatchDescendants(ast.NavigateAST(native), ast.KindMatcher(ast.CallKind))
	slices.SortFunc(calls, func(a, b ast.NavigableExpr) int { return cmp.Compare(a.ID(), b.ID()) })
	regexes := make(map[string]int)
	for _, expr := range calls {
		if wrong := checkCall(expr.AsCall(), regexes); wrong != "" {
			at := native.SourceInfo().GetStartLocation(expr.ID())
			return nil, fmt.Errorf("line %d, column %d: %s", at.Line(), at.Column()+1, wrong)
		}
	}
	return regexes, nil
}

// checkCall says what is wrong with a call, or "".
func checkCall(call ast.CallExpr, regexes map[string]int) string {
	name := call.FunctionName()
	if slices.Contains(unbounded, name) {
		return name + " is not offered in rules, because what it makes can be of any size"
	}
	args := call.Args()
	if slices.Contains(zoned, name) && len(args) > 0 {
		return name + " is not offered in rules for a time zone, because the zones of two machines can differ: count in UTC"
	}
	if !slices.Contains(patterned, name) || len(args) == 0 {
		return ""
	}
	pattern := args[0]
	if !call.IsMemberFunction() {
		pattern = args[len(args)-1]
	}
	if pattern.Kind() != ast.LiteralKind {
		return name + " needs its regular expression as a literal"
	}
	regex, _ := pattern.AsLiteral().Value().(string)
	size, err := regexSize(regex)
	switch {
	case err != nil:
		return "the regular expression is not valid"
	case size > maxRegexSize:
		return fmt.Sprintf("the regular expression is too large: it compiles to %d instructions, %d are allowed; compare lengths by size()", size, maxRegexSize)
	}
	regexes[regex] = size
	return ""
}

func regexSize(text string) (int, error) {
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, err
	}
	return len(program.Inst), nil
}
