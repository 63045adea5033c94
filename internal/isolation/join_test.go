package isolation

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// cleanPaths, fleetNames, backendNames, classNames and registryNames are entries
// of lists, some within others.
var (
	cleanPaths    = []string{"/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/c"}
	fleetNames    = []string{"a", "b", "a/b", "b/a", "A"}
	backendNames  = []string{"aws", "gcp", "remote"}
	classNames    = []string{"a", "a.b", "fast"}
	registryNames = []string{"a.io", "a.io/b", "a.io/b/c", "a.io/bc", "a.io:5000", "b.io/a", "docker.io"}
)

// entriesOf are valid entries of a control's list; none for a control without.
func entriesOf(c Control) []string {
	return map[Control][]string{
		InstanceVolumes: cleanPaths, Fleets: fleetNames, Backends: backendNames, Registries: registryNames,
		ExistingVolumes: classNames,
	}[c]
}

func drawValue(t *rapid.T, c Control, label string) Value {
	v := Value{Mode: rapid.SampledFrom(c.Modes()).Draw(t, label)}
	if !v.isList() {
		return v
	}
	return c.listValue(v.Mode, rapid.SliceOfN(rapid.SampledFrom(entriesOf(c)), 1, 4).Draw(t, label+" list"))
}

// denies is what a value means: what is refused by it. Subjects are what a list
// may name and, for controls without lists, the modes themselves.
func denies(c Control, v Value, subject string) bool {
	switch {
	case entriesOf(c) == nil:
		return c.rank(v) > slices.Index(c.Modes(), subject)
	case v.Mode == ModeAllowed:
		return false
	case !v.isList():
		return true
	}
	nested := c == InstanceVolumes || c == Registries
	return !slices.ContainsFunc(v.List, func(entry string) bool { return subject == entry || nested && strings.HasPrefix(subject, entry+"/") })
}

func subjects(c Control) []string {
	if entriesOf(c) == nil {
		return c.Modes()
	}
	return append([]string{"/", "/a/x", "/a/b/x", "/x", "a.io/x", "a.io/b/x", "x", ""}, entriesOf(c)...)
}

func TestJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(AllControls()).Draw(t, "control")
		x, y, z := drawValue(t, c, "x"), drawValue(t, c, "y"), drawValue(t, c, "z")
		if got, want := c.join(x, y), c.join(y, x); !got.Equal(want) {
			t.Fatalf("not commutative: %s and %s", got, want)
		}
		if got, want := c.join(c.join(x, y), z), c.join(x, c.join(y, z)); !got.Equal(want) {
			t.Fatalf("not associative: %s and %s", got, want)
		}
		if got := c.join(x, x); !got.Equal(x) {
			t.Fatalf("not idempotent: %s from %s", got, x)
		}
		if got := c.join(x, c.Loosest()); !got.Equal(x) {
			t.Fatalf("the loosest value changes %s to %s", x, got)
		}
		if got := c.join(x, c.Strictest()); !got.Equal(c.Strictest()) {
			t.Fatalf("the strictest value with %s is %s", x, got)
		}
		for _, subject := range subjects(c) {
			want := denies(c, x, subject) || denies(c, y, subject)
			if got := denies(c, c.join(x, y), subject); got != want {
				t.Fatalf("%s with %s denies %s: %t, want %t", x, y, subject, got, want)
			}
		}
	})
}

func TestJoinOfPaths(t *testing.T) {
	paths := func(p ...string) Value { return Value{ModeAllowedPaths, p} }
	denied := Value{Mode: ModeDenied}
	for name, tc := range map[string]struct{ a, b, want Value }{
		"same":        {paths("/a"), paths("/a"), paths("/a")},
		"nested":      {paths("/a"), paths("/a/b"), paths("/a/b")},
		"disjoint":    {paths("/a"), paths("/b"), denied},
		"not a child": {paths("/a"), paths("/ab"), denied},
		"several":     {paths("/a", "/b"), paths("/a/x", "/b", "/c"), paths("/a/x", "/b")},
		"with all":    {paths("/a"), Value{Mode: ModeAllowed}, paths("/a")},
		"with none":   {paths("/a"), denied, denied},
	} {
		if got := InstanceVolumes.join(tc.a, tc.b); !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// TestJoinOfLists: what both allow, by whole entries, and of registries by the
// components of a path.
func TestJoinOfLists(t *testing.T) {
	list := func(entries ...string) Value { return Value{ModeAllowedList, entries} }
	denied := Value{Mode: ModeDenied}
	for name, tc := range map[string]struct {
		control    Control
		a, b, want Value
	}{
		"fleets":                        {Fleets, list("a100", "h200"), list("h200", "l4"), list("h200")},
		"fleets with nothing in common": {Fleets, list("a100"), list("h200"), denied},
		"fleets are not nested":         {Fleets, list("research"), list("research/a100"), denied},
		"fleets in another case":        {Fleets, list("a100"), list("A100"), denied},
		"fleets without a list":         {Fleets, list("a100"), Fleets.Loosest(), list("a100")},
		"fleets that are denied":        {Fleets, list("a100"), denied, denied},
		"storage classes": {
			ExistingVolumes,
			Value{ModeAllowedClasses, []string{"a", "fast"}},
			Value{ModeAllowedClasses, []string{"fast"}},
			Value{ModeAllowedClasses, []string{"fast"}},
		},
		"storage classes and none": {ExistingVolumes, Value{ModeAllowedClasses, []string{"a"}}, denied, denied},
		"storage classes and all":  {ExistingVolumes, Value{ModeAllowedClasses, []string{"a"}}, ExistingVolumes.Loosest(), Value{ModeAllowedClasses, []string{"a"}}},
		"backends":                 {Backends, list("aws", "gcp"), list("gcp"), list("gcp")},
		"backends are not nested":  {Backends, list("aws"), list("aws-2"), denied},
		"registries":               {Registries, list("ghcr.io", "quay.io/a"), list("ghcr.io/example", "quay.io"), list("ghcr.io/example", "quay.io/a")},
		"registries by components": {Registries, list("ghcr.io/ex"), list("ghcr.io/example"), denied},
		"registries by host":       {Registries, list("ghcr.io"), list("ghcr.io.example.com/a"), denied},
		"registries by port":       {Registries, list("ghcr.io"), list("ghcr.io:5000/a"), denied},
		"an empty list":            {Fleets, list(), list("a100"), denied},
		"two empty lists":          {Registries, list(), list(), denied},
	} {
		for _, got := range []Value{tc.control.join(tc.a, tc.b), tc.control.join(tc.b, tc.a)} {
			if !got.Equal(tc.want) {
				t.Errorf("%s: %s, want %s", name, got, tc.want)
			}
		}
	}
}

// TestUnknownModeIsStrictest: the zero value and what a later release knows.
func TestUnknownModeIsStrictest(t *testing.T) {
	for _, c := range AllControls() {
		for _, v := range []Value{{}, {Mode: "Later"}} {
			if c.rank(v) != c.rank(c.Strictest()) {
				t.Errorf("%s: %q is not the strictest", c.Name(), v.Mode)
			}
		}
	}
}

func TestBelow(t *testing.T) {
	for _, tc := range []struct {
		path, dir string
		want      bool
	}{
		{"/a", "/a", true},
		{"/a/b", "/a", true},
		{"/ab", "/a", false},
		{"/", "/a", false},
		{"/a", "/a/b", false},
		{"/a", "/", true},
		{"a", "/a", false},
		{"", "/a", false},
	} {
		if got := Below(tc.path, tc.dir); got != tc.want {
			t.Errorf("%q is below %q: %t", tc.path, tc.dir, got)
		}
	}
}
