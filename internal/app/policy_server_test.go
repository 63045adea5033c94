package app

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPolicyServerFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"nothing":            {nil, "the DstackServer must be named: set --namespace and --server, or --from for a folder"},
		"no namespace":       {[]string{"--server", "main"}, "the DstackServer must be named: set --namespace and --server, or --from for a folder"},
		"no server":          {[]string{"--namespace", "dstack"}, "the DstackServer must be named: set --namespace and --server, or --from for a folder"},
		"two namespaces":     {[]string{"--namespace", "a", "--server", "b/main"}, "--namespace a and --server b/main name two namespaces: leave --namespace out"},
		"three parts":        {[]string{"--server", "a/b/c"}, "the DstackServer must be named: set --namespace and --server, or --from for a folder"},
		"name with a folder": {[]string{"--from", "x", "--server", "main"}, "--server must be NAMESPACE/NAME; leave it and --namespace out when the folder holds one DstackServer"},
		"drain delay":        {[]string{"--from", "x", "--drain-delay", "2m"}, "--drain-delay 2m0s must be between 0s and 1m"},
		"log level":          {[]string{"--from", "x", "--log-level", "loud"}, `--log-level "loud" is not known: use info or debug`},
		"no folder":          {[]string{"--from", "/nonexistent", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"}, "folder /nonexistent: read folder: open .: no such file or directory"},
		"listen":             {[]string{"--from", "x", "--listen", "nowhere"}, "--listen: listen tcp: address nowhere: missing port in address"},
		"health listen":      {[]string{"--from", "x", "--listen", "127.0.0.1:0", "--health-listen", "nowhere"}, "--health-listen: listen tcp: address nowhere: missing port in address"},
		"earlier tokens":     {[]string{"--from", "x", "--earlier-tokens", "y"}, "--earlier-tokens needs --token-file: without it every request is accepted anyway"},
		"token file":         {[]string{"--from", "x", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--token-file", "/nonexistent"}, "read token file: open /nonexistent: no such file or directory"},
		"argument":           {[]string{"x"}, `unknown command "x" for "policy-server"`},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := newPolicyServerCommand()
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			cmd.SetErr(&bytes.Buffer{})
			cmd.SetArgs(tc.args)
			if err := cmd.ExecuteContext(t.Context()); err == nil || err.Error() != tc.want {
				t.Errorf("got error %v", err)
			}
		})
	}
}

func TestPolicyServerNamesItsServer(t *testing.T) {
	for name, tc := range map[string]struct {
		flags policyServerFlags
		want  string
	}{
		"name and namespace":   {policyServerFlags{namespace: "dstack", server: "main"}, "dstack/main"},
		"both in one":          {policyServerFlags{server: "dstack/main"}, "dstack/main"},
		"both in one, again":   {policyServerFlags{namespace: "dstack", server: "dstack/main"}, "dstack/main"},
		"of a folder":          {policyServerFlags{from: "x", server: "dstack/main"}, "dstack/main"},
		"the only of a folder": {policyServerFlags{from: "x"}, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := tc.flags.validate(); err != nil || got.String() != tc.want {
				t.Errorf("got %s, error %v", got, err)
			}
		})
	}
}

// A rule that does not compile ends the policy server at its start, with the
// reason.
func TestPolicyServerDoesNotServeARuleThatDoesNotCompile(t *testing.T) {
	dir := t.TempDir()
	yaml := `{apiVersion: isolation.dstack.ai/v1alpha1, kind: DstackServer, metadata: {name: main},
  spec: {workload: {kind: Deployment, name: x}, unmatchedProjects: {level: Restricted, enforcement: Enforce}}}
---
{apiVersion: isolation.dstack.ai/v1alpha1, kind: IsolationProfile, metadata: {name: research},
  spec: {serverRef: {name: main}, projects: {include: [research]}, level: Open, rules: [{name: typo, kind: Run, expression: objct.x, message: m}]}}`
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := newPolicyServerCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetArgs([]string{"--from", dir, "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"})
	want := "folder " + dir + ": profile default/research: spec.rules[0].expression: the expression of rule typo does not compile, " +
		"so every run of its projects is refused: line 1, column 1: undeclared reference to 'objct'"
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got error %v", err)
	}
}

func TestPolicyServerServesAFolder(t *testing.T) {
	dir := t.TempDir()
	yaml := `{apiVersion: isolation.dstack.ai/v1alpha1, kind: DstackServer, metadata: {name: main},
  spec: {workload: {kind: Deployment, name: x}, unmatchedProjects: {level: Restricted, enforcement: Enforce}}}`
	if err := os.WriteFile(filepath.Join(dir, "server.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	var log bytes.Buffer
	cmd := newPolicyServerCommand()
	cmd.SetErr(&log)
	cmd.SetArgs([]string{"--from", dir, "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--drain-delay", "0s"})
	if err := cmd.ExecuteContext(ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"msg":"Listening"`, `"msg":"Changed policy","logger":"policy-server","server":"default/main"`, `"msg":"Draining"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is not in the log:\n%s", want, log.String())
		}
	}
}
