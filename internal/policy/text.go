package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dstack-isolation/operator/internal/isolation"
)

const (
	// maxMessage, maxHints, maxRefs and maxPaths bound, in characters, a whole
	// refusal, the hints in it, and the profiles and paths named for one reason.
	maxMessage = 2000
	maxHints   = 400
	maxRefs    = 120
	maxPaths   = 200
	// maxQuoted bounds a value that somebody else chose.
	maxQuoted = 60
)

// quote makes a value that somebody else chose safe to show: in quotes, without
// control characters, bounded.
func quote(s string) string {
	if len(s) > maxQuoted*utf8.UTFMax {
		s = s[:maxQuoted*utf8.UTFMax]
	}
	whole := strconv.Quote(s)
	if utf8.RuneCountInString(whole) <= maxQuoted {
		return whole
	}
	short := `"`
	for _, r := range s {
		next := strconv.Quote(string(r))
		next = next[1 : len(next)-1]
		if utf8.RuneCountInString(short)+len(next) > maxQuoted-len(`…"`) {
			break
		}
		short += next
	}
	return short + `…"`
}

// label is a key for messages: as it is when it is dstack's, else quoted.
func label(key string) string {
	if known, ok := knownKeys[key]; ok {
		return known
	}
	return quote(key)
}

// list joins words up to most characters, at least one, and counts the rest.
func list(words []string, most int, rest string) string {
	n, length := 0, 0
	for n < len(words) && (n == 0 || length+utf8.RuneCountInString(words[n]) <= most) {
		length += utf8.RuneCountInString(words[n]) + len(", ")
		n++
	}
	s := strings.Join(words[:n], ", ")
	if n < len(words) {
		s += fmt.Sprintf(" and %d more %s", len(words)-n, rest)
	}
	return s
}

// message is the whole text of a refusal. If it would be too long, the first
// reason of each control comes first, and the rest is counted.
func (d *decider) message(reasons []verdict) string {
	ended := d.ended(reasons)
	reasons = d.oneCause(reasons)
	end := ended + d.ending(reasons)
	sentences := joined(reasons)
	whole := strings.Join(sentences, " ") + end
	if utf8.RuneCountInString(whole) <= maxMessage {
		return whole
	}
	sentences = joined(firstOfEachControlFirst(reasons))
	const more = " And %d more."
	left := maxMessage - utf8.RuneCountInString(end) - len(more) - len(strconv.Itoa(len(sentences)))
	var b strings.Builder
	for i, s := range sentences {
		if i > 0 {
			s = " " + s
		}
		if left -= utf8.RuneCountInString(s); left < 0 {
			fmt.Fprintf(&b, more, len(sentences)-i)
			break
		}
		b.WriteString(s)
	}
	return b.String() + end
}

// offerNote tells a user whose request for offers a rule refused that rules were
// asked about it.
const offerNote = " The rules of this project hold for dstack offer too: add the options that they require, such as --max-duration, or ask the administrator to exempt offers."

// ending is what every refusal ends with: the hints and the revision.
func (d *decider) ending(reasons []verdict) string {
	var b strings.Builder
	if d.subject.run.offer && slices.ContainsFunc(reasons, func(v verdict) bool { return strings.HasPrefix(v.Control, ControlRules) }) {
		b.WriteString(offerNote)
	}
	left := maxHints
	for _, hint := range d.project.Hints() {
		if left -= utf8.RuneCountInString(hint) + 1; left < 0 {
			break
		}
		b.WriteString(" " + hint)
	}
	return b.String() + " [isolation rev=" + d.project.Revision + "]"
}

// joined are the reasons as the sentences of one text.
func joined(reasons []verdict) []string {
	all := make([]string, len(reasons))
	for i, v := range reasons {
		s := sentence(v)
		if i > 0 {
			first, size := utf8.DecodeRuneInString(s)
			s = string(unicode.ToUpper(first)) + s[size:]
		}
		all[i] = s
	}
	return all
}

// sentence is one reason with the profiles that ask for it.
func sentence(v verdict) string {
	who := "every profile"
	if len(v.by) > 0 {
		refs := make([]string, len(v.by))
		for i, p := range v.by {
			refs[i] = p.Ref
		}
		who = list(refs, maxRefs, "profiles")
	}
	if rule, isRule := strings.CutPrefix(v.Control, ControlRules); isRule {
		return fmt.Sprintf("%s (%s, rule %s).", v.Message, who, rule)
	}
	if v.with != "" {
		return fmt.Sprintf("%s (%s, controls %s and %s).", v.Message, who, v.Control, v.with)
	}
	return fmt.Sprintf("%s (%s, control %s).", v.Message, who, v.Control)
}

// oneCause makes one sentence of what hostNetwork and distributedTasks say of
// the same nodes.
func (d *decider) oneCause(reasons []verdict) []verdict {
	of := func(c isolation.Control) int {
		return slices.IndexFunc(reasons, func(v verdict) bool { return v.Control == string(c.Name()) })
	}
	network, tasks := of(isolation.HostNetwork), of(isolation.DistributedTasks)
	if network < 0 || tasks < 0 || reasons[network].Field != reasons[tasks].Field {
		return reasons
	}
	both := reasons[network]
	both.with = reasons[tasks].Control
	both.Message = fmt.Sprintf(
		"tasks of more than one node are not allowed in project %s, nor is host networking, which this %d-node task would use: %s",
		d.subject.project, d.subject.run.nodes, oneNode(&d.subject))
	for _, p := range reasons[tasks].by {
		if !slices.Contains(both.by, p) {
			both.by = append(slices.Clip(both.by), p)
		}
	}
	merged := slices.Clone(reasons)
	merged[network] = both
	return slices.Delete(merged, tasks, tasks+1)
}

func firstOfEachControlFirst(reasons []verdict) []verdict {
	seen := make(map[string]bool)
	var first, rest []verdict
	for _, v := range reasons {
		if seen[v.Control] {
			rest = append(rest, v)
		} else {
			first = append(first, v)
		}
		seen[v.Control] = true
	}
	return slices.Concat(first, rest)
}

// names of profiles, as Reason.Profiles has them.
func names(profiles []*isolation.Profile) []string {
	all := make([]string, len(profiles))
	for i, p := range profiles {
		if all[i] = p.Name; p.Name == "" {
			all[i] = "unmatchedProjects"
		}
	}
	return all
}
