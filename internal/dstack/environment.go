// Package dstack holds dstack's contract, as far as the operator relies on it:
// names of variables and files, wire types, and a client of its HTTP API. All
// literals that begin with DSTACK_ stand here. The package imports nothing else
// of the operator.
package dstack

// Variables that dstack's server reads at its start. Each holds for the whole
// process; a change needs a restart.
const (
	// EnvJobNetworkMode is an integer, 1 to 3; unset means 2, anything else stops
	// the server at its start.
	EnvJobNetworkMode = "DSTACK_SERVER_JOB_NETWORK_MODE"
	// EnvForbidDstackInRuns, present with any value, refuses runs with dstack: true
	// when they are submitted.
	EnvForbidDstackInRuns = "DSTACK_FORBID_DSTACK_IN_RUNS"
	// EnvForbidServicesWithoutGateway, present with any value, refuses services of
	// projects that have no gateway when they are submitted.
	EnvForbidServicesWithoutGateway = "DSTACK_FORBID_SERVICES_WITHOUT_GATEWAY"
	// EnvConfigDisabled, present with any value, keeps the server from reading
	// its config.yml, so that it loads no plugin.
	EnvConfigDisabled = "DSTACK_SERVER_CONFIG_DISABLED"
	// EnvPluginServiceURI is where dstack's built-in rest_plugin sends its
	// requests. No trailing slash: the path is appended as it is.
	EnvPluginServiceURI = "DSTACK_PLUGIN_SERVICE_URI"
	// EnvDatabaseURL names the server's database; unset means an SQLite file in
	// the server directory.
	EnvDatabaseURL = "DSTACK_DATABASE_URL"
	// EnvServerDir moves the server directory.
	EnvServerDir = "DSTACK_SERVER_DIR"
	// EnvHome is the home of the process, in which the server directory is where
	// EnvServerDir does not say otherwise.
	EnvHome = "HOME"
)

// Variables of the operator's own Python plugin, in the same process.
const (
	// EnvPolicyURL is the base URL of the policy server, without trailing slash.
	EnvPolicyURL = "DSTACK_ISOLATION_POLICY_URL"
	// EnvToken is the bearer token for the policy server.
	EnvToken = "DSTACK_ISOLATION_TOKEN"
	// EnvServer is NAMESPACE/NAME of the DstackServer, for messages.
	EnvServer = "DSTACK_ISOLATION_SERVER"
	// EnvCAFile names a PEM file of the authority behind an https EnvPolicyURL;
	// unset means the system's own.
	EnvCAFile = "DSTACK_ISOLATION_CA_FILE"
	// EnvPythonPath is Python's own search path; the plugin is found on it.
	EnvPythonPath = "PYTHONPATH"
)

// Names in the list "plugins" of dstack's config.yml.
const (
	// PluginPython is the entry point of the operator's Python plugin.
	PluginPython = "dstack_isolation"
	// PluginREST is dstack's built-in plugin, always asked last.
	PluginREST = "rest_plugin"
)

const (
	// ConfigFile is the name of the file in the server directory that names
	// plugins and default permissions; read once at start, and only if it exists.
	ConfigFile = "config.yml"
	// DefaultServerDir is the server directory of dstack's image.
	DefaultServerDir = "/root/.dstack/server"
	// DefaultPort is the port of dstack's image.
	DefaultPort = 3000
)

// Keys of default_permissions in dstack's config.yml, with dstack's own default.
const (
	// PermissionCreateProjects: true.
	PermissionCreateProjects = "allow_non_admins_create_projects"
	// PermissionManageSSHFleets: true.
	PermissionManageSSHFleets = "allow_non_admins_manage_ssh_fleets"
	// PermissionManageSecrets: false. Known from FirstSecretsPermission on; older
	// releases do not start with it.
	PermissionManageSecrets = "allow_managers_manage_secrets"
)

// Values of EnvJobNetworkMode.
const (
	// NetworkModeHostForDistributed gives the host's network to tasks of more than
	// one node only.
	NetworkModeHostForDistributed = 1
	// NetworkModeHostWhenPossible gives it to every job that fills its instance.
	// This is what dstack does when nothing is set.
	NetworkModeHostWhenPossible = 2
	// NetworkModeBridge gives it to none.
	NetworkModeBridge = 3
)
