package policy

// keyTree are the keys of one of dstack's objects, with what is below each; the
// same tree stands for a list of such objects. Where nil stands there are texts,
// numbers, or lists of them: an object there makes the key unknown.
type keyTree map[string]keyTree

// What fleets, volumes and gateways consist of in dstack 0.20.28 to 0.22.5. A
// field that one of these releases has is known.
var (
	fleetSpecKeys = keyTree{"configuration": nil, "configuration_path": nil, "profile": nil, "autocreated": nil}

	fleetKeys = keyTree{
		"type": nil, "name": nil, "placement": nil, "blocks": nil, "nodes": {"min": nil, "target": nil, "max": nil},
		"reservation": nil, "resources": resourceKeys, "backends": nil, "regions": nil, "availability_zones": nil,
		"instance_types": nil, "spot_policy": nil, "retry": retryKeys, "max_price": nil, "idle_duration": nil,
		"tags": nil, "backend_options": backendOptionKeys, "ssh_config": nil, "env": nil,
	}

	fleetProfileKeys = keyTree{
		"name": nil, "default": nil, "backends": nil, "regions": nil, "availability_zones": nil, "instance_types": nil,
		"reservation": nil, "spot_policy": nil, "retry": retryKeys, "max_duration": nil, "stop_duration": nil,
		"max_price": nil, "creation_policy": nil, "idle_duration": nil,
		"utilization_policy": {"min_gpu_utilization": nil, "time_window": nil}, "startup_order": nil,
		"stop_criteria": nil, "schedule": {"cron": nil}, "fleets": fleetReferenceKeys,
		"instances": {"name": nil, "hostname": nil, "fleet": fleetReferenceKeys, "instance": nil},
		"tags":      nil, "backend_options": backendOptionKeys,
	}

	fleetReferenceKeys = keyTree{"project": nil, "name": nil}
	retryKeys          = keyTree{"on_events": nil, "duration": nil}
	backendOptionKeys  = keyTree{"type": nil, "min_reliability": nil, "min_score": nil, "offer_order": nil}

	rangeKeys    = keyTree{"min": nil, "max": nil}
	resourceKeys = keyTree{
		"cpu": {"arch": nil, "count": rangeKeys, "min": nil, "max": nil}, "memory": rangeKeys, "shm_size": nil,
		"gpu": {
			"vendor": nil, "name": nil, "count": rangeKeys, "memory": rangeKeys, "total_memory": rangeKeys,
			"compute_capability": nil,
		},
		"disk": {"size": rangeKeys},
	}

	sshConfigKeys = keyTree{
		"user": nil, "port": nil, "identity_file": nil, "ssh_key": sshKeyKeys, "proxy_jump": proxyJumpKeys,
		"hosts": nil, "network": nil,
	}
	sshHostKeys = keyTree{
		"hostname": nil, "port": nil, "user": nil, "identity_file": nil, "proxy_jump": proxyJumpKeys,
		"internal_ip": nil, "ssh_key": sshKeyKeys, "blocks": nil,
	}
	proxyJumpKeys = keyTree{"hostname": nil, "port": nil, "user": nil, "identity_file": nil, "ssh_key": sshKeyKeys}
	sshKeyKeys    = keyTree{"public": nil, "private": nil}

	volumeSpecKeys = keyTree{"configuration": nil, "configuration_path": nil}
	// networkVolumeKeys are those of all backends together.
	networkVolumeKeys = keyTree{
		"type": nil, "backend": nil, "name": nil, "auto_cleanup_duration": nil, "tags": nil, "size": nil,
		"volume_id": nil, "region": nil, "availability_zone": nil, "claim_name": nil, "storage_class_name": nil,
		"access_modes": nil, "read_only": nil,
	}

	gatewaySpecKeys = keyTree{"configuration": nil, "configuration_path": nil}
	gatewayKeys     = keyTree{
		"type": nil, "name": nil, "default": nil, "backend": nil, "region": nil, "instance_type": nil,
		"router": {"type": nil, "policy": nil}, "domain": nil, "public_ip": nil, "load_balancer": {"type": nil},
		"certificate": {"type": nil, "arn": nil, "name": nil}, "replicas": nil, "tags": nil,
	}
)

// kindTrees are all of these.
var kindTrees = []keyTree{
	fleetSpecKeys, fleetKeys, fleetProfileKeys, sshConfigKeys, sshHostKeys,
	volumeSpecKeys, networkVolumeKeys, gatewaySpecKeys, gatewayKeys,
}

// collect adds the keys of the tree to all.
func (t keyTree) collect(all map[string]string) {
	for key, below := range t {
		all[key] = key
		below.collect(all)
	}
}
