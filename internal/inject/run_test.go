package inject

import (
	"bytes"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

const (
	token  = "tok-3f9c2a10"
	users  = "# ours\nprojects:\n- name: main\n  backends:\n  - {type: vastai, creds: {type: api_key, api_key: hunter2}}\n"
	merged = "# ours\nplugins: [\"dstack_isolation\"]\n" + "projects:\n- name: main\n  backends:\n  - {type: vastai, creds: {type: api_key, api_key: hunter2}}\n"
)

// pod is the init container's view: the user's folder, ours, and a policy server.
type pod struct {
	Options
	out *bytes.Buffer
	// status is what the policy server answers to the right token.
	status atomic.Int32
	asked  atomic.Int32
}

func newPod(t *testing.T, config string) *pod {
	t.Helper()
	p := &pod{out: &bytes.Buffer{}}
	p.status.Store(http.StatusOK)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		authorization := r.Header.Get("Authorization")
		switch {
		case r.Method != http.MethodGet || r.URL.Path != dstack.PathReady:
			w.WriteHeader(http.StatusTeapot)
		case authorization != "" && authorization != "Bearer "+token:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(int(p.status.Load()))
		}
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	for _, folder := range []string{"server", "copy"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.Options = Options{
		Source:         filepath.Join(dir, "server", dstack.ConfigFile),
		Target:         filepath.Join(dir, "copy", dstack.ConfigFile),
		Plugin:         dstack.PluginPython,
		PolicyURL:      server.URL,
		Token:          token,
		First:          true,
		Timeout:        400 * time.Millisecond,
		TerminationLog: filepath.Join(dir, "termination-log"),
		Out:            p.out,
	}
	write(t, p.TerminationLog, "")
	if config != "" {
		write(t, p.Source, config)
	}
	return p
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// run returns the error's text, "" for none, and checks what holds in any case.
func (p *pod) run(t *testing.T) string {
	t.Helper()
	err := Run(t.Context(), p.Options)
	message := ""
	if err != nil {
		message = err.Error()
	}
	if log := read(t, p.TerminationLog); log != message {
		t.Errorf("termination log %q, error %q", log, message)
	}
	for _, hidden := range []string{token, "hunter2"} {
		if strings.Contains(message+p.out.String(), hidden) {
			t.Errorf("%s is told: %s\n%s", hidden, message, p.out)
		}
	}
	for _, folder := range []string{filepath.Dir(p.Source), filepath.Dir(p.Target)} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Name() != dstack.ConfigFile {
				t.Errorf("left behind: %s", entry.Name())
			}
		}
	}
	return message
}

func (p *pod) wantOut(t *testing.T, lines ...string) {
	t.Helper()
	replacer := strings.NewReplacer("SOURCE", p.Source, "TARGET", p.Target, "URL", p.PolicyURL)
	if want := replacer.Replace(strings.Join(lines, "\n") + "\n"); p.out.String() != want {
		t.Errorf("got\n%swant\n%s", p.out, want)
	}
}

func TestRunWritesTheMergedCopy(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o640, 0o644, 0o400, 0o777} {
		t.Run(mode.String(), func(t *testing.T) {
			p := newPod(t, users)
			if err := os.Chmod(p.Source, mode); err != nil {
				t.Fatal(err)
			}
			before, err := os.Stat(p.Source)
			if err != nil {
				t.Fatal(err)
			}
			if message := p.run(t); message != "" {
				t.Fatal(message)
			}
			p.wantOut(t, "Wrote TARGET: SOURCE with plugin dstack_isolation", "Policy server at URL is ready")
			if got := read(t, p.Target); got != merged {
				t.Errorf("got %s", got)
			}
			info, err := os.Stat(p.Target)
			if err != nil {
				t.Fatal(err)
			}
			if want := 0o600 | mode&0o044; info.Mode().Perm() != want {
				t.Errorf("mode %s, want %s", info.Mode(), want)
			}
			after, err := os.Stat(p.Source)
			if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) || read(t, p.Source) != users {
				t.Errorf("the user's file was touched: %v", err)
			}
		})
	}
}

func TestRunReplacesAnOlderCopy(t *testing.T) {
	p := newPod(t, users)
	write(t, p.Target, "projects: []\nplugins: [older, and, longer]\n"+strings.Repeat("#\n", 100))
	if message := p.run(t); message != "" {
		t.Fatal(message)
	}
	if got := read(t, p.Target); got != merged {
		t.Errorf("got %s", got)
	}
}

// A ConfigMap or Secret is mounted as links to links.
func TestRunFollowsLinks(t *testing.T) {
	p := newPod(t, "")
	actual := filepath.Join(filepath.Dir(p.TerminationLog), "config")
	write(t, actual, users)
	if err := os.Symlink(actual, p.Source); err != nil {
		t.Fatal(err)
	}
	if message := p.run(t); message != "" {
		t.Fatal(message)
	}
	if got := read(t, p.Target); got != merged {
		t.Errorf("got %s", got)
	}
}

func TestRunCreatesAMissingFile(t *testing.T) {
	p := newPod(t, "")
	p.Source = filepath.Join(filepath.Dir(p.Source), "not", "yet", dstack.ConfigFile)
	err := Run(t.Context(), p.Options)
	if err != nil {
		t.Fatal(err)
	}
	p.wantOut(t, "Created SOURCE, there was none: without it dstack loads no plugin",
		"Wrote TARGET: SOURCE with plugin dstack_isolation", "Policy server at URL is ready")
	if got := read(t, p.Source); got != minimalConfig {
		t.Errorf("source is %s", got)
	}
	want := strings.Replace(minimalConfig, "projects: []", "plugins: [\"dstack_isolation\"]\nprojects: []", 1)
	if got := read(t, p.Target); got != want {
		t.Errorf("got %s", got)
	}
	info, err := os.Stat(p.Source)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode of the new file: %v, %v", info.Mode(), err)
	}
	p.out.Reset()
	if err := Run(t.Context(), p.Options); err != nil {
		t.Fatal(err)
	}
	p.wantOut(t, "Wrote TARGET: SOURCE with plugin dstack_isolation", "Policy server at URL is ready")
}

// Replicas of a server may share its folder and start together.
func TestCreateConfigFileNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), dstack.ConfigFile)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			if err := createConfigFile(path); err != nil {
				t.Error(err)
			}
			if content, err := os.ReadFile(path); err != nil || string(content) != minimalConfig {
				t.Errorf("seen half written: %q, %v", content, err)
			}
		})
	}
	group.Wait()
	write(t, path, users)
	if err := createConfigFile(path); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != users {
		t.Errorf("overwritten: %s", got)
	}
}

func TestRunRefusesTheFile(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, p *pod)
		want    string
	}{
		"empty": {
			func(t *testing.T, p *pod) { write(t, p.Source, "") },
			"SOURCE cannot be used: it is empty, and dstack does not start with an empty one: write `projects: []` into it, which changes no project. Nothing was changed",
		},
		"not yaml": {
			func(t *testing.T, p *pod) { write(t, p.Source, "projects: []\npassword: *hunter2\n") },
			"SOURCE cannot be used: line 2: it is not valid YAML: an alias (*name) refers to no anchor; a text that begins with * must be in quotes. Nothing was changed",
		},
		"folder": {
			func(t *testing.T, p *pod) { mkdir(t, p.Source) },
			"SOURCE must be a file, and is a folder",
		},
		"too large": {
			func(t *testing.T, p *pod) { write(t, p.Source, users+strings.Repeat("#", maxConfigBytes)) },
			"SOURCE is larger than 4194304 bytes, which no config.yml is",
		},
		"cannot be created": {
			func(_ *testing.T, p *pod) { p.Source = "/proc/none/config.yml" },
			"there is no SOURCE, without which dstack loads no plugin, and it cannot be created: mkdir /proc/none: no such file or directory. Create it with the line `projects: []`",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, users)
			if err := os.Remove(p.Source); err != nil {
				t.Fatal(err)
			}
			write(t, p.Target, "as it was")
			folder := filepath.Dir(p.Source)
			tc.prepare(t, p)
			source := p.Source
			err := Run(t.Context(), p.Options)
			if err == nil {
				t.Fatal("no error")
			}
			if want := strings.ReplaceAll(tc.want, "SOURCE", source); err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
			if got := read(t, p.TerminationLog); got != err.Error() {
				t.Errorf("termination log %q", got)
			}
			if got := read(t, p.Target); got != "as it was" {
				t.Errorf("target was changed: %s", got)
			}
			if p.asked.Load() != 0 {
				t.Error("asked the policy server about a file that cannot be used")
			}
			if entries, err := os.ReadDir(folder); err != nil || len(entries) > 1 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestRunTargetThatCannotBeWritten(t *testing.T) {
	p := newPod(t, users)
	mkdir(t, p.Target)
	message := p.run(t)
	if !strings.HasPrefix(message, "write the merged copy: rename ") {
		t.Errorf("got %s", message)
	}
	p = newPod(t, users)
	p.Target = filepath.Join(filepath.Dir(p.Target), "none", dstack.ConfigFile)
	err := Run(t.Context(), p.Options)
	if err == nil || !strings.HasPrefix(err.Error(), "write the merged copy: open ") {
		t.Errorf("got %v", err)
	}
}

func TestRunOptions(t *testing.T) {
	const badURL = "policy URL must be http://HOST:PORT or https://HOST:PORT, without user, query and fragment"
	tests := map[string]struct {
		change func(p *pod)
		want   string
	}{
		"relative source":   {func(p *pod) { p.Source = "a/b" }, `source and target must be absolute paths, "a/b" is none`},
		"relative target":   {func(p *pod) { p.Target = "a/b" }, `source and target must be absolute paths, "a/b" is none`},
		"same":              {func(p *pod) { p.Target = p.Source + "/." }, "source and target must be two files: the user's config.yml is never written over"},
		"same by a link":    {func(p *pod) { _ = os.Link(p.Source, p.Target) }, "source and target must be two files: the user's config.yml is never written over"},
		"plugin":            {func(p *pod) { p.Plugin = "rest-plugin" }, `plugin must be dstack_isolation or rest_plugin, not "rest-plugin"`},
		"timeout":           {func(p *pod) { p.Timeout = 0 }, "timeout must be more than 0"},
		"no url":            {func(p *pod) { p.PolicyURL = "" }, badURL},
		"url without host":  {func(p *pod) { p.PolicyURL = "http://:80" }, badURL},
		"url with password": {func(p *pod) { p.PolicyURL = "http://a:hunter2@b" }, badURL},
		"url with query":    {func(p *pod) { p.PolicyURL = "http://b?hunter2" }, badURL},
		"no url at all":     {func(p *pod) { p.PolicyURL = "http://[hunter2" }, badURL},
		"other scheme":      {func(p *pod) { p.PolicyURL = "ftp://b" }, badURL},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, users)
			tc.change(p)
			err := Run(t.Context(), p.Options)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got %v, want %s", err, tc.want)
			}
			if got := read(t, p.TerminationLog); got != tc.want {
				t.Errorf("termination log %q", got)
			}
		})
	}
}

func TestTerminationLog(t *testing.T) {
	p := newPod(t, users)
	if err := os.Remove(p.TerminationLog); err != nil {
		t.Fatal(err)
	}
	p.Plugin = "none"
	if err := Run(t.Context(), p.Options); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Stat(p.TerminationLog); err == nil {
		t.Error("created outside of a container")
	}
	if p.out.Len() != 0 {
		t.Errorf("said %s", p.out)
	}

	write(t, p.TerminationLog, "older")
	long := strings.Repeat("a", terminationLogBytes-1) + "é" + strings.Repeat("b", 10)
	writeTerminationLog(p.Options, long)
	if got := read(t, p.TerminationLog); got != long[:terminationLogBytes-1] {
		t.Errorf("%d bytes, ends %q", len(got), got[len(got)-3:])
	}
}

func TestRunWithoutVolume(t *testing.T) {
	p := newPod(t, users)
	p.Source = ""
	if err := Run(t.Context(), p.Options); err != nil {
		t.Fatal(err)
	}
	got := read(t, p.Target)
	if !strings.Contains(got, "dstack_isolation") || !strings.Contains(got, "projects: []") {
		t.Errorf("got %s", got)
	}
}
