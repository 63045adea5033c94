package app

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policyserver"
)

// policyServerFlags configure the policy server.
type policyServerFlags struct {
	namespace, server string
	from              string
	listen, health    string
	tokenFile         string
	earlierTokens     string
	drainDelay        time.Duration
	log               logFlags
}

func newPolicyServerCommand() *cobra.Command {
	var flags policyServerFlags
	cmd := &cobra.Command{
		Use:   "policy-server",
		Short: "Decides what dstack asks: which runs, fleets, volumes and gateways are allowed",
		Long: `policy-server answers dstack's plugin requests by the IsolationProfiles of one
DstackServer. The manager runs it in the cluster; with --from it serves the
objects in the YAML files of a folder, without Kubernetes.

In a cluster it watches the DstackServer NAMESPACE/NAME and the profiles of its
namespace. It is ready once it has seen them; without the DstackServer it
refuses everything. While the API server is away, and while the DstackServer is
being deleted or is gone, it goes on with the last policy that it knew.

With --from it reads *.yaml, *.yml and *.json of the folder, not of folders in
it, as strictly as an API server: unknown fields, duplicate keys and values that
the CustomResourceDefinitions refuse are errors, and so are other kinds of
object and profiles of a DstackServer that is not there, and whatever makes a
profile Accepted=False in a cluster, such as a rule that does not compile. A
folder with an error is not served: all errors are printed, and the command ends
with a status other than 0. Later changes are taken within a second; if they
bring an error, the last valid policy is kept, /readyz stays ok, and log,
/revision and the metric dstack_isolation_policy_stale say so. The server
settings that the profiles ask for are taken as running: set the network mode
in the dstack server yourself.

Decisions are logged as JSON on standard error, without specifications: refusals,
used exceptions and what audit mode would have refused always, others with
--log-level debug.

Ports: --listen takes dstack's requests under /apply_policies/, and /readyz and
/revision; --health-listen has /healthz, /readyz and /metrics. Neither speaks
TLS: keep both inside the cluster or the machine. With --token-file, /revision
needs the token too. A connection without the right token ends with its answer.`,
		Example: `  # Serve a folder, and let a dstack server on this machine ask it:
  dstack-isolation policy-server --from ./policies --listen 127.0.0.1:8080 --health-listen 127.0.0.1:8081
  ` + dstack.EnvPluginServiceURI + `=http://127.0.0.1:8080 dstack server   # with "plugins: [rest_plugin]" in its config.yml

  # Ask it yourself:
  curl -d '{"user": "ada", "project": "research-nlp", "spec": {}}' http://127.0.0.1:8080/apply_policies/on_run_apply

  # In a cluster, as the manager does it:
  dstack-isolation policy-server --namespace dstack --server main --token-file /etc/dstack-isolation/token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPolicyServer(cmd, flags) },
	}
	f := cmd.Flags()
	f.StringVar(&flags.namespace, "namespace", "", "namespace of the DstackServer and its profiles")
	f.StringVar(&flags.server, "server", "", "the DstackServer: NAME with --namespace, or NAMESPACE/NAME; with --from only needed when the folder holds several")
	f.StringVar(&flags.from, "from", "", "folder with YAML files to serve instead of the cluster's objects")
	f.StringVar(&flags.listen, "listen", ":8080", "address for dstack's requests")
	f.StringVar(&flags.health, "health-listen", ":8081", "address for probes and metrics")
	f.StringVar(&flags.tokenFile, "token-file", "", "file with the bearer token that clients present; read again when it changes. A wrong token is always refused, and so is a missing one, except in a cluster while dstack's built-in rest_plugin is in use, which can send none")
	f.StringVar(&flags.earlierTokens, "earlier-tokens", "", "folder with tokens that are accepted beside that of --token-file, one a file: for clients that were started before the token was changed")
	f.DurationVar(&flags.drainDelay, "drain-delay", 5*time.Second, "how long requests are still answered after a signal to stop, while /readyz already says no")
	flags.log.register(cmd, "decisions that allow")
	return cmd
}

// validate checks the flags together and returns the DstackServer that they
// name; the zero value with --from means the only one of the folder.
func (f *policyServerFlags) validate() (types.NamespacedName, error) {
	if f.drainDelay < 0 || f.drainDelay > time.Minute {
		return types.NamespacedName{}, fmt.Errorf("--drain-delay %s must be between 0s and 1m", f.drainDelay)
	}
	if f.earlierTokens != "" && f.tokenFile == "" {
		return types.NamespacedName{}, errors.New("--earlier-tokens needs --token-file: without it every request is accepted anyway")
	}
	return f.serverName()
}

func (f *policyServerFlags) serverName() (types.NamespacedName, error) {
	name := types.NamespacedName{Namespace: f.namespace, Name: f.server}
	if namespace, rest, both := strings.Cut(f.server, "/"); both {
		if f.namespace != "" && f.namespace != namespace {
			return types.NamespacedName{}, fmt.Errorf("--namespace %s and --server %s name two namespaces: leave --namespace out", f.namespace, f.server)
		}
		name = types.NamespacedName{Namespace: namespace, Name: rest}
	}
	switch {
	case f.from != "" && f.server == "" && f.namespace == "":
		return types.NamespacedName{}, nil
	case name.Namespace == "" || name.Name == "" || strings.Contains(name.Name, "/"):
		if f.from != "" {
			return types.NamespacedName{}, errors.New("--server must be NAMESPACE/NAME; leave it and --namespace out when the folder holds one DstackServer")
		}
		return types.NamespacedName{}, errors.New("the DstackServer must be named: set --namespace and --server, or --from for a folder")
	}
	return name, nil
}

func runPolicyServer(cmd *cobra.Command, flags policyServerFlags) error {
	name, err := flags.validate()
	if err != nil {
		return err
	}
	log, err := flags.log.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	source, err := flags.source(name, log)
	if err != nil {
		return err
	}
	var network net.ListenConfig
	listener, err := network.Listen(cmd.Context(), "tcp", flags.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	health, err := network.Listen(cmd.Context(), "tcp", flags.health)
	if err != nil {
		return fmt.Errorf("--health-listen: %w", err)
	}
	defer health.Close()
	server, err := policyserver.New(policyserver.Options{
		Source: source, Listener: listener, HealthListener: health,
		TokenFile: flags.tokenFile, EarlierTokens: flags.earlierTokens, DrainDelay: flags.drainDelay,
		Version: Version, Log: log.WithName("policy-server"),
	})
	if err != nil {
		return err
	}
	spare := make([]byte, spareMemory)
	defer runtime.KeepAlive(spare)
	return server.Run(cmd.Context())
}

// spareMemory is counted by the garbage collector, but never written and so
// never there: by as much the collector lets garbage grow before it sets in. A
// collection takes as long as a hundred decisions, and under little CPU they
// wait for it. Unlike a higher GOGC it costs a server with many profiles no more
// than one with few.
const spareMemory = 16 << 20

func (f *policyServerFlags) source(name types.NamespacedName, log logr.Logger) (policyserver.Source, error) {
	if f.from != "" {
		return policyserver.NewFileSource(f.from, name, log)
	}
	// KUBECONFIG, else the pod's service account, else the user's default file.
	kube, err := config.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w; set KUBECONFIG, or --from to serve a folder", err)
	}
	// Two lists and two watches are all it ever asks for.
	kube.QPS, kube.Burst = 5, 10
	kube.UserAgent = "dstack-isolation-policy-server/" + Version
	return policyserver.NewKubernetesSource(kube, name, log)
}
