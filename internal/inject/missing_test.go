package inject

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/internal/dstack"
)

func TestMissing(t *testing.T) {
	cases := map[string]struct {
		src     string
		want    Want
		lines   []string
		wantErr string
	}{
		"it is there":             {src: "plugins: [dstack_isolation]\nprojects: []\n"},
		"it is there, in a block": {src: "projects: []\nplugins:\n- a\n- dstack_isolation\n- b\n"},
		"it is there, by a merge": {src: "x: &x\n  plugins: [dstack_isolation]\n<<: *x\nprojects: []\n"},
		"no list":                 {src: "projects: []\n", lines: []string{"plugins: [dstack_isolation]"}},
		"an empty list":           {src: "projects: []\nplugins: []\n", lines: []string{"plugins: [dstack_isolation]"}},
		"null":                    {src: "projects: []\nplugins:\n", lines: []string{"plugins: [dstack_isolation]"}},
		"only in a comment":       {src: "projects: []\n# plugins: [dstack_isolation]\n", lines: []string{"plugins: [dstack_isolation]"}},
		"another case":            {src: "projects: []\nplugins: [Dstack_isolation]\n", lines: []string{"plugins: [Dstack_isolation, dstack_isolation]"}},
		"behind the user's own":   {src: "projects: []\nplugins: [b, a]\n", lines: []string{"plugins: [b, a, dstack_isolation]"}},
		"the other delivery": {
			src: "projects: []\nplugins: [dstack_isolation]\n", want: Want{Plugin: dstack.PluginREST},
			lines: []string{"plugins: [dstack_isolation, rest_plugin]"},
		},
		"nothing of a Secret is told": {
			src: "projects: []\nplugins: [b, a]\n", want: Want{Private: true}, lines: []string{"plugins: [those that it has, dstack_isolation]"},
		},
		"a Secret that has no list": {src: "projects: []\n", want: Want{Private: true}, lines: []string{"plugins: [dstack_isolation]"}},
		"a name that is none":       {src: "projects: []\nplugins: ['hunter 2']\n", lines: []string{"plugins: [those that it has, dstack_isolation]"}},
		"very many":                 {src: "projects: []\nplugins: [a, b, c, d, e, f, g, h, i]\n", lines: []string{"plugins: [those that it has, dstack_isolation]"}},
		"empty":                     {wantErr: "it is empty, and dstack does not start with an empty one: write `projects: []` into it, which changes no project"},
		"no projects":               {src: "plugins: [dstack_isolation]\n", wantErr: "it has no projects, and dstack does not start without them: add `projects: []`, which changes no project"},
		"twice":                     {src: "projects: []\nplugins: [dstack_isolation]\nplugins: []\n", wantErr: "line 3: plugins stands there a second time, and dstack would read only the last: keep one"},
		"no list but a text":        {src: "projects: []\nplugins: dstack_isolation\n", wantErr: "line 2: plugins must be a list of names"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.want.Plugin == "" {
				tc.want.Plugin = dstack.PluginPython
			}
			lines, err := Missing([]byte(tc.src), tc.want)
			if tc.wantErr != "" {
				if err == nil || err.Error() != tc.wantErr {
					t.Errorf("got %v, want %s", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.lines, lines); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Whoever writes what is asked for is done: nothing is missing afterwards, also by
// the rules of the merge.
func TestWhatIsMissingIsEnough(t *testing.T) {
	want := Want{Plugin: dstack.PluginPython}
	for _, src := range []string{"projects: []\n", "projects: []\nplugins: [a, b]\n"} {
		lines, err := Missing([]byte(src), want)
		if err != nil {
			t.Fatal(err)
		}
		after := []byte("projects: []\n" + strings.Join(lines, "\n") + "\n")
		rest, err := Missing(after, want)
		if err != nil || len(rest) > 0 {
			t.Errorf("%s lacks %v, %v", after, rest, err)
		}
		if merged, err := Merge(after, want.Plugin); err != nil || !bytes.Equal(merged, after) {
			t.Errorf("%s is merged into %s, %v", after, merged, err)
		}
	}
	all := Want{Plugin: dstack.PluginREST}
	if rest, err := Missing([]byte(strings.Join(all.Lines(), "\n")), all); err != nil || len(rest) > 0 {
		t.Errorf("a file of nothing but the lines lacks %v, %v", rest, err)
	}
}

// Missing and Merge agree on every file: what lacks nothing is left as it is, and
// what one refuses the other refuses.
func TestMissingAgreesWithMerge(t *testing.T) {
	files, err := filepath.Glob("testdata/merge/*/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines, missingErr := Missing(src, Want{Plugin: dstack.PluginPython})
		merged, mergeErr := Merge(src, dstack.PluginPython)
		if missingErr != nil || mergeErr != nil {
			t.Errorf("%s: %v, %v", file, missingErr, mergeErr)
			continue
		}
		if same := string(merged) == string(src); same != (len(lines) == 0) {
			t.Errorf("%s lacks %v, and the merge leaves it as it is: %t", file, lines, same)
		}
	}
}

// checking is a pod whose config.yml is only looked at.
func checking(t *testing.T, config string) *pod {
	t.Helper()
	p := newPod(t, config)
	p.Check, p.Source, p.Target = p.Source, "", ""
	return p
}

func (p *pod) check(t *testing.T) string {
	t.Helper()
	err := Run(t.Context(), p.Options)
	message := ""
	if err != nil {
		message = err.Error()
	}
	if log := read(t, p.TerminationLog); log != message {
		t.Errorf("termination log %q, error %q", log, message)
	}
	if text := message + p.out.String(); strings.Contains(text, "hunter2") || strings.Contains(text, token) {
		t.Errorf("a secret is told: %s", text)
	}
	return strings.ReplaceAll(message, p.Check, "FILE")
}

func TestRunOnlyChecks(t *testing.T) {
	const named = "plugins: [mine, dstack_isolation]\n" + users
	p := checking(t, named)
	before, err := os.Stat(p.Check)
	if err != nil {
		t.Fatal(err)
	}
	if message := p.check(t); message != "" {
		t.Fatal(message)
	}
	want := "Checked " + p.Check + ": it names plugin dstack_isolation\nPolicy server at " + p.PolicyURL + " is ready\n"
	if p.out.String() != want {
		t.Errorf("got %s, want %s", p.out, want)
	}
	after, err := os.Stat(p.Check)
	if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) || read(t, p.Check) != named {
		t.Errorf("the user's file was touched: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(filepath.Dir(p.TerminationLog), "copy"))
	if err != nil || len(entries) > 0 {
		t.Errorf("a copy was written: %v, %v", entries, err)
	}
}

func TestRunCheckedFileIsNotEnough(t *testing.T) {
	cases := map[string]struct {
		config string
		change func(t *testing.T, p *pod)
		want   string
	}{
		"the line is missing": {
			config: users,
			want:   "FILE does not name the plugin, so the dstack server would ask for no decision: write `plugins: [dstack_isolation]` into it, where it is mounted from",
		},
		"others are there": {
			config: "plugins: [hunter2]\n" + users,
			want:   "FILE does not name the plugin, so the dstack server would ask for no decision: write `plugins: [those that it has, dstack_isolation]` into it, where it is mounted from",
		},
		"dstack would not start": {
			config: "plugins: [dstack_isolation]\n",
			want:   "FILE cannot be used: it has no projects, and dstack does not start without them: add `projects: []`, which changes no project",
		},
		"none is there, and none is made": {
			want: "there is no FILE, without which dstack loads no plugin: create it where it is mounted from, with the lines `projects: []` and `plugins: [dstack_isolation]`",
		},
		"a folder, as the kubelet makes of a key that is missing": {
			change: func(t *testing.T, p *pod) { mkdir(t, p.Check) },
			want:   "FILE must be a file, and is a folder",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := checking(t, tc.config)
			if tc.change != nil {
				tc.change(t, p)
			}
			if got := p.check(t); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if p.asked.Load() != 0 {
				t.Error("asked the policy server about a file that cannot be used")
			}
		})
	}
}

func TestRunCheckOptions(t *testing.T) {
	for want, change := range map[string]func(p *pod){
		`the file to check must be an absolute path, "a/b" is none`: func(p *pod) { p.Check = "a/b" },
		"a file that is only checked has no source and no target":   func(p *pod) { p.Target = "/t" },
		"plugin must be dstack_isolation or rest_plugin, not \"x\"": func(p *pod) { p.Plugin = "x" },
	} {
		p := checking(t, users)
		change(p)
		if err := Run(t.Context(), p.Options); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// The file is checked on each start, but a policy server that is away is an error
// only the first time.
func TestRunCheckAsksThePolicyServer(t *testing.T) {
	p := checking(t, "plugins: [dstack_isolation]\n"+users)
	p.status.Store(503)
	if message := p.check(t); !strings.Contains(message, "it does not know its policy yet (HTTP 503)") {
		t.Errorf("got %q", message)
	}
	p.First = false
	write(t, p.TerminationLog, "")
	if message := p.check(t); message != "" {
		t.Errorf("got %q", message)
	}
}

func TestMissingPermissions(t *testing.T) {
	want := Want{Plugin: "dstack_isolation", Permissions: Permissions{createProjects: false, manageFleets: true}}
	const line = "default_permissions: {allow_non_admins_create_projects: false, allow_non_admins_manage_ssh_fleets: true}"
	tests := map[string]struct {
		src  string
		want []string
	}{
		"both":    {"projects: []\n", []string{"plugins: [dstack_isolation]", line}},
		"one":     {"projects: []\nplugins: [dstack_isolation]\n", []string{line}},
		"other":   {"projects: []\nplugins: [dstack_isolation]\ndefault_permissions: {allow_non_admins_create_projects: true, allow_non_admins_manage_ssh_fleets: true}\n", []string{line}},
		"nothing": {"projects: []\nplugins: [dstack_isolation]\n" + line + "\n", nil},
	}
	for name, tc := range tests {
		got, err := Missing([]byte(tc.src), want)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tc.want)
		}
	}
	if got := want.Lines(); !slices.Equal(got, []string{"projects: []", "plugins: [dstack_isolation]", line}) {
		t.Errorf("got %q", got)
	}
}
