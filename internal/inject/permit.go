package inject

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// keyPermissions is the key of config.yml for what users may do who have no
// permission of their own.
const keyPermissions = "default_permissions"

var permissionName = regexp.MustCompile(`^[a-z][a-z_]*$`)

// Permissions are keys of default_permissions and the values that they must have.
type Permissions map[string]bool

// Permit returns dstack's config.yml src with the permissions in it, and every
// other byte as it was. Other keys of default_permissions stay. As with Merge the
// text is edited, parsed again and compared, and errors hold nothing of the file's
// content.
func Permit(src []byte, want Permissions) ([]byte, error) {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if !permissionName.MatchString(key) {
			return nil, fmt.Errorf("%q is not the name of a permission: it must be made of small letters and underscores", key)
		}
		var err error
		if src, err = permit(src, key, strconv.FormatBool(want[key])); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func permit(src []byte, key, value string) ([]byte, error) {
	before, err := readConfig(src)
	if err != nil {
		return nil, err
	}
	permissions, own, err := lookup(before.root, keyPermissions)
	if err != nil {
		return nil, err
	}
	have, err := permission(permissions, key)
	if err != nil {
		return nil, err
	}
	if have != nil && have.ShortTag() == "!!bool" && have.Value == value {
		return src, nil
	}
	if permissions != nil && !own {
		return nil, notPlain(permissions, key)
	}
	change, ok := before.permissionEdit(permissions, have, key, value)
	if !ok {
		return nil, notPlain(cmp.Or(permissions, before.root), key)
	}
	merged := before.with(change)
	after, err := readConfig(merged)
	if err != nil || !after.permits(before, key, value) {
		return nil, notPlain(cmp.Or(permissions, before.root), key)
	}
	return merged, nil
}

// permission finds the value of one key; nil when it is not there.
func permission(permissions *yaml.Node, key string) (*yaml.Node, error) {
	if permissions == nil || isNull(permissions) {
		return nil, nil
	}
	mapping := resolve(permissions)
	if mapping.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: %s must be a mapping of permissions to true or false", permissions.Line, keyPermissions)
	}
	value, _, err := lookup(mapping, key)
	if value != nil {
		value = resolve(value)
	}
	return value, err
}

// permissionEdit is the one place where the text changes; false when it cannot be
// told for certain.
func (c *config) permissionEdit(permissions, have *yaml.Node, key, value string) (edit, bool) {
	pair := key + ": " + value
	switch {
	case permissions == nil:
		return c.firstKey(keyPermissions, "{"+pair+"}")
	case permissions.Kind == yaml.AliasNode, permissions.Anchor != "", permissions.Style&yaml.TaggedStyle != 0:
		return edit{}, false
	case permissions.Kind == yaml.ScalarNode:
		return c.insteadOf(permissions, "{"+pair+"}")
	case have != nil:
		return c.insteadOf(have, value)
	case permissions.Style&yaml.FlowStyle != 0:
		start := c.offset(permissions)
		if len(permissions.Content) > 0 {
			pair += ", "
		}
		return edit{start + 1, start + 1, pair}, c.startsWith(start, "{")
	default:
		first := permissions.Content[0]
		indent, ok := c.indentation(first)
		start := c.offset(first)
		return edit{start, start, pair + c.lineBreak() + indent}, ok
	}
}

// insteadOf replaces a plain scalar.
func (c *config) insteadOf(scalar *yaml.Node, text string) (edit, bool) {
	start := c.offset(scalar)
	plain := scalar.Kind == yaml.ScalarNode && scalar.Style == 0 && scalar.Anchor == "" && c.startsWith(start, scalar.Value)
	if scalar.Value == "" {
		text = " " + text // the position is that behind the colon
	}
	return edit{start, start + len(scalar.Value), text}, plain
}

// with is the file with one edit.
func (c *config) with(e edit) []byte {
	return slices.Concat(c.bom, c.text[:e.start], []byte(e.text), c.text[e.end:])
}

// permits tells whether c is before with the permission, and nothing else differs.
func (c *config) permits(before *config, key, value string) bool {
	now, own, err := lookup(c.root, keyPermissions)
	if err != nil || !own || now.Kind != yaml.MappingNode {
		return false
	}
	have, err := permission(now, key)
	if err != nil || have == nil || have.ShortTag() != "!!bool" || have.Value != value {
		return false
	}
	was, _, _ := lookup(before.root, keyPermissions)
	return slices.EqualFunc(but(now, key), but(was, key), sameTree) &&
		slices.EqualFunc(but(c.root, keyPermissions), but(before.root, keyPermissions), sameTree)
}

// but are keys and values of a mapping other than one; none of what is no mapping.
func but(mapping *yaml.Node, key string) []*yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	var nodes []*yaml.Node
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if !isKey(mapping.Content[i], key) {
			nodes = append(nodes, mapping.Content[i], mapping.Content[i+1])
		}
	}
	return nodes
}

func notPlain(at *yaml.Node, key string) error {
	return fmt.Errorf("line %d: %s is written in a way that cannot be changed by machine: write it as a plain mapping, or set %s in it yourself",
		at.Line, keyPermissions, key)
}

// ParsePermission reads KEY=true or KEY=false.
func ParsePermission(text string) (key string, allow bool, err error) {
	key, value, _ := strings.Cut(text, "=")
	if !permissionName.MatchString(key) || value != "true" && value != "false" {
		return "", false, fmt.Errorf("%q must be PERMISSION=true or PERMISSION=false", text)
	}
	return key, value == "true", nil
}
