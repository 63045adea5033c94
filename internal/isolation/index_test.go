package isolation

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestIndexFindsAll: the index leaves out no profile that a plain look at every
// profile finds, for names and for what covers a profile.
func TestIndexFindsAll(t *testing.T) {
	found, covered := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		e := &Effective{Unmatched: &Profile{Name: "rest"}}
		for range rapid.IntRange(0, 12).Draw(t, "profiles") {
			e.Profiles = append(e.Profiles, &Profile{selector: drawSelector(t, "selector"), Enforce: rapid.Bool().Draw(t, "enforce")})
		}
		e.index = newIndex(e.Profiles)
		name := rapid.StringMatching(`[abAB]{0,7}`).Draw(t, "name")
		want := slices.DeleteFunc(slices.Clone(e.Profiles), func(p *Profile) bool { return !p.selector.matches(strings.ToLower(name)) })
		found += len(want)
		if len(want) == 0 {
			want = []*Profile{e.Unmatched}
		}
		if got := e.ForProject(name).Governing; !slices.Equal(got, want) {
			t.Fatalf("%d profiles govern %q, want %d", len(got), name, len(want))
		}
		for _, inner := range e.Profiles {
			want := slices.DeleteFunc(slices.Clone(e.Profiles), func(p *Profile) bool {
				return p != inner && (!p.Enforce || !p.selector.covers(inner.selector))
			})
			covered += len(want) - 1
			if got := e.atLeast(inner).Governing; !slices.Equal(got, want) {
				t.Fatalf("%d profiles govern whatever %+v selects, want %d", len(got), inner.selector, len(want))
			}
		}
	})
	if found == 0 || covered == 0 {
		t.Errorf("found %d, covered %d: nothing was tried", found, covered)
	}
}

// TestCandidatesAreFew: who names other projects is not looked at.
func TestCandidatesAreFew(t *testing.T) {
	e := resolve(newServer("Open"), manyProfiles(1000)...)
	for _, name := range []string{"team-00500-nlp", "name-00501", "x-00502-end", "other"} {
		if got := e.index.candidates(name); len(got) > 2 {
			t.Errorf("%d of 1,000 profiles are looked at for %s", len(got), name)
		}
	}
}
