package app

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/dstack-isolation/operator/internal/dstack"
)

func TestInjectCommand(t *testing.T) {
	authorization := "not asked"
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
	}))
	defer server.Close()
	t.Setenv(dstack.EnvToken, "default")
	t.Setenv("OTHER", "other")
	tests := map[string]struct {
		args          []string
		authorization string
		want          string
	}{
		"python": {nil, "Bearer default", "plugins: [\"dstack_isolation\"]\nprojects: []\n"},
		"token":  {[]string{"--token-env=OTHER"}, "Bearer other", "plugins: [\"dstack_isolation\"]\nprojects: []\n"},
		"rest":   {[]string{"--plugin=rest_plugin"}, "", "plugins: [\"rest_plugin\"]\nprojects: []\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			source, target := filepath.Join(t.TempDir(), "config.yml"), filepath.Join(t.TempDir(), "config.yml")
			if err := os.WriteFile(source, []byte("projects: []\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			command := newInjectCommand()
			command.SetOut(&out)
			command.SetArgs(append([]string{"--timeout=1s", "--source", source, "--target", target, "--policy-url", server.URL}, tc.args...))
			if err := command.ExecuteContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(target)
			if err != nil || string(got) != tc.want {
				t.Errorf("got %s, %v", got, err)
			}
			if authorization != tc.authorization {
				t.Errorf("authorization %q, want %q", authorization, tc.authorization)
			}
		})
	}
}

func TestInjectCommandOnlyChecks(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	t.Setenv(dstack.EnvToken, "default")
	file := filepath.Join(t.TempDir(), "config.yml")
	for content, want := range map[string]string{
		"projects: []\nplugins: [dstack_isolation]\n": "",
		"projects: []\n": file + " does not name the plugin, so the dstack server would ask for no decision: " +
			"write `plugins: [dstack_isolation]` into it, where it is mounted from",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		command := newInjectCommand()
		command.SilenceErrors, command.SilenceUsage = true, true
		command.SetOut(&bytes.Buffer{})
		command.SetArgs([]string{"--timeout=1s", "--check", file, "--policy-url", server.URL})
		message := ""
		if err := command.ExecuteContext(t.Context()); err != nil {
			message = err.Error()
		}
		if message != want {
			t.Errorf("%q: got %q, want %q", content, message, want)
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != content {
			t.Errorf("the file was changed to %q, %v", after, err)
		}
	}
}

func TestInjectCommandNeedsItsFlags(t *testing.T) {
	for want, args := range map[string][]string{
		`required flag(s) "policy-url" not set`:                                                                   {"--target=/t"},
		"at least one of the flags in the group [target check] is required":                                       {"--policy-url=http://p"},
		"if any flags in the group [target check] are set none of the others can be; [check target] were all set": {"--policy-url=http://p", "--target=/t", "--check=/c"},
		"if any flags in the group [source check] are set none of the others can be; [check source] were all set": {"--policy-url=http://p", "--source=/s", "--check=/c"},
	} {
		command := newInjectCommand()
		command.SilenceErrors, command.SilenceUsage = true, true
		command.SetArgs(args)
		if err := command.ExecuteContext(t.Context()); err == nil || err.Error() != want {
			t.Errorf("%v: got %v, want %s", args, err, want)
		}
	}
}
