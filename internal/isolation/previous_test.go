package isolation

import (
	"fmt"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestPreviousChangesNothing: profiles come, go, change and are made anew under
// the same name, and what is taken over from the result before makes no
// difference.
func TestPreviousChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		server := drawServer(t)
		objects := map[string]v1alpha1.IsolationProfile{}
		var previous *Effective
		for step := range rapid.IntRange(2, 5).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "name")
			old, exists := objects[name]
			obj := drawProfile(t, name)
			switch {
			case exists && rapid.Bool().Draw(t, "goes"):
				delete(objects, name)
			case exists && rapid.Bool().Draw(t, "changes"):
				obj.UID, obj.Generation = old.UID, old.Generation+1
				objects[name] = obj
			default:
				obj.UID, obj.Generation = types.UID(fmt.Sprint(name, step)), 1
				objects[name] = obj
			}
			in := Input{Server: server, Now: noon}
			for _, o := range objects {
				in.Profiles = append(in.Profiles, o)
			}
			fresh := Resolve(in)
			in.Previous = previous
			previous = Resolve(in)
			if diff := gocmp.Diff(described(fresh), described(previous)); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// described is all that others see of a result.
func described(e *Effective) []string {
	plan := e.Plan
	text := []string{
		e.Revision, e.NextExpiry.String(), fmt.Sprint(plan.NetworkMode, plan.SSHProxy, plan.SSHEnforced),
	}
	for _, p := range append(e.Profiles, e.Unmatched) {
		text = append(text, fmt.Sprint(p.Ref, p.Generation, p.Enforce, p.Values, p.Hint, p.Problems, e.Gained(p), e.Lost(p)))
	}
	for _, name := range projects {
		for _, user := range users {
			project := e.ForProject(name)
			for c, held := range project.Enforced(user, noon) {
				by := make([]string, len(held.By))
				for i, p := range held.By {
					by[i] = p.Ref
				}
				text = append(text, fmt.Sprint(name, user, Control(c).Name(), held.Value, by, held.Lifted))
			}
		}
	}
	return text
}

func TestPreviousTakesOver(t *testing.T) {
	with := func(uid types.UID, generation int64) v1alpha1.IsolationProfile {
		p := newProfile("p", "Restricted")
		p.UID, p.Generation = uid, generation
		return p
	}
	before := resolve(newServer("Restricted"), with("1", 1))
	for _, c := range []struct {
		name  string
		now   v1alpha1.IsolationProfile
		taken bool
	}{
		{"the same", with("1", 1), true},
		{"changed", with("1", 2), false},
		{"made anew", with("2", 1), false},
		{"from a file", with("", 1), false},
	} {
		after := Resolve(Input{Server: newServer("Restricted"), Profiles: []v1alpha1.IsolationProfile{c.now}, Previous: before, Now: noon})
		if taken := after.Profiles[0] == before.Profiles[0]; taken != c.taken {
			t.Errorf("%s: taken over is %v", c.name, taken)
		}
	}
	if e := resolve(newServer("Restricted"), with("", 1)); Resolve(Input{Server: newServer("Restricted"), Profiles: []v1alpha1.IsolationProfile{with("", 1)}, Previous: e, Now: noon}).Profiles[0] == e.Profiles[0] {
		t.Error("an object without uid was taken over")
	}
}

// TestStill: objects that change together must not be taken for those that were
// resolved before, whatever their uids.
func TestStill(t *testing.T) {
	input := func(server, profile int64) Input {
		s := newServer("Restricted")
		s.UID, s.Generation = "server", server
		p := newProfile("p", "Restricted")
		p.UID, p.Generation = "profile", profile
		other := newProfile("q", "Open")
		other.UID, other.Spec.ServerRef.Name = "other", "another"
		return Input{Server: s, Profiles: []v1alpha1.IsolationProfile{p, other}, Now: noon}
	}
	exception := func(in Input) Input {
		in.Profiles[0].Spec.Exceptions = []v1alpha1.Exception{{
			Name: "x", Users: []string{"ada"}, Controls: []v1alpha1.ControlName{v1alpha1.ControlPrivileged}, ExpiresAt: &metav1.Time{Time: noon.Add(time.Hour)},
		}}
		return in
	}
	change := func(in Input, edit func(*Input)) Input {
		edit(&in)
		return in
	}
	last := Resolve(input(1, 1))
	for name, tc := range map[string]struct {
		last *Effective
		now  Input
		want bool
	}{
		"the same":                     {last, input(1, 1), true},
		"none before":                  {nil, input(1, 1), false},
		"the server changed":           {last, input(2, 1), false},
		"the profile changed":          {last, input(1, 2), false},
		"both changed":                 {last, input(2, 2), false},
		"one forwards, one back":       {Resolve(input(1, 2)), input(2, 1), false},
		"the server was made anew":     {last, change(input(1, 1), func(in *Input) { in.Server.UID = "new" }), false},
		"the profile was made anew":    {last, change(input(1, 1), func(in *Input) { in.Profiles[0].UID = "new" }), false},
		"the profile is gone":          {last, change(input(1, 1), func(in *Input) { in.Profiles = in.Profiles[1:] }), false},
		"a profile came":               {last, change(input(1, 1), func(in *Input) { in.Profiles[1].Spec.ServerRef.Name = in.Server.Name }), false},
		"another server's is gone":     {last, change(input(1, 1), func(in *Input) { in.Profiles = in.Profiles[:1] }), true},
		"from a file":                  {last, change(input(1, 1), func(in *Input) { in.Server.UID, in.Profiles[0].UID = "", "" }), false},
		"an exception holds":           {Resolve(exception(input(1, 1))), exception(input(1, 1)), true},
		"an exception has ended since": {Resolve(exception(input(1, 1))), change(exception(input(1, 1)), func(in *Input) { in.Now = noon.Add(time.Hour) }), false},
	} {
		if got := tc.last.Still(tc.now); got != tc.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
