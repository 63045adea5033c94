package isolation

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// slowMatch is what a pattern means, without care for time.
func slowMatch(pattern, name string) bool {
	switch {
	case pattern == "":
		return name == ""
	case pattern[0] == '*':
		return slowMatch(pattern[1:], name) || name != "" && slowMatch(pattern, name[1:])
	case name == "":
		return false
	}
	return (pattern[0] == '?' || pattern[0] == name[0]) && slowMatch(pattern[1:], name[1:])
}

var (
	patterns = rapid.StringMatching(`[ab*?]{0,6}`)
	names    = rapid.StringMatching(`[ab]{0,7}`)
)

func TestGlobMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "abc", true},
		{"?", "", false},
		{"?", "a", true},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"research-*", "research-", true},
		{"research-*", "research", false},
		{"a.c", "abc", false},
		{"[ab]", "a", false},
		{"*-*-*", "a-b", false},
		{"*-*-*", "a-b-c", true},
		{"a**b", "ab", true},
		{"*a*b*a*", "ababa", true},
	} {
		if got := globMatch(tc.pattern, tc.name); got != tc.want {
			t.Errorf("%q matches %q: %t", tc.pattern, tc.name, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern, name := patterns.Draw(t, "pattern"), names.Draw(t, "name")
		if got, want := globMatch(pattern, name), slowMatch(pattern, name); got != want {
			t.Fatalf("%q matches %q: %t, want %t", pattern, name, got, want)
		}
	})
}

// FuzzGlobMatch looks for a pattern that is slow or wrong.
func FuzzGlobMatch(f *testing.F) {
	f.Add("*a*a*a*b", "aaaaaaaa")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		got := globMatch(pattern, name)
		if len(pattern) > 8 || len(name) > 12 {
			return // too long for slowMatch
		}
		if want := slowMatch(pattern, name); got != want {
			t.Errorf("%q matches %q: %t, want %t", pattern, name, got, want)
		}
	})
}

// TestGlobMatchIsQuick: what makes a backtracking matcher run for ever.
func TestGlobMatchIsQuick(t *testing.T) {
	pattern, name := "", ""
	for range 50 {
		pattern, name = pattern+"*a", name+"aa"
	}
	if globMatch(pattern+"b", name) {
		t.Error("matches")
	}
}

func drawSelector(t *rapid.T, label string) selector {
	draw := func(label string, atLeast int) (all []v1alpha1.ProjectPattern) {
		for _, p := range rapid.SliceOfN(patterns, atLeast, 3).Draw(t, label) {
			all = append(all, v1alpha1.ProjectPattern(p))
		}
		return all
	}
	return compileSelector(v1alpha1.ProjectSelector{Include: draw(label+" include", 1), Exclude: draw(label+" exclude", 0)})
}

// TestCoversIsNeverWrong: covers may miss something, but what it says is so.
func TestCoversIsNeverWrong(t *testing.T) {
	said := 0
	rapid.Check(t, func(t *rapid.T) {
		outer, inner := drawSelector(t, "outer"), drawSelector(t, "inner")
		if !outer.covers(inner) {
			return
		}
		said++
		for _, name := range rapid.SliceOfN(names, 40, 40).Draw(t, "names") {
			if inner.matches(name) && !outer.matches(name) {
				t.Fatalf("%+v covers %+v, but not %q", outer, inner, name)
			}
		}
	})
	if said == 0 {
		t.Error("covers never said yes, so nothing was tried")
	}
}

func TestCovers(t *testing.T) {
	sel := func(include, exclude string) selector {
		s := v1alpha1.ProjectSelector{Include: []v1alpha1.ProjectPattern{v1alpha1.ProjectPattern(include)}}
		if exclude != "" {
			s.Exclude = []v1alpha1.ProjectPattern{v1alpha1.ProjectPattern(exclude)}
		}
		return compileSelector(s)
	}
	for _, tc := range []struct {
		outer, inner selector
		want         bool
	}{
		{sel("*", ""), sel("a?b*", ""), true},
		{sel("Team-*", ""), sel("team-a*", ""), true},
		{sel("team-a", ""), sel("TEAM-A", ""), true},
		{sel("team-*", ""), sel("team*", ""), false},
		{sel("team-?", ""), sel("team-*", ""), false},
		{sel("*", "x"), sel("*", ""), false},
		{sel("*", "x"), sel("*", "x*"), true},
		{sel("*", "x*"), sel("*", "x"), false},
	} {
		if got := tc.outer.covers(tc.inner); got != tc.want {
			t.Errorf("%+v covers %+v: %t", tc.outer, tc.inner, got)
		}
	}
}
