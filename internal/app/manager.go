package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/inject"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
)

// ManagerOptions configure the manager process.
type ManagerOptions struct {
	Namespace         string
	Image             string
	ImagePullPolicy   string
	ServiceAccount    string
	MetricsAddress    string
	HealthAddress     string
	LeaderElect       bool
	Identity          string
	InjectionDeadline time.Duration
	Log               logr.Logger
}

func newManagerCommand() *cobra.Command {
	var o ManagerOptions
	var logs logFlags
	cmd := &cobra.Command{
		Use:   "manager",
		Short: "Run the controllers that keep dstack servers as IsolationProfiles ask",
		Long: `manager watches the DstackServers and IsolationProfiles of one namespace. It
runs the policy servers, puts settings into the dstack servers' own workloads
by server-side apply, and says in the status of both kinds what is in force.

It is run by the Helm chart. It takes its Kubernetes access from the pod, or
from KUBECONFIG.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return err
			}
			var err error
			if o.Log, err = logs.logger(cmd.ErrOrStderr()); err != nil {
				return err
			}
			config, err := ctrl.GetConfig()
			if err != nil {
				return fmt.Errorf("find access to Kubernetes: %w", err)
			}
			return RunManager(cmd.Context(), config, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace to work in (default: $POD_NAMESPACE)")
	f.StringVar(&o.Image, "image", "", "the operator's own image, for policy servers and for the init container in server pods (required)")
	f.StringVar(&o.ImagePullPolicy, "image-pull-policy", "", "pull policy of that image: Always, IfNotPresent or Never (default: Kubernetes' own)")
	f.StringVar(&o.ServiceAccount, "policy-server-service-account", "isolation-policy-server", "ServiceAccount of the policy servers")
	f.StringVar(&o.MetricsAddress, "metrics-bind-address", ":8080", "address of the Prometheus metrics, plain HTTP; 0 turns them off")
	f.StringVar(&o.HealthAddress, "health-probe-bind-address", ":8081", "address of /healthz and /readyz")
	f.BoolVar(&o.LeaderElect, "leader-elect", false, "let only one of several managers work at a time")
	f.StringVar(&o.Identity, "identity", os.Getenv("POD_NAME"), "name under which the lease is held; who comes back under it goes on at once (default: $POD_NAME)")
	f.DurationVar(&o.InjectionDeadline, "injection-deadline", controllers.DefaultInjectionDeadline, "how long the first server pod with the settings may take to become ready before they are taken back")
	logs.register(cmd, "what the libraries for Kubernetes say")
	return cmd
}

// Validate checks the flags and says which is wrong.
func (o ManagerOptions) Validate() error {
	var problems []error
	if o.Namespace == "" {
		problems = append(problems, errors.New("--namespace must be set, or POD_NAMESPACE in the environment"))
	}
	if o.Image == "" {
		problems = append(problems, errors.New("--image must name the operator's own image"))
	}
	switch corev1.PullPolicy(o.ImagePullPolicy) {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		problems = append(problems, fmt.Errorf("--image-pull-policy must be Always, IfNotPresent or Never, not %q", o.ImagePullPolicy))
	}
	if o.InjectionDeadline < 10*time.Second {
		problems = append(problems, fmt.Errorf("--injection-deadline must be at least 10s, not %s", o.InjectionDeadline))
	}
	return errors.Join(problems...)
}

// NewScheme knows all kinds that the operator reads or writes.
func NewScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	return scheme, errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme))
}

// RunManager runs the controllers until ctx ends.
func RunManager(ctx context.Context, config *rest.Config, o ManagerOptions) error {
	scheme, err := NewScheme()
	if err != nil {
		return err
	}
	lock, err := leaseLock(config, o)
	if err != nil {
		return err
	}
	options := managerOptions(o, scheme)
	options.LeaderElectionResourceLockInterface = lock
	mgr, err := ctrl.NewManager(config, options)
	if err != nil {
		return fmt.Errorf("build the manager: %w", err)
	}
	if err := setup(ctx, mgr, o); err != nil {
		return err
	}
	o.Log.Info("Started manager", "version", Version, "namespace", o.Namespace, "image", o.Image)
	err = mgr.Start(ctx)
	return errors.Join(err, leave(config, scheme, o.Namespace))
}

func managerOptions(o ManagerOptions, scheme *runtime.Scheme) ctrl.Options {
	timeout, lease, renew, retry := 2*time.Minute, leaseDuration, renewDeadline, leaseRetry
	options := ctrl.Options{
		Scheme:                        scheme,
		Logger:                        o.Log,
		Cache:                         controllers.CacheOptions(o.Namespace),
		Metrics:                       metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress:        o.HealthAddress,
		LeaderElection:                o.LeaderElect,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
	}
	options.Controller.ReconciliationTimeout = timeout
	return options
}

// setup registers indexes, reconcilers and health checks.
func setup(ctx context.Context, mgr ctrl.Manager, o ManagerOptions) error {
	if err := controllers.SetupIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return fmt.Errorf("set up indexes: %w", err)
	}
	now := clock.RealClock{}
	resolver := controllers.NewResolver(mgr.GetClient(), now)
	recorder := mgr.GetEventRecorder("dstack-isolation")
	server := controllers.NewDstackServerReconciler(controllers.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Resolver: resolver, Prober: observe.New(nil),
		Recorder: recorder, Clock: now, Plugin: inject.PluginFiles(), InjectionDeadline: o.InjectionDeadline,
		Settle: controllers.DefaultSettle, ProxyPatience: controllers.DefaultProxyPatience,
		Manifests: manifests.Options{Image: o.Image, ImagePullPolicy: corev1.PullPolicy(o.ImagePullPolicy), ServiceAccount: o.ServiceAccount},
	})
	profile := controllers.NewIsolationProfileReconciler(mgr.GetClient(), resolver, recorder, now)
	synced := func(req *http.Request) error {
		if !mgr.GetCache().WaitForCacheSync(req.Context()) {
			return errors.New("the caches are not filled yet")
		}
		return nil
	}
	return errors.Join(
		server.SetupWithManager(mgr),
		profile.SetupWithManager(mgr),
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("caches", synced),
		metrics.Registry.Register(newConditions(mgr.GetClient())),
	)
}

// leave lets the DstackServers go when the manager stops because its namespace
// is being deleted: nobody would be left to do it.
func leave(config *rest.Config, scheme *runtime.Scheme, namespace string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("build a client: %w", err)
	}
	if err := controllers.NewCleanup(c, namespace).LeaveTerminatingNamespace(ctx); err != nil {
		return fmt.Errorf("let the DstackServers of a namespace that is being deleted go: %w", err)
	}
	return nil
}
