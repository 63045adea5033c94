package isolation

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

var (
	projects = []string{"a", "B", "ab", "team-a", "TEAM-b", "other"}
	users    = []string{"ada", "bob", "Ada"}
	moments  = []time.Time{noon.Add(-time.Hour), noon, noon.Add(time.Second - 1), noon.Add(time.Second), noon.Add(time.Hour)}
)

func drawServer(t *rapid.T) *v1alpha1.DstackServer {
	s := newServer(rapid.SampledFrom(Levels()).Draw(t, "unmatched level"))
	s.Spec.UnmatchedProjects.Enforcement = rapid.SampledFrom([]v1alpha1.Enforcement{"Enforce", "Audit"}).Draw(t, "unmatched enforcement")
	if rapid.Bool().Draw(t, "unmatched has controls") {
		s.Spec.UnmatchedProjects.Controls = drawControls(t, func(what string) string { return "unmatched " + what })
	}
	return s
}

func drawProfile(t *rapid.T, name string) v1alpha1.IsolationProfile {
	label := func(what string) string { return name + " " + what }
	pattern := rapid.SampledFrom([]v1alpha1.ProjectPattern{"*", "a*", "team-*", "TEAM-?", "other", "?"})
	p := newProfile(name, rapid.SampledFrom(Levels()).Draw(t, label("level")),
		include(rapid.SliceOfN(pattern, 1, 2).Draw(t, label("include"))...),
		exclude(rapid.SliceOfN(pattern, 0, 1).Draw(t, label("exclude"))...))
	p.Spec.Enforcement = rapid.SampledFrom([]v1alpha1.Enforcement{"Enforce", "Enforce", "Audit"}).Draw(t, label("enforcement"))
	p.Spec.Hint = rapid.SampledFrom([]string{"", "Ask ada.", "Ask bob."}).Draw(t, label("hint"))
	if rapid.Bool().Draw(t, label("has controls")) {
		p.Spec.Controls = drawControls(t, label)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, label("exceptions")) {
		controls := rapid.SliceOfNDistinct(rapid.SampledFrom(AllControls()), 1, 3, rapid.ID[Control]).Draw(t, label("lifts"))
		var lifted []v1alpha1.ControlName
		for _, c := range controls {
			lifted = append(lifted, c.Name())
		}
		until := rapid.SampledFrom([]time.Time{{}, noon, noon.Add(time.Second)}).Draw(t, label("until"))
		except(fmt.Sprintf("x%d", i), rapid.SampledFrom(users).Draw(t, label("user")), until, lifted...)(&p.Spec)
	}
	return p
}

// drawControls leaves each control out, or gives it a value that this release
// may not know, or a list in which an entry may not be valid.
func drawControls(t *rapid.T, label func(string) string) *v1alpha1.Controls {
	out := map[string]any{}
	for _, c := range AllControls() {
		name := string(c.Name())
		modes := append(c.Modes(), "", "", "Later")
		mode := rapid.SampledFrom(modes).Draw(t, label(name))
		var list []string
		if entries := entriesOf(c); entries != nil {
			list = rapid.SliceOfN(rapid.SampledFrom(append([]string{"/a/../b", "no entry"}, entries...)), 1, 3).Draw(t, label(name+" list"))
		}
		switch {
		case mode == "":
		case c == InstanceVolumes:
			out[name] = map[string]any{"mode": mode, "paths": list}
		case c == ExistingVolumes:
			out[name], out["storageClasses"] = mode, list
		case list != nil:
			out[name] = map[string]any{"allowed": list}
		default:
			out[name] = mode
		}
	}
	text, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	var controls v1alpha1.Controls
	if err := json.Unmarshal(text, &controls); err != nil {
		t.Fatal(err)
	}
	return &controls
}

func drawProfiles(t *rapid.T) []v1alpha1.IsolationProfile {
	var all []v1alpha1.IsolationProfile
	for i := range rapid.IntRange(0, 4).Draw(t, "profiles") {
		all = append(all, drawProfile(t, fmt.Sprintf("p%d", i)))
	}
	return all
}

// decisions are all that can be asked of a policy, as text.
func decisions(e *Effective) []string {
	var all []string
	for _, project := range projects {
		p := e.ForProject(project)
		for _, user := range users {
			for _, now := range moments {
				all = append(all, fmt.Sprint(project, user, now, p.Hints(), text(p.Enforced(user, now)), text(p.Counted(user, now))))
			}
		}
	}
	return all
}

func text(policy Policy) string {
	s := ""
	for _, held := range policy {
		s += held.Value.String() + " by"
		for _, p := range held.By {
			s += " " + p.Ref
		}
		s += fmt.Sprint(" lifted ", held.Lifted, "; ")
	}
	return s
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		server, profiles := drawServer(t), drawProfiles(t)
		if len(profiles) == 0 {
			return
		}
		e := resolve(server, profiles...)
		other := resolve(server, rapid.Permutation(profiles).Draw(t, "order")...)
		if e.Revision != other.Revision || e.Plan.NetworkMode != other.Plan.NetworkMode || !e.NextExpiry.Equal(other.NextExpiry) {
			t.Fatalf("%s, %d, %s became %s, %d, %s", e.Revision, e.Plan.NetworkMode, e.NextExpiry,
				other.Revision, other.Plan.NetworkMode, other.NextExpiry)
		}
		if diff := gocmp.Diff(decisions(e), decisions(other)); diff != "" {
			t.Fatalf("decisions differ: %s", diff)
		}
		for i, p := range e.Profiles {
			q := other.Profiles[i]
			if diff := gocmp.Diff(e.Gained(p), other.Gained(q)) + gocmp.Diff(e.Lost(p), other.Lost(q)) +
				gocmp.Diff(text(e.AtLeast(p)), text(other.AtLeast(q))); diff != "" {
				t.Fatalf("%s differs: %s", p.Ref, diff)
			}
		}
	})
}

// TestAddingNeverLoosens: of a project that is matched already.
func TestAddingNeverLoosens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		server, profiles, added := drawServer(t), drawProfiles(t), drawProfile(t, "added")
		before, after := resolve(server, profiles...), resolve(server, append(profiles, added)...)
		for _, project := range projects {
			p, q := before.ForProject(project), after.ForProject(project)
			if p.Governing[0] == before.Unmatched {
				continue
			}
			for _, user := range users {
				for _, now := range moments {
					mustBeAsStrict(t, q.Enforced(user, now), p.Enforced(user, now))
					mustBeAsStrict(t, q.Counted(user, now), p.Counted(user, now))
				}
			}
		}
	})
}

func mustBeAsStrict(t *rapid.T, got, atLeast Policy) {
	for _, c := range AllControls() {
		for _, subject := range subjects(c) {
			if denies(c, atLeast[c].Value, subject) && !denies(c, got[c].Value, subject) {
				t.Fatalf("%s became %s, which allows %s", atLeast[c], got[c], subject)
			}
		}
	}
}

// TestNoProjectGetsLess than any of its enforcing profiles denies, less what
// that profile's own exceptions lift; and none gets more than all of them.
func TestNoProjectGetsLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := resolve(drawServer(t), drawProfiles(t)...)
		project := e.ForProject(rapid.SampledFrom(projects).Draw(t, "project"))
		user, now := rapid.SampledFrom(users).Draw(t, "user"), rapid.SampledFrom(moments).Draw(t, "now")
		enforced := project.Enforced(user, now)
		for _, c := range AllControls() {
			for _, subject := range subjects(c) {
				want := false
				for _, p := range project.Governing {
					want = want || p.Enforce && p.lifting(c, user, now) == "" && denies(c, p.Values[c], subject)
				}
				if got := denies(c, enforced[c].Value, subject); got != want {
					t.Fatalf("%s of %s denies %s: %t, want %t", c.Name(), project.Name, subject, got, want)
				}
			}
			checkHeld(t, c, enforced[c])
		}
	})
}

// checkHeld: a value that denies something names who asks for it, by name.
func checkHeld(t *rapid.T, c Control, held Held) {
	if (c.rank(held.Value) > 0) != (len(held.By) > 0) {
		t.Fatalf("%s is %s by %d profiles", c.Name(), held.Value, len(held.By))
	}
	if !slices.IsSortedFunc(held.By, func(a, b *Profile) int { return cmp.Compare(a.Name, b.Name) }) {
		t.Fatalf("%s is held by profiles that are not in order", c.Name())
	}
	for _, p := range held.By {
		if !p.Enforce {
			t.Fatalf("%s is enforced by %s, which audits", c.Name(), p.Ref)
		}
	}
}

// TestAuditChangesNothing: neither a decision nor the plan, as long as the
// project is matched anyway.
func TestAuditChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		server, profiles, added := drawServer(t), drawProfiles(t), drawProfile(t, "audited")
		added.Spec.Enforcement = v1alpha1.EnforcementAudit
		before, after := resolve(server, profiles...), resolve(server, append(profiles, added)...)
		if before.Plan.NetworkMode != after.Plan.NetworkMode {
			t.Fatalf("network mode %d became %d", before.Plan.NetworkMode, after.Plan.NetworkMode)
		}
		for _, project := range projects {
			p, q := before.ForProject(project), after.ForProject(project)
			if p.Governing[0] == before.Unmatched {
				continue
			}
			for _, user := range users {
				for _, now := range moments {
					if got, want := text(q.Enforced(user, now)), text(p.Enforced(user, now)); got != want {
						t.Fatalf("%s of %s: %s became %s", project, user, want, got)
					}
				}
			}
		}
	})
}

// TestAtLeastHolds: what AtLeast says is what every project of the profile
// gets, exceptions aside; and AtLeastFor what a user gets there.
func TestAtLeastHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := resolve(drawServer(t), drawProfiles(t)...)
		user, now := rapid.SampledFrom(users).Draw(t, "user"), rapid.SampledFrom(moments).Draw(t, "now")
		for _, profile := range e.Profiles {
			for _, project := range projects {
				p := e.ForProject(project)
				if slices.Contains(p.Governing, profile) {
					mustBeAsStrict(t, p.Enforced("nobody", noon), e.AtLeast(profile))
					mustBeAsStrict(t, p.Enforced(user, now), e.AtLeastFor(profile, user, now))
				}
			}
		}
	})
}

// TestExceptedAreAll: for a user whom Excepted does not name, AtLeast holds.
func TestExceptedAreAll(t *testing.T) {
	named := 0
	rapid.Check(t, func(t *rapid.T) {
		e := resolve(drawServer(t), drawProfiles(t)...)
		now := rapid.SampledFrom(moments).Draw(t, "now")
		for _, profile := range e.Profiles {
			for _, c := range AllControls() {
				excepted := slices.Concat(e.Excepted(profile, now, c)...)
				named += len(excepted)
				for _, user := range users {
					want := e.AtLeast(profile)[c]
					if got := e.AtLeastFor(profile, user, now)[c]; !got.Equal(want.Value) && !slices.Contains(excepted, user) {
						t.Fatalf("%s is %s for %s, and %s for those whom no exception names", c.Name(), got.Value, user, want.Value)
					}
				}
			}
		}
	})
	if named == 0 {
		t.Error("nobody was excepted, so nothing was tried")
	}
}

// TestPlanSuits: no job gets the host network that an enforced value denies to
// all, and none is kept from it that all allow.
func TestPlanSuits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := resolve(drawServer(t), drawProfiles(t)...)
		for _, p := range append(slices.Clone(e.Profiles), e.Unmatched) {
			if !p.Enforce {
				continue
			}
			mode := p.Values[HostNetwork].Mode
			if mode != ModeAllowed && e.Plan.NetworkMode == v1alpha1.NetworkModeHostWhenPossible {
				t.Fatalf("%s asks for %s and the plan is %d", p.Ref, mode, e.Plan.NetworkMode)
			}
			if mode != ModeDenied && e.Plan.NetworkMode == v1alpha1.NetworkModeBridge {
				t.Fatalf("%s asks for %s and the plan is %d", p.Ref, mode, e.Plan.NetworkMode)
			}
		}
	})
}
