package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/controllers"
)

func newCleanupCommand() *cobra.Command {
	var namespace, manager string
	var logs logFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Give dstack servers their own settings back, before the operator is uninstalled",
		Long: `cleanup stops the manager, takes all settings of the operator out of the dstack
servers' workloads, waits until no server pod asks a policy server any more,
deletes what the operator made, and removes the finalizers of the DstackServers.
After it the servers run without policy. The DstackServers and IsolationProfiles
themselves stay.

The Helm chart runs it before it is uninstalled. Run it by hand where a manager
is gone and a DstackServer cannot be deleted:

  dstack-isolation cleanup --namespace dstack`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if namespace == "" {
				return errors.New("--namespace must be set, or POD_NAMESPACE in the environment")
			}
			log, err := logs.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(logr.NewContext(cmd.Context(), log), timeout)
			defer cancel()
			return runCleanup(ctx, namespace, manager)
		},
	}
	f := cmd.Flags()
	f.StringVar(&namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace to clean up (default: $POD_NAMESPACE)")
	f.StringVar(&manager, "manager-deployment", "", "name of the manager's Deployment, which is scaled to zero first")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "how long all of it may take")
	logs.register(cmd, "what the libraries for Kubernetes say")
	return cmd
}

func runCleanup(ctx context.Context, namespace, manager string) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find access to Kubernetes: %w", err)
	}
	scheme, err := NewScheme()
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("build a client: %w", err)
	}
	return controllers.NewCleanup(c, namespace).Run(ctx, manager)
}
