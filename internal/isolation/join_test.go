package isolation

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var cleanPaths = []string{"/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/c"}

func drawValue(t *rapid.T, c Control, label string) Value {
	mode := rapid.SampledFrom(c.Modes()).Draw(t, label)
	if mode != ModeAllowedPaths {
		return Value{Mode: mode}
	}
	return InstanceVolumes.listValue(ModeAllowedPaths, rapid.SliceOfN(rapid.SampledFrom(cleanPaths), 1, 4).Draw(t, label+" paths"))
}

// denies is what a value means: what is refused by it. Subjects are the paths
// and, for controls without paths, the modes themselves.
func denies(c Control, v Value, subject string) bool {
	if c == InstanceVolumes {
		allowed := v.Mode == ModeAllowed ||
			v.Mode == ModeAllowedPaths && slices.ContainsFunc(v.List, func(dir string) bool { return Below(subject, dir) })
		return !allowed
	}
	return c.rank(v) > slices.Index(c.Modes(), subject)
}

func subjects(c Control) []string {
	if c == InstanceVolumes {
		return append([]string{"/", "/a/x", "/a/b/x", "/x"}, cleanPaths...)
	}
	return c.Modes()
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
