package expression

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

// Request is what the expressions of one decision are about, and what they may
// still cost.
type Request struct {
	object        ref.Val
	user, project types.String
	offer         types.Bool
	left          uint64
}

// Asker is who asks, and for what.
type Asker struct {
	// User applies the object to the Project.
	User, Project string
	// Offer tells that nothing is to start: the request is for offers.
	Offer bool
}

// NewRequest decodes a specification for the expressions of one decision. An
// error never quotes the specification.
func NewRequest(spec []byte, by Asker) (*Request, error) {
	object, err := decode(spec)
	if err != nil {
		return nil, err
	}
	return &Request{
		object: object, user: types.String(by.User), project: types.String(by.Project), offer: types.Bool(by.Offer),
		left: decisionLimit,
	}, nil
}

// Refilled is the same request with all that a decision may cost. What an audit
// evaluates must not change what is refused.
func (r *Request) Refilled() *Request {
	other := *r
	other.left = decisionLimit
	return &other
}

// Holds evaluates an expression. An error means that it could not be, and
// never quotes the specification.
func (r *Request) Holds(p *Program) (bool, error) {
	switch {
	case p.err != nil:
		return false, p.err
	case r.left == 0:
		return false, errDecisionLimit
	}
	value, details, err := p.program.Eval(activation{r})
	cost := evaluationLimit
	if details != nil && details.ActualCost() != nil {
		cost = *details.ActualCost()
	}
	r.left -= min(r.left, cost)
	if err != nil {
		return false, describeFailure(p.text, err)
	}
	holds, isBool := value.(types.Bool)
	if !isBool {
		return false, errOther
	}
	return bool(holds), nil
}

// activation gives a request's values to CEL, by the names of the variables.
type activation struct{ *Request }

// ResolveName returns the value of a variable.
func (a activation) ResolveName(name string) (any, bool) {
	switch name {
	case variableObject:
		return a.object, true
	case variableUser:
		return a.user, true
	case variableProject:
		return a.project, true
	case variableOffer:
		return a.offer, true
	}
	return nil, false
}

// Parent returns nil: there are no other variables.
func (activation) Parent() cel.Activation { return nil }
