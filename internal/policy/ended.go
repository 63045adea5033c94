package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// maxEnded bounds, in characters, what a refusal says of exceptions that ended.
const maxEnded = 500

// ended says which exceptions of this user have ended that lifted one of the
// controls among the reasons; "" when there are none. Whom an exception does not
// name learns nothing of it.
func (d *decider) ended(reasons []verdict) string {
	var sentences []string
	left := maxEnded
	for i := range reasons {
		c, isControl := isolation.ControlByName(v1alpha1.ControlName(reasons[i].Control))
		if !isControl {
			continue
		}
		for _, p := range reasons[i].by {
			name, at := p.Ended(c, d.user, d.now)
			if name == "" {
				continue
			}
			s := fmt.Sprintf(" The exception %s of %s ended %s.", name, p.Ref, isolation.EndText(at))
			if slices.Contains(sentences, s) || left < utf8.RuneCountInString(s) {
				continue
			}
			left -= utf8.RuneCountInString(s)
			sentences = append(sentences, s)
		}
	}
	return strings.Join(sentences, "")
}
