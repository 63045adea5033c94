package policy

// What fleets, volumes and gateways consist of in dstack 0.20.28 to 0.22.5. A
// field that one of these releases has is known.
var (
	fleetSpecKeys = keys{"configuration": nil, "configuration_path": nil, "profile": nil, "autocreated": nil}

	fleetKeys = keys{
		"type": nil, "name": nil, "placement": nil, "blocks": nil, "nodes": {"min": nil, "target": nil, "max": nil},
		"reservation": nil, "resources": resourceKeys, "backends": nil, "regions": nil, "availability_zones": nil,
		"instance_types": nil, "spot_policy": nil, "retry": retryKeys, "max_price": nil, "idle_duration": nil,
		"tags": nil, "backend_options": backendOptionKeys, "ssh_config": nil, "env": nil,
	}

	fleetProfileKeys = keys{
		"name": nil, "default": nil, "backends": nil, "regions": nil, "availability_zones": nil, "instance_types": nil,
		"reservation": nil, "spot_policy": nil, "retry": retryKeys, "max_duration": nil, "stop_duration": nil,
		"max_price": nil, "creation_policy": nil, "idle_duration": nil,
		"utilization_policy": {"min_gpu_utilization": nil, "time_window": nil}, "startup_order": nil,
		"stop_criteria": nil, "schedule": {"cron": nil}, "fleets": fleetReferenceKeys,
		"instances": {"name": nil, "hostname": nil, "fleet": fleetReferenceKeys, "instance": nil},
		"tags":      nil, "backend_options": backendOptionKeys,
	}

	fleetReferenceKeys = keys{"project": nil, "name": nil}
	retryKeys          = keys{"on_events": nil, "duration": nil}
	backendOptionKeys  = keys{"type": nil, "min_reliability": nil, "min_score": nil, "offer_order": nil}

	rangeKeys    = keys{"min": nil, "max": nil}
	resourceKeys = keys{
		"cpu": {"arch": nil, "count": rangeKeys, "min": nil, "max": nil}, "memory": rangeKeys, "shm_size": nil,
		"gpu": {
			"vendor": nil, "name": nil, "count": rangeKeys, "memory": rangeKeys, "total_memory": rangeKeys,
			"compute_capability": nil,
		},
		"disk": {"size": rangeKeys},
	}

	sshConfigKeys = keys{
		"user": nil, "port": nil, "identity_file": nil, "ssh_key": sshKeyKeys, "proxy_jump": proxyJumpKeys,
		"hosts": nil, "network": nil,
	}
	sshHostKeys = keys{
		"hostname": nil, "port": nil, "user": nil, "identity_file": nil, "proxy_jump": proxyJumpKeys,
		"internal_ip": nil, "ssh_key": sshKeyKeys, "blocks": nil,
	}
	proxyJumpKeys = keys{"hostname": nil, "port": nil, "user": nil, "identity_file": nil, "ssh_key": sshKeyKeys}
	sshKeyKeys    = keys{"public": nil, "private": nil}

	volumeSpecKeys = keys{"configuration": nil, "configuration_path": nil}
	// networkVolumeKeys are those of all backends together.
	networkVolumeKeys = keys{
		"type": nil, "backend": nil, "name": nil, "auto_cleanup_duration": nil, "tags": nil, "size": nil,
		"volume_id": nil, "region": nil, "availability_zone": nil, "claim_name": nil, "storage_class_name": nil,
		"access_modes": nil, "read_only": nil,
	}

	gatewaySpecKeys = keys{"configuration": nil, "configuration_path": nil}
	gatewayKeys     = keys{
		"type": nil, "name": nil, "default": nil, "backend": nil, "region": nil, "instance_type": nil,
		"router": {"type": nil, "policy": nil}, "domain": nil, "public_ip": nil, "load_balancer": {"type": nil},
		"certificate": {"type": nil, "arn": nil, "name": nil}, "replicas": nil, "tags": nil,
	}
)

// kindTrees are all of these.
var kindTrees = []keys{
	fleetSpecKeys, fleetKeys, fleetProfileKeys, sshConfigKeys, sshHostKeys,
	volumeSpecKeys, networkVolumeKeys, gatewaySpecKeys, gatewayKeys,
}
