# The checks of the benchmark's profile. What the request breaks is in deny.
package isolation

groups contains group if some group in input.spec.configuration.groups

# A list of groups in the shape of older releases; else a range, which has none.
groups contains group if {
	is_array(input.spec.configuration.replicas)
	some group in input.spec.configuration.replicas
}

places contains input.spec.configuration

places contains group if some group in groups

deny contains message if {
	some place in places
	some key in ["privileged", "docker"]
	place[key] == true
	message := sprintf("privileged containers are not allowed in project %q: set %s to false", [input.project, key])
}

deny contains message if {
	some place in places
	some volume in place.volumes
	volume.instance_path != null
	message := sprintf("instance volume %q is not allowed in project %q: remove it", [volume.instance_path, input.project])
}

nodes := max([configuration_nodes, sum([group_nodes(group) | some group in input.spec.configuration.groups])])

default configuration_nodes := 1

configuration_nodes := input.spec.configuration.nodes if is_number(input.spec.configuration.nodes)

group_nodes(group) := group.nodes if is_number(group.nodes)

group_nodes(group) := 1 if not is_number(group.nodes)

deny contains message if {
	input.spec.configuration.type == "task"
	nodes > 1
	message := sprintf("tasks of more than one node are not allowed in project %q, and this one has %d", [input.project, nodes])
}

key_types := {
	"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
	"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
}

deny contains message if {
	key := input.spec.ssh_key_pub
	key != null
	not one_key(key)
	message := sprintf("the public SSH key is not one plain key on one line, in project %q", [input.project])
}

one_key(key) if {
	parts := split(trim_suffix(key, "\n"), " ")
	parts[0] in key_types
	regex.match(`^[^ \n\r]+ [A-Za-z0-9+/]+={0,2}( [A-Za-z0-9 @._\-+:=,/]*)?$`, trim_suffix(key, "\n"))
}
