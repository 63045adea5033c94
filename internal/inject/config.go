package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxMerges bounds how many mappings are searched through merge keys (<<). An
// anchor can refer to itself, and lists of aliases multiply.
const maxMerges = 1000

// config is a config.yml of dstack that dstack itself would start with, as far as
// the operator cares: one YAML document, a mapping with projects.
type config struct {
	// bom is the byte order mark, if any, and text the rest.
	bom, text []byte
	root      *yaml.Node
	// plugins is the value of the mapping's own key; nil if it has none.
	plugins *yaml.Node
	// names are the plugins that dstack would read, also from a merge key.
	names []string
}

func readConfig(src []byte) (*config, error) {
	c := &config{text: src}
	if mark := []byte("\ufeff"); bytes.HasPrefix(src, mark) {
		c.bom, c.text = mark, src[len(mark):]
	}
	if !utf8.Valid(c.text) || bytes.IndexByte(c.text, 0) >= 0 {
		return nil, errors.New("it is not UTF-8 text, which dstack needs")
	}
	var err error
	if c.root, err = parse(c.text); err != nil {
		return nil, err
	}
	if c.root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: it must be a mapping with keys such as projects and plugins; dstack does not start with anything else", c.root.Line)
	}
	projects, _, err := lookup(c.root, keyProjects)
	if err != nil {
		return nil, err
	}
	if projects == nil || isNull(projects) {
		return nil, errors.New("it has no projects, and dstack does not start without them: add `projects: []`, which changes no project")
	}
	value, own, err := lookup(c.root, keyPlugins)
	if err != nil {
		return nil, err
	}
	if own {
		c.plugins = value
	}
	c.names, err = pluginNames(value)
	return c, err
}

// parse returns the content of the only document.
func parse(text []byte) (root *yaml.Node, err error) {
	// The library calls some of its own states impossible, and panics there.
	defer func() {
		if recover() != nil {
			root, err = nil, errors.New("it is YAML that the parser cannot handle; write it in a plainer way")
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, syntaxError(err)
	}
	var document, another yaml.Node
	err = loader.Load(&document)
	if errors.Is(err, io.EOF) || err == nil && isEmpty(&document) {
		return nil, errors.New("it is empty, and dstack does not start with an empty one: write `projects: []` into it, which changes no project")
	}
	if err != nil {
		return nil, syntaxError(err)
	}
	switch err = loader.Load(&another); {
	case errors.Is(err, io.EOF):
		return document.Content[0], nil
	case err != nil:
		return nil, syntaxError(err)
	default:
		return nil, fmt.Errorf("line %d: it holds a second YAML document, and dstack does not start with more than one", another.Line)
	}
}

func isEmpty(document *yaml.Node) bool {
	return len(document.Content) == 0 || isNull(document.Content[0])
}

// syntaxError keeps of the library's error what cannot be part of the file:
// messages of the stages after the parser quote anchors and values.
func syntaxError(err error) error {
	const invalid = "it is not valid YAML"
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		return errors.New(invalid)
	}
	message := invalid
	switch at.Stage {
	case yaml.ReaderStage, yaml.ScannerStage, yaml.ParserStage:
		reason, _, _ := strings.Cut(at.Message, " (value")
		if strings.HasPrefix(reason, "found character '") {
			reason = "found a character that is not allowed here"
		}
		message += ": " + reason
	case yaml.ComposerStage:
		message += ": an alias (*name) refers to no anchor; a text that begins with * must be in quotes"
	}
	if at.Mark.Line == 0 { // the reader counts bytes only
		return errors.New(message)
	}
	return fmt.Errorf("line %d: %s", at.Mark.Line, message)
}

// lookup returns the value that a mapping has for a key, nil for none, and whether
// the key is its own, not one of a merge key.
func lookup(mapping *yaml.Node, name string) (value *yaml.Node, own bool, err error) {
	value, merge, err := scan(mapping, name)
	if value != nil || merge == nil || err != nil {
		return value, value != nil, err
	}
	budget := maxMerges
	value, err = lookupMerged(merge, name, &budget)
	return value, false, err
}

// lookupMerged searches what a merge key brings in: the first source that has the
// key wins, as in dstack's parser.
func lookupMerged(merge *yaml.Node, name string, budget *int) (*yaml.Node, error) {
	sources := []*yaml.Node{merge}
	if list := resolve(merge); list.Kind == yaml.SequenceNode {
		sources = list.Content
	}
	for _, source := range sources {
		if *budget--; *budget < 0 {
			return nil, fmt.Errorf("line %d: there are too many merge keys (<<), or one that merges itself", merge.Line)
		}
		source = resolve(source)
		if source.Kind != yaml.MappingNode {
			return nil, fmt.Errorf("line %d: a merge key (<<) must have a mapping, or a list of them", merge.Line)
		}
		value, next, err := scan(source, name)
		if value == nil && next != nil && err == nil {
			value, err = lookupMerged(next, name, budget)
		}
		if value != nil || err != nil {
			return value, err
		}
	}
	return nil, nil
}

// scan finds the values of a mapping's own key and of its merge key; nil for none.
func scan(mapping *yaml.Node, name string) (value, merge *yaml.Node, err error) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		k, v := mapping.Content[i], mapping.Content[i+1]
		switch {
		case isKey(k, name):
			if value != nil {
				return nil, nil, fmt.Errorf("line %d: %s stands there a second time, and dstack would read only the last: keep one", k.Line, name)
			}
			value = v
		case k.ShortTag() == "!!merge":
			if merge != nil {
				return nil, nil, fmt.Errorf("line %d: a second merge key (<<) in one mapping: merge a list of mappings instead", k.Line)
			}
			merge = v
		}
	}
	return value, merge, nil
}

// pluginNames reads the value of "plugins"; nil and null are an empty list.
func pluginNames(value *yaml.Node) ([]string, error) {
	if value == nil || isNull(value) {
		return nil, nil
	}
	list := resolve(value)
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("line %d: %s must be a list of names", value.Line, keyPlugins)
	}
	var names []string
	for i, item := range list.Content {
		item = resolve(item)
		if item.Kind != yaml.ScalarNode || item.ShortTag() != "!!str" {
			return nil, fmt.Errorf("line %d: entry %d of %s must be a name", item.Line, i+1, keyPlugins)
		}
		names = append(names, item.Value)
	}
	return names, nil
}

func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool {
	node = resolve(node)
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

func isKey(node *yaml.Node, name string) bool {
	node = resolve(node)
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!str" && node.Value == name
}

// offset is where a node begins in the text. The parser counts lines by YAML 1.1's
// line breaks, and columns in characters.
func (c *config) offset(node *yaml.Node) int {
	at := 0
	for line := 1; line < node.Line && at < len(c.text); line++ {
		at += nextLine(c.text[at:])
	}
	for column := 1; column < node.Column && at < len(c.text); column++ {
		_, size := utf8.DecodeRune(c.text[at:])
		at += size
	}
	return at
}

// nextLine is the length of the first line, its break included.
func nextLine(text []byte) int {
	at := bytes.IndexAny(text, "\r\n\u0085\u2028\u2029")
	switch {
	case at < 0:
		return len(text)
	case bytes.HasPrefix(text[at:], []byte("\r\n")):
		return at + 2
	default:
		_, size := utf8.DecodeRune(text[at:])
		return at + size
	}
}

// indentation returns the spaces before a node, if nothing else stands there.
func (c *config) indentation(node *yaml.Node) (string, bool) {
	end := c.offset(node)
	start := c.offset(&yaml.Node{Line: node.Line, Column: 1})
	indent := string(c.text[start:end])
	return indent, strings.Trim(indent, " ") == ""
}

func (c *config) startsWith(offset int, text string) bool {
	return bytes.HasPrefix(c.text[offset:], []byte(text))
}

// lineBreak is the one that the file uses.
func (c *config) lineBreak() string {
	if bytes.Contains(c.text, []byte("\r\n")) {
		return "\r\n"
	}
	return "\n"
}
