package status

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// IsAside tells the conditions that Ready, Reconciling and Stalled leave out: what
// they are about is in force, and somebody should look at it.
func IsAside(condition string) bool {
	return condition == v1alpha1.ConditionProfilesAccepted || condition == v1alpha1.ConditionExceptionsCurrent
}

// profilesAccepted tells whether all profiles of the server are accepted. e is nil
// while they are not known.
func profilesAccepted(e *isolation.Effective) Finding {
	if e == nil {
		return pending()
	}
	reason := ""
	var wrong []string
	for _, p := range e.Profiles {
		if len(p.Problems) == 0 {
			continue
		}
		worst := worstOf(p.Problems)
		wrong = append(wrong, fmt.Sprintf("%s (%s)", clipTo(p.Name, 100), worst.Field))
		if reason == "" || worst.Rule || reason == v1alpha1.ReasonInvalidException {
			reason = reasonOf(worst)
		}
	}
	n := len(e.Profiles)
	switch {
	case len(wrong) > 0:
		are := "are"
		if len(wrong) == 1 {
			are = "is"
		}
		return Waiting(reason, fmt.Sprintf("%d of %s %s not accepted: %s: see condition Accepted of each",
			len(wrong), counted(n, "profile"), are, firstOf(wrong)))
	case n == 0:
		return OK(v1alpha1.ReasonAccepted, "no profile names this DstackServer")
	case n == 1:
		return OK(v1alpha1.ReasonAccepted, "the only profile is accepted")
	}
	return OK(v1alpha1.ReasonAccepted, fmt.Sprintf("all %d profiles are accepted", n))
}

// worstOf is the problem that refuses most: that of a rule, else one that is not of
// an exception, else the first.
func worstOf(problems []isolation.Problem) isolation.Problem {
	worst := problems[0]
	for _, p := range problems {
		if p.Rule && !worst.Rule || worst.Exception && !p.Exception {
			worst = p
		}
	}
	return worst
}

func reasonOf(p isolation.Problem) string {
	switch {
	case p.Rule:
		return v1alpha1.ReasonRulesInvalid
	case p.Exception:
		return v1alpha1.ReasonInvalidException
	}
	return v1alpha1.ReasonInvalidSpec
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
