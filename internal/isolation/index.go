package isolation

import (
	"slices"
	"strings"
)

// index finds the profiles that may govern a project without looking at each of
// them: a decision with ten thousand profiles looks at a few. It is a filter
// only; the selectors have the last word.
type index struct {
	// whole has the profiles by the names that they include without wildcards.
	whole map[string][]int32
	// prefixes and suffixes have them by the text before the first wildcard and,
	// of patterns that begin with one, by the text after the last.
	prefixes, suffixes affixes
	// rest are those whose patterns have neither.
	rest []int32
}

// affixes are profiles by a beginning or an end of a name, and the lengths that
// these have.
type affixes struct {
	of      map[string][]int32
	lengths []int
}

const wildcards = "*?"

func newIndex(profiles []*Profile) index {
	x := index{
		whole:    map[string][]int32{},
		prefixes: affixes{of: map[string][]int32{}},
		suffixes: affixes{of: map[string][]int32{}},
	}
	for i, p := range profiles {
		for _, pattern := range p.selector.include {
			x.add(pattern, int32(i))
		}
	}
	slices.Sort(x.prefixes.lengths)
	slices.Sort(x.suffixes.lengths)
	return x
}

func (x *index) add(pattern string, profile int32) {
	first, last := strings.IndexAny(pattern, wildcards), strings.LastIndexAny(pattern, wildcards)
	switch {
	case first < 0:
		x.whole[pattern] = append(x.whole[pattern], profile)
	case first > 0:
		x.prefixes.add(pattern[:first], profile)
	case last < len(pattern)-1:
		x.suffixes.add(pattern[last+1:], profile)
	default:
		x.rest = append(x.rest, profile)
	}
}

func (a *affixes) add(affix string, profile int32) {
	a.of[affix] = append(a.of[affix], profile)
	if !slices.Contains(a.lengths, len(affix)) {
		a.lengths = append(a.lengths, len(affix))
	}
}

// candidates are the positions of all profiles that may include the name, in
// order and each once. Given a pattern for the name they are also all that may
// include whatever it matches: an outer pattern that covers an inner one begins
// and ends with literal text of the inner one.
func (x *index) candidates(name string) []int32 {
	found := slices.Concat(x.whole[name], x.rest)
	for _, n := range x.prefixes.lengths {
		if n > len(name) {
			break
		}
		found = append(found, x.prefixes.of[name[:n]]...)
	}
	for _, n := range x.suffixes.lengths {
		if n > len(name) {
			break
		}
		found = append(found, x.suffixes.of[name[len(name)-n:]]...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}
