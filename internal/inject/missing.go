package inject

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Want is what a dstack server's config.yml must say for the operator, where the
// operator cannot put a copy over it.
type Want struct {
	// Plugin must be in the list "plugins".
	Plugin string
	// Permissions must be in the mapping "default_permissions".
	Permissions Permissions
	// Private leaves out of the lines what the file has already, because it comes
	// from a Secret or goes to a log.
	Private bool
}

// Missing returns the lines that the file src must have and lacks, as they are to
// be written; none when nothing is missing. An error means that dstack would not
// start with the file, and says why without quoting it.
func Missing(src []byte, want Want) ([]string, error) {
	c, err := readConfig(src)
	if err != nil {
		return nil, err
	}
	var lines []string
	if !slices.Contains(c.names, want.Plugin) {
		lines = append(lines, want.plugins(c.names))
	}
	permissions, _, err := lookup(c.root, keyPermissions)
	if err != nil {
		return nil, err
	}
	for key, allow := range want.Permissions {
		have, err := permission(permissions, key)
		if err != nil {
			return nil, err
		}
		if have == nil || have.ShortTag() != "!!bool" || have.Value != strconv.FormatBool(allow) {
			return append(lines, want.permissions()), nil
		}
	}
	return lines, nil
}

// Lines are what a file must have that does not exist yet.
func (w Want) Lines() []string {
	lines := []string{keyProjects + ": []", w.plugins(nil)}
	if len(w.Permissions) > 0 {
		lines = append(lines, w.permissions())
	}
	return lines
}

// permissions is the whole line, with what is wanted and nothing else.
func (w Want) permissions() string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(w.Permissions)) {
		pairs = append(pairs, fmt.Sprintf("%s: %t", key, w.Permissions[key]))
	}
	return keyPermissions + ": {" + strings.Join(pairs, ", ") + "}"
}

// plugins is the whole line, since a second "plugins" would replace the first. The
// plugin comes behind those that are there.
func (w Want) plugins(others []string) string {
	const most = 8
	unusual := func(name string) bool { return !pluginName.MatchString(name) }
	if w.Private && len(others) > 0 || len(others) > most || slices.ContainsFunc(others, unusual) {
		others = []string{"those that it has"}
	}
	return keyPlugins + ": [" + strings.Join(append(slices.Clone(others), w.Plugin), ", ") + "]"
}

// Quoted shows lines in a sentence.
func Quoted(lines []string) string { return "`" + strings.Join(lines, "` and `") + "`" }

// checkFile looks whether the file that the server will read names the plugin. It
// is the user's own mount, over which no copy can go.
func checkFile(o Options) error {
	want := Want{Plugin: o.Plugin, Permissions: o.Permissions, Private: true}
	file, err := readConfigFile(o.Check)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s, without which dstack loads no plugin: create it where it is mounted from, with the lines %s",
			o.Check, Quoted(want.Lines()))
	}
	if err != nil {
		return err
	}
	missing, err := Missing(file.content, want)
	if err != nil {
		return fmt.Errorf("%s cannot be used: %w", o.Check, err)
	}
	switch {
	case len(missing) == 0:
	case missing[0] == want.permissions():
		return fmt.Errorf("%s does not have the permissions that are asked for: write %s into it, where it is mounted from", o.Check, Quoted(missing))
	default:
		return fmt.Errorf("%s does not name the plugin, so the dstack server would ask for no decision: write %s into it, where it is mounted from",
			o.Check, Quoted(missing))
	}
	o.printf("Checked %s: it names plugin %s", o.Check, o.Plugin)
	return nil
}
