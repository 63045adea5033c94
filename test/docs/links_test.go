package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// TestLinksLead holds every relative link in the repository's documents to a
// file that is there and, after a #, to one of its headings.
func TestLinksLead(t *testing.T) {
	documents := markdown(t)
	if len(documents) < 8 {
		t.Fatalf("found only %d documents: they have moved", len(documents))
	}
	for _, path := range documents {
		for _, match := range link.FindAllStringSubmatch(withoutCode(read(t, path)), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: link to %s leads nowhere", path, match[1])
				continue
			}
			if anchor != "" && !anchors(read(t, file))[anchor] {
				t.Errorf("%s: link to %s: there is no such heading", path, match[1])
			}
		}
	}
}

// TestThreatModelNamesEveryControl: a control that users can set has a row that
// says what is left when it is denied.
func TestThreatModelNamesEveryControl(t *testing.T) {
	text := read(t, filepath.Join(root, "docs", "threat-model.md"))
	for _, control := range isolation.AllControls() {
		if !strings.Contains(text, "\n| `"+string(control.Name())+"` |") {
			t.Errorf("docs/threat-model.md has no row for control %s", control.Name())
		}
	}
}

// TestThreatModelNamesEveryPlatformLimit: a limit that status can list has a row
// that says when it is listed and what reduces it.
func TestThreatModelNamesEveryPlatformLimit(t *testing.T) {
	text := read(t, filepath.Join(root, "docs", "threat-model.md"))
	source := read(t, filepath.Join(root, "api", "v1alpha1", "isolationprofile_status.go"))
	names := regexp.MustCompile(`PlatformLimitName = "([A-Za-z]+)"`).FindAllStringSubmatch(source, -1)
	if len(names) == 0 {
		t.Fatal("found no limit: they have moved")
	}
	for _, name := range names {
		if !strings.Contains(text, "\n| `"+name[1]+"` |") {
			t.Errorf("docs/threat-model.md has no row for the limit %s", name[1])
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	code    = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
)

// withoutCode drops code, in which brackets are no links.
func withoutCode(text string) string { return code.ReplaceAllString(text, "") }

// anchors are the names that headings can be linked by: lower case, spaces as
// hyphens, everything else but letters, digits, hyphens and underscores gone.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		out[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
				return r
			default:
				return -1
			}
		}, strings.ToLower(strings.TrimSpace(match[1])))] = true
	}
	return out
}

// markdown lists the documents of the repository.
func markdown(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "dist") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, ".md") {
			out = append(out, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
