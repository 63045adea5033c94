package policy

import "maps"

// keys are the keys of one of dstack's objects, with what is below each. The
// same stands for a list of such objects.
type keys map[string]node

// node is what is below a key. Where there is nothing there are texts, numbers
// or lists of them, or keys of the user's own. It is a struct because linters
// follow maps of themselves without end.
type node struct{ below keys }

// What runs consist of in dstack 0.20.28 to 0.22.5. A field that one of these
// releases has is known.
var (
	specKeys = keys{
		"run_name": {}, "repo_id": {}, "repo_code_hash": {}, "repo_dir": {}, "working_dir": {},
		"configuration_path": {}, "configuration": {}, "profile": {}, "ssh_key_pub": {},
		"repo_data": {keys{
			"repo_type": {}, "repo_dir": {}, "repo_name": {}, "repo_branch": {}, "repo_hash": {}, "repo_diff": {},
			"repo_config_name": {}, "repo_config_email": {},
		}},
		"file_archives": {keys{"id": {}, "path": {}}},
	}

	// commonKeys are those of all kinds of run, the others those of some. Together
	// they are configurationKeys.
	commonKeys = joinKeys(parameterKeys, keys{
		"type": {}, "name": {}, "image": {}, "user": {}, "privileged": {}, "docker": {}, "entrypoint": {},
		"working_dir": {}, "home_dir": {}, "python": {}, "nvcc": {}, "single_branch": {}, "env": {}, "shell": {},
		"priority": {}, "volumes": {}, "dstack": {}, "setup": {},
		"registry_auth": {keys{"username": {}, "password": {}}},
		"resources":     {runResourceKeys},
		"repos": {keys{
			"local_path": {}, "url": {}, "branch": {}, "hash": {}, "path": {}, "if_exists": {},
		}},
		"files": {keys{"local_path": {}, "path": {}}},
	})
	taskKeys    = keys{"commands": {}, "ports": {portKeys}, "nodes": {}, "groups": {}}
	serviceKeys = keys{
		"commands": {}, "port": {portKeys}, "gateway": {}, "strip_prefix": {}, "https": {}, "auth": {},
		"groups": {}, "replicas": {minMaxKeys}, "scaling": {scalingKeys}, "router": {routerKeys},
		"model": {keys{
			"type": {}, "name": {}, "format": {}, "prefix": {}, "chat_template": {}, "eos_token": {},
		}},
		"rate_limits": {keys{"prefix": {}, "rps": {}, "burst": {}, "key": {keys{"type": {}, "header": {}}}}},
		"probes": {keys{
			"type": {}, "url": {}, "method": {}, "body": {}, "timeout": {}, "interval": {}, "ready_after": {},
			"until_ready": {}, "headers": {keys{"name": {}, "value": {}}},
		}},
	}
	devEnvironmentKeys = keys{
		"ide": {}, "version": {}, "init": {}, "inactivity_duration": {}, "ports": {portKeys},
	}
	configurationKeys = joinKeys(commonKeys, taskKeys, serviceKeys, devEnvironmentKeys)

	// parameterKeys may be in the configuration and in a profile.
	parameterKeys = keys{
		"backends": {}, "regions": {}, "availability_zones": {}, "instance_types": {}, "reservation": {},
		"spot_policy": {}, "max_duration": {}, "stop_duration": {}, "max_price": {}, "creation_policy": {},
		"idle_duration": {}, "startup_order": {}, "stop_criteria": {}, "fleets": {}, "instances": {}, "tags": {},
		"retry":              {keys{"on_events": {}, "duration": {}}},
		"utilization_policy": {keys{"min_gpu_utilization": {}, "time_window": {}}},
		"schedule":           {keys{"cron": {}}},
		"backend_options":    {keys{"type": {}, "min_reliability": {}, "min_score": {}, "offer_order": {}}},
	}

	profileKeys = joinKeys(parameterKeys, keys{"name": {}, "default": {}})

	// groupKeys are those of the groups of tasks and services.
	groupKeys = joinKeys(taskGroupKeys, serviceGroupKeys, keys{
		// No release has these, which are read all the same.
		"volumes": {}, "env": {}, "tags": {},
	})
	taskGroupKeys = keys{
		"name": {}, "nodes": {}, "resources": {runResourceKeys}, "commands": {}, "ports": {portKeys},
	}
	serviceGroupKeys = keys{
		"name": {}, "count": {minMaxKeys}, "replicas": {minMaxKeys}, "scaling": {scalingKeys},
		"resources": {runResourceKeys}, "spot_policy": {}, "reservation": {}, "commands": {}, "image": {},
		"python": {}, "nvcc": {}, "docker": {}, "privileged": {}, "router": {routerKeys},
	}

	volumeKeys   = keys{"name": {}, "path": {}, "instance_path": {}, "optional": {}}
	fleetRefKeys = keys{"project": {}, "name": {}}
	instanceKeys = keys{"name": {}, "hostname": {}, "fleet": {}, "instance": {}}

	minMaxKeys  = keys{"min": {}, "max": {}}
	portKeys    = keys{"local_port": {}, "container_port": {}}
	scalingKeys = keys{
		"metric": {}, "target": {}, "window": {}, "scale_up_delay": {}, "scale_down_delay": {},
	}
	routerKeys      = keys{"type": {}, "policy": {}, "pd_disaggregation": {}}
	runResourceKeys = keys{
		// Up to dstack 0.20.28 cpu is a range.
		"cpu":    {keys{"arch": {}, "count": {minMaxKeys}, "min": {}, "max": {}}},
		"memory": {minMaxKeys}, "shm_size": {}, "disk": {keys{"size": {minMaxKeys}}},
		"gpu": {keys{
			"vendor": {}, "name": {}, "count": {minMaxKeys}, "memory": {minMaxKeys}, "total_memory": {minMaxKeys},
			"compute_capability": {},
		}},
	}

	protocolKeys = keys{"user": {}, "project": {}, "spec": {}, "process": {}}
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
	for key, n := range k {
		all[key] = key
		n.below.collect(all)
	}
}

func joinKeys(parts ...keys) keys {
	all := make(keys)
	for _, k := range parts {
		maps.Copy(all, k)
	}
	return all
}

// kindSet are kinds of run.
type kindSet uint8

const (
	ofTasks kindSet = 1 << iota
	ofServices
	ofDevEnvironments
)

// kindsOfRuns are the values of configuration.type.
var kindsOfRuns = map[string]kindSet{
	kindTask: ofTasks, kindService: ofServices, kindDevEnvironment: ofDevEnvironments,
}

// object is what is known of one kind of object, ready to be asked by the bytes
// of a name: the name itself, so that none is allocated, and what is below it.
type object map[string]member

type member struct {
	name  string
	below object
	// of are the kinds of run that have it; 0 for all.
	of kindSet
}

// ready turns keys into an object.
func (k keys) ready() object {
	if k == nil {
		return nil
	}
	o := make(object, len(k))
	for key, n := range k {
		o[key] = member{name: key, below: n.below.ready()}
	}
	return o
}

// having notes that a kind of run has the keys, as not all kinds have.
func (o object) having(kind kindSet, k keys) object {
	for key := range k {
		m := o[key]
		m.of |= kind
		o[key] = m
	}
	return o
}

var (
	specObject          = specKeys.ready()
	configurationObject = configurationKeys.ready().
				having(ofTasks, taskKeys).having(ofServices, serviceKeys).having(ofDevEnvironments, devEnvironmentKeys)
	profileObject  = profileKeys.ready()
	groupObject    = groupKeys.ready().having(ofTasks, taskGroupKeys).having(ofServices, serviceGroupKeys)
	volumeObject   = volumeKeys.ready()
	fleetRefObject = fleetRefKeys.ready()
	instanceObject = instanceKeys.ready()
)
