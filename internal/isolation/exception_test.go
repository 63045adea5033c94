package isolation

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

func TestExceptionEnds(t *testing.T) {
	deny := override(v1alpha1.Controls{Privileged: "Denied"})
	later := noon.Add(time.Minute)
	e := resolve(newServer("Open"),
		newProfile("a", "Open", deny, except("past", "ada", noon.Add(-time.Second), "privileged"), except("soon", "bob", later, "privileged")),
		newProfile("b", "Open", except("last", "ada", later.Add(time.Hour), "privileged")))
	if !e.NextExpiry.Equal(later) {
		t.Errorf("next to end at %s", e.NextExpiry)
	}
	for _, tc := range []struct {
		user string
		now  time.Time
		want string
	}{
		{"ada", noon, ModeDenied},
		{"bob", noon, ModeAllowed},
		{"Bob", noon, ModeDenied},
		{"", noon, ModeDenied},
		{"bob", later.Add(-time.Nanosecond), ModeAllowed},
		{"bob", later, ModeDenied},
	} {
		if got := e.ForProject("x").Enforced(tc.user, tc.now)[Privileged]; got.Mode != tc.want {
			t.Errorf("%q at %s: %s, want %s", tc.user, tc.now, got.Mode, tc.want)
		}
	}
}

// TestExceptionEndsAtZero: the zero time is a moment long ago, not "never".
func TestExceptionEndsAtZero(t *testing.T) {
	p := newProfile("p", "Restricted", except("x", "ada", time.Time{}, "privileged", "hostNetwork"))
	p.Spec.Exceptions[0].ExpiresAt = &metav1.Time{}
	e := resolve(newServer("Restricted"), p)
	if got := e.ForProject("x").Enforced("ada", noon)[Privileged].Mode; got != ModeDenied {
		t.Errorf("privileged is %s", got)
	}
	if e.Plan.NetworkMode != v1alpha1.NetworkModeBridge {
		t.Errorf("network mode %d", e.Plan.NetworkMode)
	}
}

// TestExceptions: each control can be lifted for a user, but hostSSH.
func TestExceptions(t *testing.T) {
	later := noon.Add(time.Minute)
	for _, c := range AllControls() {
		deny := newProfile("p", "Dedicated", except("x", "ada", later, c.Name()), func(s *spec) {
			text := fmt.Sprintf(`{%q: %q}`, c.Name(), c.Strictest().Mode)
			s.Controls = &v1alpha1.Controls{}
			if entriesOf(c) != nil {
				text = `{"instanceVolumes": {"mode": "AllowedPaths", "paths": ["/a"]}, "fleets": {"allowed": ["a"]}, "backends": {"allowed": ["a"]}, "registries": {"allowed": ["a"]}}`
			}
			if err := json.Unmarshal([]byte(text), s.Controls); err != nil {
				t.Fatal(err)
			}
		})
		e := resolve(newServer("Restricted"), deny)
		p := e.Profiles[0]
		lifted := c.Loosest()
		if c == HostSSH {
			lifted = c.Strictest()
		}
		if got := e.ForProject("x").Enforced("ada", noon)[c]; !got.Value.Equal(lifted) || (len(got.Lifted) > 0) != (c != HostSSH) {
			t.Errorf("%s is %s for ada, lifted %v", c.Name(), got.Value, got.Lifted)
		}
		for user, now := range map[string]time.Time{"ada": later, "bob": noon, "Ada": noon} {
			if got := e.ForProject("x").Enforced(user, now)[c]; got.Equal(c.Loosest()) {
				t.Errorf("%s is %s for %s at %s", c.Name(), got.Value, user, now)
			}
		}
		want := [][]string{{"ada"}}
		if c == HostSSH {
			want = nil
		}
		if diff := cmp.Diff(want, e.Excepted(p, noon, c)); diff != "" {
			t.Errorf("%s is lifted for (-want +got):\n%s", c.Name(), diff)
		}
		if users := e.Excepted(p, later, c); len(users) > 0 {
			t.Errorf("%s is lifted for %q when the exception has ended", c.Name(), users)
		}
	}
}

// TestExcepted: users of the same exceptions belong together; what audits or has
// ended lifts nothing.
func TestExcepted(t *testing.T) {
	forUsers := func(users ...string) func(*spec) {
		return func(s *spec) { s.Exceptions[len(s.Exceptions)-1].Users = users }
	}
	e := resolve(newServer("Open"),
		newProfile("a", "Restricted", include("team-*"),
			except("x", "", noon.Add(time.Hour), "privileged"), forUsers("eve", "ada"),
			except("y", "", noon.Add(time.Minute), "privileged", "tags"), forUsers("bob", "eve", "dan"),
			except("tags", "tim", time.Time{}, "tags"), except("ended", "eli", noon, "privileged")),
		newProfile("b", "Restricted", except("z", "bob", time.Time{}, "hostNetwork")),
		newProfile("c", "Restricted", audited, except("z", "amy", time.Time{}, "privileged")),
		newProfile("d", "Restricted", include("team-a"), except("z", "tom", time.Time{}, "privileged")))
	want := [][]string{{"ada"}, {"bob"}, {"dan"}, {"eve"}}
	if diff := cmp.Diff(want, e.Excepted(e.Profile("a"), noon, Privileged, HostNetwork)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, want := range map[string]time.Time{"a": noon.Add(time.Minute), "b": {}, "d": noon.Add(time.Minute)} {
		if got := e.NextExpiryOf(e.Profile(name), noon); !got.Equal(want) {
			t.Errorf("the next exception of %s to end ends at %s", name, got)
		}
	}
	e = resolve(newServer("Open"), newProfile("a", "Restricted", except("y", "", noon.Add(time.Minute), "privileged"), forUsers("eve", "bob", "dan")))
	want = [][]string{{"bob", "dan", "eve"}}
	if diff := cmp.Diff(want, e.Excepted(e.Profile("a"), noon, Privileged)); diff != "" {
		t.Errorf("alike (-want +got):\n%s", diff)
	}
}
