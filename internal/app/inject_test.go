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

func TestInjectCommandNeedsItsFlags(t *testing.T) {
	command := newInjectCommand()
	command.SilenceErrors, command.SilenceUsage = true, true
	command.SetArgs(nil)
	err := command.ExecuteContext(t.Context())
	if want := `required flag(s) "policy-url", "target" not set`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
