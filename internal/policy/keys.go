package policy

// knownKeys are the keys of dstack 0.20.28 to 0.22.5 in the objects that are
// read here: a run's specification and configuration, its groups and volumes,
// those of fleets, volumes and gateways, and the protocol around it. A key that differs from one of them only in case
// is refused: some reader on the way might take it for the other.
var knownKeys = func() map[string]string {
	all := make(map[string]string)
	for _, keys := range [][]string{protocolKeys, specKeys, configurationKeys, groupKeys, volumeKeys} {
		for _, key := range keys {
			all[key] = key
		}
	}
	for _, keys := range kindTrees {
		keys.collect(all)
	}
	return all
}()

var (
	protocolKeys = []string{"user", "project", "spec", "process"}

	specKeys = []string{
		"run_name", "repo_id", "repo_data", "repo_code_hash", "repo_dir", "file_archives", "working_dir",
		"configuration_path", "configuration", "profile", "ssh_key_pub",
	}

	configurationKeys = []string{
		"type", "name", "image", "user", "privileged", "docker", "entrypoint", "working_dir", "home_dir",
		"registry_auth", "python", "nvcc", "single_branch", "env", "shell", "resources", "priority", "volumes",
		"repos", "files", "dstack", "setup", "commands",
		// of all profiles
		"backends", "regions", "availability_zones", "instance_types", "reservation", "spot_policy", "retry",
		"max_duration", "stop_duration", "max_price", "creation_policy", "idle_duration", "utilization_policy",
		"startup_order", "stop_criteria", "schedule", "fleets", "instances", "tags", "backend_options",
		// of tasks, services and development environments
		"nodes", "groups", "ports", "port", "gateway", "strip_prefix", "model", "https", "auth", "scaling",
		"rate_limits", "probes", "replicas", "ide", "version", "init", "inactivity_duration",
	}

	groupKeys = []string{
		"name", "nodes", "count", "replicas", "scaling", "resources", "spot_policy", "reservation", "commands",
		"ports", "image", "python", "nvcc", "docker", "privileged", "router",
	}

	volumeKeys = []string{"name", "path", "instance_path", "optional"}
)
