package isolation

import (
	"slices"
	"strings"
)

// join is the strictest value that denies what either of two values denies.
// It is commutative, associative and idempotent.
func (c Control) join(a, b Value) Value {
	ra, rb := c.rank(a), c.rank(b)
	switch {
	case ra > rb:
		return a
	case rb > ra:
		return b
	case a.isList():
		return c.listValue(a.Mode, c.intersect(a.List, b.List))
	default:
		return a
	}
}

// intersect lists what both lists allow: of nested entries the deeper one.
func (c Control) intersect(a, b []string) []string {
	var both []string
	for _, p := range a {
		for _, q := range b {
			switch {
			case c.within(p, q):
				both = append(both, p)
			case c.within(q, p):
				both = append(both, q)
			}
		}
	}
	return both
}

// within tells whether a list that allows q allows p with it.
func (c Control) within(p, q string) bool {
	return p == q || table[c].nested && Below(p, q)
}

// listValue is the value that allows the given entries and nothing else. When
// there are none, all is denied.
func (c Control) listValue(mode string, entries []string) Value {
	var top []string
	for _, p := range entries {
		covered := slices.ContainsFunc(entries, func(q string) bool { return p != q && c.within(p, q) })
		if !covered {
			top = append(top, p)
		}
	}
	slices.Sort(top)
	top = slices.Compact(top)
	if len(top) == 0 {
		return c.Strictest()
	}
	return Value{Mode: mode, List: top}
}

// Below tells whether the clean path p is dir or lies below it, by whole path
// components.
func Below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
