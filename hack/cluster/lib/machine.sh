# shellcheck shell=bash
# What the cluster changes on the machine, and how it gives that back. Sourced after settings.sh and process.sh.

# The settings that a kubelet or a pod network writes. Their values of before are kept in run_dir, which is of this boot only.
kernel_settings=(
	net/ipv4/ip_forward
	vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes
)
# Pods reach each other even on a machine whose firewall forwards nothing, and reach nothing outside the machine: a refusal at once
# spares every program in a pod the wait for an answer that cannot come. In the order of insertion, the last one is looked at first.
forward_rules=(
	"-s $pod_range -j REJECT --reject-with icmp-net-unreachable"
	"-s $pod_range -d $pod_range -j ACCEPT"
)
# Places that the kubelet, containerd and the network plugins use whatever they are told. Where they were not there before, they go
# with the cluster.
container_logs=/var/log/containers
shared_places=("$container_logs" /var/lib/kubelet /var/lib/cni /run/containerd)

# any_running tells whether a process of the cluster that run_dir is of runs.
any_running() {
	local component
	for component in "${components[@]}"; do
		! is_running "$component" || return 0
	done
	return 1
}

# owner prints the state_dir of the checkout whose cluster run_dir is of; nothing when there is none.
owner() { cat -- "$run_dir/owner" 2>/dev/null || true; }

# claim_machine makes run_dir, and ends the script when another checkout's cluster is up: both would use the same addresses. What a
# cluster has left that was killed, not taken down, goes first, whoever's it was.
claim_machine() {
	if any_running; then
		[[ $(owner) == "$state_dir" ]] ||
			die "the cluster of another checkout is up on this machine ($(owner)): take it down there first, by hack/cluster/down"
	elif [[ -d $run_dir ]]; then
		say "clearing away what a cluster has left that was not taken down"
		restore_machine
		rm -rf --one-file-system -- "$state_dir/cni/addresses" # of pods that are gone
	fi
	mkdir -p -- "$pids_dir"
	chmod 711 "$run_dir"
	printf '%s\n' "$state_dir" >"$run_dir/owner"
	printf '%s\n' "$boot_id" >"$run_dir/boot"
}

# pod_links prints the machine's ends of the pods' network links. They are the cluster's own only where its containerd has been, which
# mounts the pods' network namespaces below run_dir; else somebody else uses the range.
pod_links() {
	ip -4 route show root "$pod_range" 2>/dev/null | awk '$2 == "dev" && $3 ~ /^veth/ { print $3 }' | sort -u
}

# stranger NAME prints the pid of a process NAME that is not the cluster's. Those inside containers do no harm and are left out.
stranger() {
	local directory pid own
	own=$(pid_of "$1" || true)
	for directory in /proc/[0-9]*; do
		pid=${directory#/proc/}
		if [[ $(cat -- "$directory/comm" 2>/dev/null) == "$1" && $pid != "$own" &&
			$(readlink -- "$directory/ns/mnt") == "$(readlink /proc/self/ns/mnt)" ]]; then
			printf '%s\n' "$pid"
			return 0
		fi
	done
}

# refuse_foreign_kubelet ends the script when this machine is a node already.
refuse_foreign_kubelet() {
	local pid
	pid=$(stranger kubelet)
	[[ -z $pid ]] || die "this machine is a Kubernetes node already (kubelet is process $pid): use that cluster, or another machine"
}

# refuse_route_in_use ends the script when the machine already routes a part of our addresses elsewhere.
refuse_route_in_use() {
	local route own="unreachable $pod_range |$service_range dev lo "
	! any_running || own+="|$prefix\.0\.[0-9]+ dev veth"
	route=$(ip -4 route show root "$prefix.0.0/16" 2>/dev/null | grep -vE "^($own)" | head -n 1 || true)
	[[ -z $route ]] ||
		die "this machine uses addresses of $prefix.0.0/16 already ($route): choose another range by DSTACK_ISOLATION_CLUSTER_PREFIX, such as 10.77"
}

# prepare_machine does all that is done to the machine outside of run_dir and state_dir.
prepare_machine() {
	local setting place rule
	if [[ ! -f $run_dir/before ]]; then
		for setting in "${kernel_settings[@]}"; do
			[[ ! -r /proc/sys/$setting ]] || printf '%s %s\n' "$setting" "$(cat -- "/proc/sys/$setting")"
		done >"$run_dir/before.new"
		if ! nft list table ip filter >/dev/null 2>&1; then
			echo "no-filter-table" >>"$run_dir/before.new"
		fi
		mv -- "$run_dir/before.new" "$run_dir/before"
	fi
	if [[ ! -f $state_dir/absent ]]; then # unlike the settings, places outlive a restart of the machine
		for place in "${shared_places[@]}"; do
			[[ -e $place ]] || printf '%s\n' "$place"
		done >"$state_dir/absent"
	fi
	echo 1 >/proc/sys/net/ipv4/ip_forward || die "this machine does not let root switch on IP forwarding (net.ipv4.ip_forward)"
	ip address replace "$node_address/32" dev lo || die "could not put $node_address on the loopback interface"
	# Pods that are gone are unreachable, instead of being looked for outside the machine. Services are answered by kube-proxy's
	# rules, which see a packet only after the machine has found some route for it.
	ip route replace unreachable "$pod_range" &&
		ip route replace "$service_range" dev lo src "$node_address" ||
		die "could not add the routes of pods and Services ($pod_range, $service_range)"
	for rule in "${forward_rules[@]}"; do
		# shellcheck disable=SC2086 # a rule is several words
		iptables -w 30 -C FORWARD $rule -m comment --comment dstack-isolation 2>/dev/null ||
			iptables -w 30 -I FORWARD $rule -m comment --comment dstack-isolation ||
			die "iptables could not add the rule that lets pods reach each other"
	done
	make_cgroups
}

# cgroup_roots prints the directories below which cgroups are made: one with version 2, one per hierarchy with version 1, and all of
# those on a machine that has both.
cgroup_roots() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

# make_cgroups makes the cgroup that all pods are in. The kubelet wants it to be there, with every controller.
make_cgroups() {
	local root controller group
	while read -r root; do
		if [[ -f $root/cgroup.controllers ]]; then
			for controller in $(cat -- "$root/cgroup.controllers"); do
				echo "+$controller" >"$root/cgroup.subtree_control" 2>/dev/null || true # one that cannot be had may not be needed
			done
		fi
		group=$root/$node_name
		mkdir -p -- "$group" || die "could not make the cgroup $group"
		for file in cpuset.cpus cpuset.mems; do # version 1: a new cpuset is empty and takes no process
			if [[ ! -f $root/cgroup.controllers && -f $group/$file && -z $(cat -- "$group/$file") ]]; then
				cat -- "$root/$file" >"$group/$file"
			fi
		done
	done < <(cgroup_roots)
}

# restore_machine gives everything back. It may be called at any time, however much of the cluster ever was there.
restore_machine() {
	local rule link links= other
	other=$(owner)
	[[ ! -d $run_dir/containerd ]] || links=$(pod_links)
	kill_pods
	unmount_below "$run_dir"
	unmount_below "$state_dir"
	[[ -z $other ]] || unmount_below "$other"
	# A link that is left keeps the route of its pod's address, and the next pod that gets the address answers nobody.
	for link in $links; do
		ip link delete "$link" 2>/dev/null || true # gone with its pod's namespace in the meantime
	done
	if [[ -e $run_dir/kube-proxy-started ]]; then
		nft delete table ip kube-proxy 2>/dev/null || true
		nft delete table ip6 kube-proxy 2>/dev/null || true
	fi
	if command -v iptables >/dev/null 2>&1; then
		for rule in "${forward_rules[@]}"; do
			# shellcheck disable=SC2086 # a rule is several words
			while iptables -w 30 -D FORWARD $rule -m comment --comment dstack-isolation 2>/dev/null; do :; done
		done
	fi
	ip route delete unreachable "$pod_range" 2>/dev/null || true
	ip route delete "$service_range" dev lo 2>/dev/null || true
	ip address delete "$node_address/32" dev lo 2>/dev/null || true
	if [[ -d $container_logs ]]; then
		find "$container_logs" -maxdepth 1 -type l -lname "$state_dir/*" -delete
	fi
	# What the network plugins remember of each pod names the pod's network namespace, which is below run_dir.
	{ grep -rlsZF -- "\"$run_dir/" /var/lib/cni/results || true; } | xargs -0 --no-run-if-empty rm -f --
	restore_values
	rm -rf --one-file-system -- "$run_dir"
}

# restore_values sets the kernel settings of before, unless a restart of the machine has done it, and removes the places that were
# not there.
restore_values() {
	local key value place
	if [[ -f $run_dir/before && $(cat -- "$run_dir/boot" 2>/dev/null) == "$boot_id" ]]; then
		while read -r key value; do
			case $key in
			no-filter-table) remove_empty_filter_table ;;
			*) printf '%s\n' "$value" >"/proc/sys/$key" || say "could not set $key back to $value" ;;
			esac
		done <"$run_dir/before"
	fi
	if [[ -f $state_dir/absent && -z $(stranger kubelet)$(stranger containerd) ]]; then # else somebody has moved in since
		while IFS= read -r place; do
			rm -rf --one-file-system -- "$place"
		done <"$state_dir/absent"
	fi
	rm -f -- "$state_dir/absent"
}

# remove_empty_filter_table removes the table that iptables makes when it is first called. A table with somebody's rules stays.
remove_empty_filter_table() {
	local rules
	rules=$(nft list table ip filter 2>/dev/null |
		grep -cvE '^(table ip filter \{|\}|)$|chain (INPUT|FORWARD|OUTPUT) \{|type filter hook|^\s*\}$') || true
	if [[ $rules == 0 ]]; then
		nft delete table ip filter 2>/dev/null || true
	fi
}

# kill_pods ends every process in the cluster's cgroups and every shim of its containerd, then removes the cgroups.
kill_pods() {
	local root group pid attempt
	while read -r root; do
		group=$root/$node_name
		[[ -d $group ]] || continue
		for attempt in {1..50}; do
			find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | while read -r pid; do
				kill -KILL "$pid" 2>/dev/null || true
			done
			find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
			((attempt < 50)) || say "could not remove the cgroup $group: a process in it does not end"
			sleep 0.1
		done
	done < <(cgroup_roots)
	for pid in $(shims); do
		kill -KILL "$pid" 2>/dev/null || true
	done
	for attempt in {1..50}; do
		[[ -n $(shims) ]] || break
		sleep 0.1
	done
}

# shims prints the pids of containerd's shims that belong to the cluster's own containerd.
shims() {
	local directory
	for directory in /proc/[0-9]*; do
		[[ $(cat -- "$directory/comm" 2>/dev/null) == containerd-shim* ]] || continue
		if tr '\0' '\n' <"$directory/cmdline" 2>/dev/null | grep -qxF -- "$containerd_socket"; then
			printf '%s\n' "${directory#/proc/}"
		fi
	done
}

# unmount_below DIR unmounts everything below DIR, the last mounted first.
unmount_below() {
	local target
	awk -v below="$1/" '{ gsub(/\\040/, " ", $5) } index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac |
		while IFS= read -r target; do
			umount -- "$target" 2>/dev/null || umount --lazy -- "$target" || say "could not unmount $target"
		done
}
