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
	"github.com/dstack-isolation/operator/internal/uninstall"
)

// CleanupOptions configure a cleanup.
type CleanupOptions struct {
	// Release is the release of the chart that the cleanup belongs to. Without a
	// name somebody runs it by hand, which is an order.
	Release uninstall.Release
	// Revision of the release at which the cleanup was rendered.
	Revision int
}

func newCleanupCommand() *cobra.Command {
	var o CleanupOptions
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

The Helm chart runs it before it is uninstalled, with --release. Then it restores
nothing unless Helm's record of the release shows that it is being uninstalled, or
annotation isolation.dstack.ai/uninstall on the manager's Deployment has the
release's name, and never while another manager is in the namespace. The
annotation counts once: cleanup removes it.

Without --release it always restores. Run it by hand where a manager is gone and a
DstackServer cannot be deleted:

  dstack-isolation cleanup --namespace dstack`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return err
			}
			log, err := logs.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(logr.NewContext(cmd.Context(), log), timeout)
			defer cancel()
			return runCleanup(ctx, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Release.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace to clean up (default: $POD_NAMESPACE)")
	f.StringVar(&o.Release.Manager, "manager-deployment", "", "name of the manager's Deployment, which is scaled to zero first")
	f.StringVar(&o.Release.Name, "release", "", "name of the chart's release: restore only while it is being uninstalled (default: always restore)")
	f.IntVar(&o.Revision, "release-revision", 1, "revision of the release at which this command was rendered")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "how long all of it may take")
	logs.register(cmd, "what the libraries for Kubernetes say")
	return cmd
}

// Validate checks the flags and says which is wrong.
func (o CleanupOptions) Validate() error {
	var problems []error
	if o.Release.Namespace == "" {
		problems = append(problems, errors.New("--namespace must be set, or POD_NAMESPACE in the environment"))
	}
	if o.Release.Name != "" && o.Release.Manager == "" {
		problems = append(problems, errors.New("--manager-deployment must be set with --release: it identifies the release's manager"))
	}
	if o.Revision < 0 {
		problems = append(problems, fmt.Errorf("--release-revision must not be negative, as %d is", o.Revision))
	}
	return errors.Join(problems...)
}

func runCleanup(ctx context.Context, o CleanupOptions) error {
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
	cleanup := controllers.NewCleanup(c, o.Release.Namespace)
	if o.Release.Name == "" {
		return cleanup.Run(ctx, o.Release.Manager)
	}
	return cleanup.RunFor(ctx, o.Release, o.Revision)
}
