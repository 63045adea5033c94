package policy

// keys are the keys of one of dstack's objects, with what is below each. The
// same stands for a list of such objects. Below nil nothing is known: there are
// texts, numbers or lists of them, or keys of the user's own.
type keys map[string]keys

// What runs consist of in dstack 0.20.28 to 0.22.5. A field that one of these
// releases has is known.
var (
	specKeys = keys{
		"run_name": nil, "repo_id": nil, "repo_code_hash": nil, "repo_dir": nil, "working_dir": nil,
		"configuration_path": nil, "configuration": nil, "profile": nil, "ssh_key_pub": nil,
		"repo_data": {
			"repo_type": nil, "repo_dir": nil, "repo_name": nil, "repo_branch": nil, "repo_hash": nil, "repo_diff": nil,
			"repo_config_name": nil, "repo_config_email": nil,
		},
		"file_archives": {"id": nil, "path": nil},
	}

	// configurationKeys are those of tasks, services and development environments
	// together, and of all profiles.
	configurationKeys = joinKeys(parameterKeys, keys{
		"type": nil, "name": nil, "image": nil, "user": nil, "privileged": nil, "docker": nil, "entrypoint": nil,
		"working_dir": nil, "home_dir": nil, "python": nil, "nvcc": nil, "single_branch": nil, "env": nil, "shell": nil,
		"priority": nil, "volumes": nil, "dstack": nil, "setup": nil, "commands": nil,
		"registry_auth": {"username": nil, "password": nil},
		"resources":     runResourceKeys,
		"repos": {
			"local_path": nil, "url": nil, "branch": nil, "hash": nil, "path": nil, "if_exists": nil,
		},
		"files": {"local_path": nil, "path": nil},

		"nodes": nil, "groups": nil, "ports": portKeys, "port": portKeys, "gateway": nil, "strip_prefix": nil,
		"https": nil, "auth": nil, "scaling": scalingKeys, "replicas": minMaxKeys, "router": routerKeys,
		"ide": nil, "version": nil, "init": nil, "inactivity_duration": nil,
		"model": {
			"type": nil, "name": nil, "format": nil, "prefix": nil, "chat_template": nil, "eos_token": nil,
		},
		"rate_limits": {"prefix": nil, "rps": nil, "burst": nil, "key": {"type": nil, "header": nil}},
		"probes": {
			"type": nil, "url": nil, "method": nil, "body": nil, "timeout": nil, "interval": nil, "ready_after": nil,
			"until_ready": nil, "headers": {"name": nil, "value": nil},
		},
	})

	// parameterKeys may be in the configuration and in a profile.
	parameterKeys = keys{
		"backends": nil, "regions": nil, "availability_zones": nil, "instance_types": nil, "reservation": nil,
		"spot_policy": nil, "max_duration": nil, "stop_duration": nil, "max_price": nil, "creation_policy": nil,
		"idle_duration": nil, "startup_order": nil, "stop_criteria": nil, "fleets": nil, "instances": nil, "tags": nil,
		"retry":              {"on_events": nil, "duration": nil},
		"utilization_policy": {"min_gpu_utilization": nil, "time_window": nil},
		"schedule":           {"cron": nil},
		"backend_options":    {"type": nil, "min_reliability": nil, "min_score": nil, "offer_order": nil},
	}

	profileKeys = joinKeys(parameterKeys, keys{"name": nil, "default": nil})

	// groupKeys are those of the groups of tasks and services.
	groupKeys = keys{
		"name": nil, "nodes": nil, "count": minMaxKeys, "replicas": minMaxKeys, "scaling": scalingKeys,
		"resources": runResourceKeys, "spot_policy": nil, "reservation": nil, "commands": nil, "ports": portKeys,
		"image": nil, "python": nil, "nvcc": nil, "docker": nil, "privileged": nil, "router": routerKeys,
		// No release has these, which are read all the same.
		"volumes": nil, "env": nil, "tags": nil,
	}

	volumeKeys   = keys{"name": nil, "path": nil, "instance_path": nil, "optional": nil}
	fleetRefKeys = keys{"project": nil, "name": nil}
	instanceKeys = keys{"name": nil, "hostname": nil, "fleet": nil, "instance": nil}

	minMaxKeys  = keys{"min": nil, "max": nil}
	portKeys    = keys{"local_port": nil, "container_port": nil}
	scalingKeys = keys{
		"metric": nil, "target": nil, "window": nil, "scale_up_delay": nil, "scale_down_delay": nil,
	}
	routerKeys      = keys{"type": nil, "policy": nil, "pd_disaggregation": nil}
	runResourceKeys = keys{
		// Up to dstack 0.20.28 cpu is a range.
		"cpu":    {"arch": nil, "count": minMaxKeys, "min": nil, "max": nil},
		"memory": minMaxKeys, "shm_size": nil, "disk": {"size": minMaxKeys},
		"gpu": {
			"vendor": nil, "name": nil, "count": minMaxKeys, "memory": minMaxKeys, "total_memory": minMaxKeys,
			"compute_capability": nil,
		},
	}

	protocolKeys = keys{"user": nil, "project": nil, "spec": nil, "process": nil}
)

// knownKeys are all of these, those of fleets, volumes and gateways, and the
// protocol's. A key that differs from one of them only in case
// is refused: some reader on the way might take it for the other.
var knownKeys = func() map[string]string {
	all := make(map[string]string)
	for _, k := range []keys{
		protocolKeys, specKeys, configurationKeys, profileKeys, groupKeys, volumeKeys, fleetRefKeys, instanceKeys,
	} {
		k.collect(all)
	}
	for _, keys := range kindTrees {
		keys.collect(all)
	}
	return all
}()

// collect adds the keys, and those below them, to all.
func (k keys) collect(all map[string]string) {
	for key, below := range k {
		all[key] = key
		below.collect(all)
	}
}

func joinKeys(some, others keys) keys {
	all := make(keys, len(some)+len(others))
	for _, k := range []keys{some, others} {
		for key, below := range k {
			all[key] = below
		}
	}
	return all
}

// object is what is known of one kind of object, ready to be asked by the bytes
// of a name: the name itself, so that none is allocated, and what is below it.
type object map[string]member

type member struct {
	name  string
	below object
}

// ready turns keys into an object.
func (k keys) ready() object {
	if k == nil {
		return nil
	}
	o := make(object, len(k))
	for key, below := range k {
		o[key] = member{key, below.ready()}
	}
	return o
}

var (
	specObject          = specKeys.ready()
	configurationObject = configurationKeys.ready()
	profileObject       = profileKeys.ready()
	groupObject         = groupKeys.ready()
	volumeObject        = volumeKeys.ready()
	fleetRefObject      = fleetRefKeys.ready()
	instanceObject      = instanceKeys.ready()
)
