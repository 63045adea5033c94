package isolation

import (
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// selector is a compiled v1alpha1.ProjectSelector.
type selector struct {
	include, exclude []string
}

func compileSelector(s v1alpha1.ProjectSelector) selector {
	return selector{include: lowered(s.Include), exclude: lowered(s.Exclude)}
}

// lowered folds case as dstack does when it compares project names.
func lowered(patterns []v1alpha1.ProjectPattern) []string {
	out := make([]string, len(patterns))
	for i, p := range patterns {
		out[i] = strings.ToLower(string(p))
	}
	return out
}

// matches tells whether the project, given in lower case, is selected.
func (s selector) matches(project string) bool {
	return matchesAny(s.include, project) && !matchesAny(s.exclude, project)
}

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if globMatch(p, name) {
			return true
		}
	}
	return false
}

// covers tells whether s certainly selects every project that t selects. It
// may say false although it does, never true although it does not.
func (s selector) covers(t selector) bool {
	for _, p := range t.include {
		covered := false
		for _, q := range s.include {
			covered = covered || globCovers(q, p)
		}
		if !covered {
			return false
		}
	}
	for _, x := range s.exclude {
		if !excludedToo(x, t.exclude) {
			return false
		}
	}
	return true
}

func excludedToo(pattern string, exclude []string) bool {
	for _, y := range exclude {
		if globCovers(y, pattern) {
			return true
		}
	}
	return false
}

// globMatch matches a whole name against a pattern in which "*" stands for any
// run of characters and "?" for one. It is linear in practice: on a mismatch it
// goes back to the last star only.
func globMatch(pattern, name string) bool {
	p, n := 0, 0
	star, mark := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// globCovers tells whether every name that pattern inner matches is certainly
// matched by outer: inner's own text, read as a name, must match, with a star
// of inner met only by a star of outer.
func globCovers(outer, inner string) bool {
	if outer == inner {
		return true
	}
	if !strings.ContainsAny(inner, "*?") {
		return globMatch(outer, inner)
	}
	// A prefix pattern covers what begins with at least its prefix.
	prefix, isPrefix := strings.CutSuffix(outer, "*")
	if isPrefix && !strings.ContainsAny(prefix, "*?") {
		return strings.HasPrefix(inner, prefix)
	}
	return false
}
