package isolation

import (
	"path"
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
	case a.Mode == ModeAllowedPaths && b.Mode == ModeAllowedPaths:
		return intersectPaths(a.Paths, b.Paths)
	default:
		return a
	}
}

// intersectPaths allows what both lists allow: of nested paths the deeper one.
// When nothing is left, all is denied.
func intersectPaths(a, b []string) Value {
	var both []string
	for _, p := range a {
		for _, q := range b {
			switch {
			case Below(p, q):
				both = append(both, p)
			case Below(q, p):
				both = append(both, q)
			}
		}
	}
	return pathsValue(both)
}

// pathsValue is the value that allows the given clean paths and nothing else.
func pathsValue(paths []string) Value {
	var top []string
	for _, p := range paths {
		covered := slices.ContainsFunc(paths, func(q string) bool { return p != q && Below(p, q) })
		if !covered {
			top = append(top, p)
		}
	}
	slices.Sort(top)
	top = slices.Compact(top)
	if len(top) == 0 {
		return Value{Mode: ModeDenied}
	}
	return Value{Mode: ModeAllowedPaths, Paths: top}
}

// Below tells whether the clean absolute path p is dir or lies below it, by
// whole path components.
func Below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// isCleanPath tells whether p is an absolute path as an allowed path must be.
func isCleanPath(p string) bool {
	hasControl := strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f })
	return strings.HasPrefix(p, "/") && p != "/" && !strings.HasPrefix(p, "//") && path.Clean(p) == p && !hasControl
}
