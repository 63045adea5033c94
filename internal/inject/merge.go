package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

const (
	keyPlugins  = "plugins"
	keyProjects = "projects"
)

var pluginName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Merge returns dstack's config.yml src with plugin added to its list "plugins",
// and every other byte as it was: comments, order and quoting too. It returns src
// itself when the list names the plugin already. Other plugins stay, also the
// built-in rest_plugin, which may be the user's own.
//
// The text is edited, not written anew from parsed data: dstack reads it with a
// YAML 1.1 parser, which takes some plain scalars for another type than this one
// does. What comes out is parsed again and compared with what went in.
//
// Errors say what is wrong with the file and what to do, and hold nothing of its
// content, which has credentials in it.
func Merge(src []byte, plugin string) ([]byte, error) {
	if !pluginName.MatchString(plugin) {
		return nil, errors.New("the name of a plugin must be made of letters, digits and underscores")
	}
	before, err := readConfig(src)
	if err != nil {
		return nil, err
	}
	if slices.Contains(before.names, plugin) {
		return bytes.Clone(src), nil
	}
	change, err := before.addition(plugin)
	if err != nil {
		return nil, err
	}
	merged := before.with(change)
	after, err := readConfig(merged)
	if err != nil || !after.isPlus(before, plugin) {
		return nil, before.unusual(before.root, plugin)
	}
	return merged, nil
}

// edit replaces text[start:end].
type edit struct {
	start, end int
	text       string
}

// addition finds the one place where the plugin goes, as first of its list: there
// no item, comment or indentation that follows can be mistaken for part of it.
// dstack does not ask plugins in the order of this list.
func (c *config) addition(plugin string) (edit, error) {
	value := c.plugins
	switch {
	case value == nil:
		return c.newKey(plugin)
	case value.Kind == yaml.AliasNode:
		// The list belongs to its anchor, which others may refer to.
		start := c.offset(value)
		return edit{start, start + 1 + len(value.Value), c.flowList(plugin)}, nil
	case value.Anchor != "" || value.Style&yaml.TaggedStyle != 0:
		return edit{}, c.unusual(value, plugin)
	case value.Kind == yaml.ScalarNode:
		return c.insteadOfNull(value, plugin)
	case value.Style&yaml.FlowStyle != 0:
		return c.firstOfFlowList(value, plugin)
	default:
		return c.firstOfBlockList(value, plugin)
	}
}

// newKey puts "plugins" before the first key of the file.
func (c *config) newKey(plugin string) (edit, error) {
	e, ok := c.firstKey(keyPlugins, c.flowList(plugin))
	if !ok {
		at := c.root
		if c.root.Style&yaml.FlowStyle == 0 {
			at = c.root.Content[0]
		}
		return edit{}, c.unusual(at, plugin)
	}
	return e, nil
}

// firstKey puts a key before the first one of the file; false when it cannot be
// told for certain where that is.
func (c *config) firstKey(name, value string) (edit, bool) {
	if c.root.Style&yaml.FlowStyle != 0 {
		brace := c.offset(c.root)
		return edit{brace + 1, brace + 1, quote(name) + ": " + value + ", "}, c.startsWith(brace, "{")
	}
	first := c.root.Content[0]
	indent, ok := c.indentation(first)
	start := c.offset(first)
	return edit{start, start, name + ": " + value + c.lineBreak() + indent}, ok
}

func (c *config) insteadOfNull(value *yaml.Node, plugin string) (edit, error) {
	start := c.offset(value)
	if !c.startsWith(start, value.Value) {
		return edit{}, c.unusual(value, plugin)
	}
	text := c.flowList(plugin)
	if value.Value == "" {
		text = " " + text // the position is that behind the colon
	}
	return edit{start, start + len(value.Value), text}, nil
}

func (c *config) firstOfFlowList(value *yaml.Node, plugin string) (edit, error) {
	start := c.offset(value)
	if !c.startsWith(start, "[") {
		return edit{}, c.unusual(value, plugin)
	}
	text := quote(plugin)
	if len(value.Content) > 0 {
		text += ", "
	}
	return edit{start + 1, start + 1, text}, nil
}

func (c *config) firstOfBlockList(value *yaml.Node, plugin string) (edit, error) {
	start := c.offset(value)
	indent, ok := c.indentation(value)
	if !ok || !c.startsWith(start, "-") {
		return edit{}, c.unusual(value, plugin)
	}
	return edit{start, start, "- " + plugin + c.lineBreak() + indent}, nil
}

// flowList is the whole list with the plugin in front.
func (c *config) flowList(plugin string) string {
	items := []string{quote(plugin)}
	for _, name := range c.names {
		items = append(items, quote(name))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// quote writes a YAML double-quoted scalar: each JSON string is one.
func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic("marshal a string: " + err.Error()) // there is no string that it rejects
	}
	return string(quoted)
}

// isPlus tells whether c is before and the plugin, and nothing else differs.
func (c *config) isPlus(before *config, plugin string) bool {
	if !slices.Equal(c.names, append([]string{plugin}, before.names...)) {
		return false
	}
	return sameNode(c.root, before.root) && slices.EqualFunc(but(c.root, keyPlugins), but(before.root, keyPlugins), sameTree)
}

// sameTree compares all that has a meaning. Aliases are equal by name: anchors are
// compared too, so they mean the same.
func sameTree(a, b *yaml.Node) bool {
	return sameNode(a, b) && slices.EqualFunc(a.Content, b.Content, sameTree)
}

func sameNode(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Value == b.Value && a.Anchor == b.Anchor && a.Style == b.Style
}

func (c *config) unusual(at *yaml.Node, plugin string) error {
	return fmt.Errorf("line %d: %s is written in a way that cannot be added to by machine: write it as a plain list, or add %s to it yourself",
		at.Line, keyPlugins, plugin)
}
