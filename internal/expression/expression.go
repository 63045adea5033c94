// Package expression compiles and evaluates the expressions of rules: CEL in
// the environment of Kubernetes, about one specification.
//
// It is pure: the same expression and specification give the same result in
// every process. That is why the version of the environment is pinned, why maps
// are walked in the order of their keys, and why what an evaluation may cost is
// counted in units and not in time.
package expression

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"weak"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Environment names what expressions mean: the functions of CEL in this release
// of Kubernetes, the oldest that the operator supports, and the limits of this
// package. It is part of the policy revision.
const Environment = "kubernetes-1.33/2"

const (
	// MaxBytes is how long an expression may be, as in the API.
	MaxBytes = 4096
	// evaluationLimit is what one evaluation may cost, and decisionLimit what all
	// of one decision may, in units that take 0.1 to 0.5 µs.
	evaluationLimit uint64 = 100_000
	decisionLimit   uint64 = 200_000
)

// Variables that an expression can use.
const (
	variableObject  = "object"
	variableUser    = "user"
	variableProject = "project"
	variableOffer   = "offer"
)

// Program is a compiled expression, or one that does not compile. It is
// immutable and safe for concurrent use.
type Program struct {
	text    string
	program cel.Program
	err     error
}

// Err tells why the expression cannot be evaluated, with line and column where
// there are any; nil when it can.
func (p *Program) Err() error { return p.err }

// Compile compiles an expression, once as long as somebody holds the result: a
// policy is resolved anew at each change, and most of its expressions are those
// of the policy before. It never returns nil.
func Compile(text string) *Program {
	if p := held.find(text); p != nil {
		return p
	}
	return held.keep(compile(text))
}

// held are the programs that somebody holds, by their text. It holds none
// itself, so that it never outgrows the policies in use.
var held = programs{byText: make(map[string]weak.Pointer[Program])}

type programs struct {
	mu     sync.Mutex
	byText map[string]weak.Pointer[Program]
}

func (s *programs) find(text string) *Program {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byText[text].Value()
}

// keep returns p, or the equal program that came before it.
func (s *programs) keep(p *Program) *Program {
	s.mu.Lock()
	defer s.mu.Unlock()
	if earlier := s.byText[p.text].Value(); earlier != nil {
		return earlier
	}
	s.byText[p.text] = weak.Make(p)
	runtime.AddCleanup(p, s.forget, p.text)
	return p
}

func (s *programs) forget(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byText[text].Value() == nil {
		delete(s.byText, text)
	}
}

func compile(text string) *Program {
	program, err := build(text)
	return &Program{text: text, program: program, err: err}
}

// build refuses an expression that cannot hold a limit whatever it is asked
// about, so that its author learns it first.
func build(text string) (cel.Program, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("is longer than %d bytes", MaxBytes)
	}
	env, err := celEnvironment()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, errors.New(describeIssues(issues.Errors()))
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("line 1, column 1: is of type %s and not bool; compare it with a value, as in == true", ast.OutputType())
	}
	regexes, err := checkCalls(ast)
	if err != nil {
		return nil, err
	}
	program, err := env.Program(ast, cel.CostTracking(costs{regexes}), cel.CostLimit(evaluationLimit))
	if err != nil {
		return nil, errors.New(oneLine(err.Error()))
	}
	return program, nil
}

var celEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	always := version.MajorMinor(1, 0)
	set, err := environment.MustBaseEnvSet(version.MajorMinor(1, 33)).Extend(environment.VersionedOptions{
		IntroducedVersion: always,
		EnvOptions: []cel.EnvOption{
			cel.Variable(variableObject, cel.DynType),
			cel.Variable(variableUser, cel.StringType),
			cel.Variable(variableProject, cel.StringType),
			cel.Variable(variableOffer, cel.BoolType),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the environment of CEL: %w", err)
	}
	return set.NewExpressionsEnv(), nil
})
