package app

import (
	"fmt"
	"os"
	"path"
	"time"

	"github.com/spf13/cobra"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/inject"
)

// terminationLog is the kubelet's default terminationMessagePath.
const terminationLog = "/dev/termination-log"

// newInjectCommand is the init container in the pods of a dstack server.
func newInjectCommand() *cobra.Command {
	options := inject.Options{TerminationLog: terminationLog}
	tokenEnv, provenEnv := dstack.EnvToken, ""
	var permissions []string
	command := &cobra.Command{
		Use:   "inject {--target FILE [--source FILE] | --check FILE} --policy-url URL",
		Short: "Prepares config.yml of a dstack server (init container)",
		Long: `Writes a copy of a dstack server's config.yml that names the policy plugin, and
checks that the policy server can be asked. It runs as an init container of the
dstack server's pod; the copy is then mounted over the original, which is never
edited.

dstack loads plugins only if this file exists, and does not start if it is empty.
So where there is none, one with "projects: []" is created at --source, which
changes no project.

Where a volume is mounted at exactly the path of config.yml, no copy can go over
it. With --check that file is only looked at: unless it names the plugin already,
the dstack server does not start.

A file that cannot be read, or that dstack itself would not start with, is an
error that names the line; nothing is changed then. The content, which holds
credentials, is never printed, and the copy is readable to whom the original is.

A policy server that is not ready within --timeout is an error, and the dstack
server does not start, as long as it has never run with the plugin: that is,
while the variable that --proven-env names is empty or not set. Afterwards it is
a warning: the server starts, and refuses every run until the policy server
answers. The reason of a failure is also written to ` + terminationLog + `, if that exists.`,
		Example: fmt.Sprintf(`  dstack-isolation inject \
    --source %s --target /dstack-isolation/config.yml \
    --policy-url http://main-policy.dstack.svc:8080`, path.Join(dstack.DefaultServerDir, dstack.ConfigFile)),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if options.Permissions, err = parsePermissions(permissions); err != nil {
				return err
			}
			options.Out = cmd.OutOrStdout()
			options.First = provenEnv == "" || os.Getenv(provenEnv) == ""
			if options.Plugin == dstack.PluginPython {
				options.Token = os.Getenv(tokenEnv)
			}
			return inject.Run(cmd.Context(), options)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.Source, "source", "", "the user's config.yml; none when the server directory lies on no volume")
	flags.StringVar(&options.Target, "target", "", "where to write the merged copy, in an existing folder")
	flags.StringVar(&options.Check, "check", "", "a config.yml that must name the plugin already; nothing is written")
	flags.StringVar(&options.Plugin, "plugin", dstack.PluginPython, "plugin to add: "+dstack.PluginPython+" or "+dstack.PluginREST)
	flags.StringArrayVar(&permissions, "default-permission", nil, "PERMISSION=true or PERMISSION=false, to set in default_permissions; may be given several times")
	flags.StringVar(&options.PolicyURL, "policy-url", "", "base URL of the policy server")
	flags.StringVar(&tokenEnv, "token-env", tokenEnv, "environment variable with the bearer token; not used with "+dstack.PluginREST)
	flags.StringVar(&provenEnv, "proven-env", "", "environment variable that is set once the server has run with the plugin")
	flags.DurationVar(&options.Timeout, "timeout", time.Minute, "how long to wait for the policy server")
	if err := command.MarkFlagRequired("policy-url"); err != nil {
		panic(err) // a flag of that name is not defined above
	}
	command.MarkFlagsOneRequired("target", "check")
	command.MarkFlagsMutuallyExclusive("target", "check")
	command.MarkFlagsMutuallyExclusive("source", "check")
	return command
}

// parsePermissions reads flags, of which the last one of a name counts.
func parsePermissions(texts []string) (inject.Permissions, error) {
	permissions := inject.Permissions{}
	for _, text := range texts {
		key, allow, err := inject.ParsePermission(text)
		if err != nil {
			return nil, fmt.Errorf("--default-permission: %w", err)
		}
		permissions[key] = allow
	}
	return permissions, nil
}
