package policy

// keyTree are the keys of one of dstack's objects, with what is below each; the
// same tree stands for a list of such objects.
type keyTree map[string]keyNode

// keyNode is what is below a key. Where there is nothing there are texts,
// numbers, or lists of them: an object there makes the key unknown. It is a
// struct because linters follow maps of themselves without end.
type keyNode struct{ below keyTree }

// What fleets, volumes and gateways consist of in dstack 0.20.28 to 0.22.5. A
// field that one of these releases has is known.
var (
	fleetSpecKeys = keyTree{"configuration": {}, "configuration_path": {}, "profile": {}, "autocreated": {}}

	fleetKeys = keyTree{
		"type": {}, "name": {}, "placement": {}, "blocks": {}, "nodes": {keyTree{"min": {}, "target": {}, "max": {}}},
		"reservation": {}, "resources": {resourceKeys}, "backends": {}, "regions": {}, "availability_zones": {},
		"instance_types": {}, "spot_policy": {}, "retry": {retryKeys}, "max_price": {}, "idle_duration": {},
		"tags": {}, "backend_options": {backendOptionKeys}, "ssh_config": {}, "env": {},
	}

	fleetProfileKeys = keyTree{
		"name": {}, "default": {}, "backends": {}, "regions": {}, "availability_zones": {}, "instance_types": {},
		"reservation": {}, "spot_policy": {}, "retry": {retryKeys}, "max_duration": {}, "stop_duration": {},
		"max_price": {}, "creation_policy": {}, "idle_duration": {},
		"utilization_policy": {keyTree{"min_gpu_utilization": {}, "time_window": {}}}, "startup_order": {},
		"stop_criteria": {}, "schedule": {keyTree{"cron": {}}}, "fleets": {fleetReferenceKeys},
		"instances": {keyTree{"name": {}, "hostname": {}, "fleet": {fleetReferenceKeys}, "instance": {}}},
		"tags":      {}, "backend_options": {backendOptionKeys},
	}

	fleetReferenceKeys = keyTree{"project": {}, "name": {}}
	retryKeys          = keyTree{"on_events": {}, "duration": {}}
	backendOptionKeys  = keyTree{"type": {}, "min_reliability": {}, "min_score": {}, "offer_order": {}}

	rangeKeys    = keyTree{"min": {}, "max": {}}
	resourceKeys = keyTree{
		"cpu": {keyTree{"arch": {}, "count": {rangeKeys}, "min": {}, "max": {}}}, "memory": {rangeKeys}, "shm_size": {},
		"gpu": {keyTree{
			"vendor": {}, "name": {}, "count": {rangeKeys}, "memory": {rangeKeys}, "total_memory": {rangeKeys},
			"compute_capability": {},
		}},
		"disk": {keyTree{"size": {rangeKeys}}},
	}

	sshConfigKeys = keyTree{
		"user": {}, "port": {}, "identity_file": {}, "ssh_key": {sshKeyKeys}, "proxy_jump": {proxyJumpKeys},
		"hosts": {}, "network": {},
	}
	sshHostKeys = keyTree{
		"hostname": {}, "port": {}, "user": {}, "identity_file": {}, "proxy_jump": {proxyJumpKeys},
		"internal_ip": {}, "ssh_key": {sshKeyKeys}, "blocks": {},
	}
	proxyJumpKeys = keyTree{"hostname": {}, "port": {}, "user": {}, "identity_file": {}, "ssh_key": {sshKeyKeys}}
	sshKeyKeys    = keyTree{"public": {}, "private": {}}

	volumeSpecKeys = keyTree{"configuration": {}, "configuration_path": {}}
	// networkVolumeKeys are those of all backends together.
	networkVolumeKeys = keyTree{
		"type": {}, "backend": {}, "name": {}, "auto_cleanup_duration": {}, "tags": {}, "size": {},
		"volume_id": {}, "region": {}, "availability_zone": {}, "claim_name": {}, "storage_class_name": {},
		"access_modes": {}, "read_only": {},
	}

	gatewaySpecKeys = keyTree{"configuration": {}, "configuration_path": {}}
	gatewayKeys     = keyTree{
		"type": {}, "name": {}, "default": {}, "backend": {}, "region": {}, "instance_type": {},
		"router": {keyTree{"type": {}, "policy": {}}}, "domain": {}, "public_ip": {}, "load_balancer": {keyTree{"type": {}}},
		"certificate": {keyTree{"type": {}, "arn": {}, "name": {}}}, "replicas": {}, "tags": {},
	}
)

// kindTrees are all of these.
var kindTrees = []keyTree{
	fleetSpecKeys, fleetKeys, fleetProfileKeys, sshConfigKeys, sshHostKeys,
	volumeSpecKeys, networkVolumeKeys, gatewaySpecKeys, gatewayKeys,
}

// collect adds the keys of the tree to all.
func (t keyTree) collect(all map[string]string) {
	for key, node := range t {
		all[key] = key
		node.below.collect(all)
	}
}
