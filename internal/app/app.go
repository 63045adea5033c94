// Package app wires the processes of the one binary: each subcommand reads its
// flags, builds what it needs and runs it until its context ends.
package app

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Version is the build of the operator, set at link time.
var Version = "dev"

// Main runs the subcommand that args name and returns the process's exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "dstack-isolation: "+err.Error())
		return 1
	}
	return 0
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "dstack-isolation",
		Short: "Keeps the projects of a shared dstack server apart, as IsolationProfiles say",
		Long: `dstack-isolation is the dstack isolation operator in one binary.

In a cluster it is run by its Helm chart; of the subcommands people run
policy-server by hand, to serve policies from a folder, and cleanup, to give a
dstack server back when no manager is left to do it.`,
		Version:           Version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(
		newManagerCommand(),
		newPolicyServerCommand(),
		newInjectCommand(),
		newCleanupCommand(),
	)
	return root
}
