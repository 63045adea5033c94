package isolation

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Value is the value of one control. The zero value is never used: it is not a
// mode of any control, and counts as the strictest.
type Value struct {
	// Mode is one of the control's modes.
	Mode string
	// List is what is allowed when Mode is AllowedPaths, AllowedStorageClasses or
	// AllowedList: sorted, of nested entries only the one that allows more. Paths
	// are clean and absolute.
	List []string
}

// String is the value as status shows it.
func (v Value) String() string {
	if len(v.List) == 0 {
		return v.Mode
	}
	const most = 200
	s := v.Mode + " (" + strings.Join(v.List, ", ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s + ")"
}

// Equal tells whether two values are the same.
func (v Value) Equal(w Value) bool {
	return v.Mode == w.Mode && slices.Equal(v.List, w.List)
}

// isList tells whether the value allows what its list names and nothing else.
func (v Value) isList() bool {
	return v.Mode == ModeAllowedPaths || v.Mode == ModeAllowedClasses || v.Mode == ModeAllowedList
}

func simple(mode string) (Value, bool) { return Value{Mode: mode}, mode != "" }

// listed is the value of a control that allows a list and nothing else.
func listed[T ~string](allowed []T) (Value, bool) {
	entries := make([]string, len(allowed))
	for i, entry := range allowed {
		entries[i] = string(entry)
	}
	return Value{Mode: ModeAllowedList, List: entries}, true
}

func instanceVolumes(c *v1alpha1.Controls) (Value, bool) {
	if c.InstanceVolumes == nil {
		return Value{}, false
	}
	v := Value{Mode: string(c.InstanceVolumes.Mode)}
	if v.Mode == ModeAllowedPaths {
		for _, p := range c.InstanceVolumes.Paths {
			v.List = append(v.List, string(p))
		}
	}
	return v, true
}

func existingVolumes(c *v1alpha1.Controls) (Value, bool) {
	v, set := simple(string(c.ExistingVolumes))
	if v.Mode == ModeAllowedClasses {
		for _, class := range c.StorageClasses {
			v.List = append(v.List, string(class))
		}
	}
	return v, set
}

// entryRule says what an entry of a control's list must be. The API says the
// same; it is asked again for objects that did not come through it.
type entryRule struct {
	// list is the field below controls that holds the list, and what names an
	// entry in messages.
	list, what string
	valid      func(string) bool
	// isNot is what an entry that is not valid is not, and remedy how to write it.
	isNot, remedy string
}

var (
	pathEntry     = entryRule{"instanceVolumes.paths", "path", isCleanPath, "absolute and clean", "write it as /a/b"}
	fleetEntry    = entryRule{"fleets.allowed", "fleet", matching(200, `([-_.a-zA-Z0-9]+/)?[-_.a-zA-Z0-9]+`), "the name of a fleet", "write it as NAME or PROJECT/NAME"}
	backendEntry  = entryRule{"backends.allowed", "backend", matching(63, `[a-z0-9]([-a-z0-9]*[a-z0-9])?`), "the name of a backend", "write it as dstack does, such as aws"}
	classEntry    = entryRule{"storageClasses", "storage class", matching(253, `[a-z0-9]([-.a-z0-9]*[a-z0-9])?`), "the name of a StorageClass", "write it as Kubernetes does"}
	registryEntry = entryRule{
		"registries.allowed", "registry", matching(255, `[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*`),
		"the name of a registry", "write it as HOST, HOST:PORT or HOST/PATH, in lower case",
	}
)

// matching tells whether a whole text of at most so many bytes matches.
func matching(most int, pattern string) func(string) bool {
	whole := regexp.MustCompile(`\A(?:` + pattern + `)\z`)
	return func(s string) bool { return len(s) <= most && whole.MatchString(s) }
}

// isCleanPath tells whether p is an absolute path as an allowed path must be.
func isCleanPath(p string) bool {
	hasControl := strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f })
	return strings.HasPrefix(p, "/") && p != "/" && !strings.HasPrefix(p, "//") && path.Clean(p) == p && !hasControl
}
