package policy

// What fleets, volumes and gateways consist of in dstack 0.20.28 to 0.22.5. A
// field that one of these releases has is known.
var (
	fleetSpecKeys = keys{"configuration": {}, "configuration_path": {}, "profile": {}, "autocreated": {}}

	fleetKeys = keys{
		"type": {}, "name": {}, "placement": {}, "blocks": {}, "nodes": {keys{"min": {}, "target": {}, "max": {}}},
		"reservation": {}, "resources": {resourceKeys}, "backends": {}, "regions": {}, "availability_zones": {},
		"instance_types": {}, "spot_policy": {}, "retry": {retryKeys}, "max_price": {}, "idle_duration": {},
		"tags": {}, "backend_options": {backendOptionKeys}, "ssh_config": {}, "env": {},
	}

	fleetProfileKeys = keys{
		"name": {}, "default": {}, "backends": {}, "regions": {}, "availability_zones": {}, "instance_types": {},
		"reservation": {}, "spot_policy": {}, "retry": {retryKeys}, "max_duration": {}, "stop_duration": {},
		"max_price": {}, "creation_policy": {}, "idle_duration": {},
		"utilization_policy": {keys{"min_gpu_utilization": {}, "time_window": {}}}, "startup_order": {},
		"stop_criteria": {}, "schedule": {keys{"cron": {}}}, "fleets": {fleetReferenceKeys},
		"instances": {keys{"name": {}, "hostname": {}, "fleet": {fleetReferenceKeys}, "instance": {}}},
		"tags":      {}, "backend_options": {backendOptionKeys},
	}

	fleetReferenceKeys = keys{"project": {}, "name": {}}
	retryKeys          = keys{"on_events": {}, "duration": {}}
	backendOptionKeys  = keys{"type": {}, "min_reliability": {}, "min_score": {}, "offer_order": {}}

	rangeKeys    = keys{"min": {}, "max": {}}
	resourceKeys = keys{
		"cpu": {keys{"arch": {}, "count": {rangeKeys}, "min": {}, "max": {}}}, "memory": {rangeKeys}, "shm_size": {},
		"gpu": {keys{
			"vendor": {}, "name": {}, "count": {rangeKeys}, "memory": {rangeKeys}, "total_memory": {rangeKeys},
			"compute_capability": {},
		}},
		"disk": {keys{"size": {rangeKeys}}},
	}

	sshConfigKeys = keys{
		"user": {}, "port": {}, "identity_file": {}, "ssh_key": {sshKeyKeys}, "proxy_jump": {proxyJumpKeys},
		"hosts": {}, "network": {},
	}
	sshHostKeys = keys{
		"hostname": {}, "port": {}, "user": {}, "identity_file": {}, "proxy_jump": {proxyJumpKeys},
		"internal_ip": {}, "ssh_key": {sshKeyKeys}, "blocks": {},
	}
	proxyJumpKeys = keys{"hostname": {}, "port": {}, "user": {}, "identity_file": {}, "ssh_key": {sshKeyKeys}}
	sshKeyKeys    = keys{"public": {}, "private": {}}

	volumeSpecKeys = keys{"configuration": {}, "configuration_path": {}}
	// networkVolumeKeys are those of all backends together.
	networkVolumeKeys = keys{
		"type": {}, "backend": {}, "name": {}, "auto_cleanup_duration": {}, "tags": {}, "size": {},
		"volume_id": {}, "region": {}, "availability_zone": {}, "claim_name": {}, "storage_class_name": {},
		"access_modes": {}, "read_only": {},
	}

	gatewaySpecKeys = keys{"configuration": {}, "configuration_path": {}}
	gatewayKeys     = keys{
		"type": {}, "name": {}, "default": {}, "backend": {}, "region": {}, "instance_type": {},
		"router": {keys{"type": {}, "policy": {}}}, "domain": {}, "public_ip": {}, "load_balancer": {keys{"type": {}}},
		"certificate": {keys{"type": {}, "arn": {}, "name": {}}}, "replicas": {}, "tags": {},
	}
)

// kindTrees are all of these.
var kindTrees = []keys{
	fleetSpecKeys, fleetKeys, fleetProfileKeys, sshConfigKeys, sshHostKeys,
	volumeSpecKeys, networkVolumeKeys, gatewaySpecKeys, gatewayKeys,
}
