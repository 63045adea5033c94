# shellcheck shell=bash
# The cluster's components: their configuration files and how each is started. Sourced after the other files of lib.

# render FILE [NAME VALUE]... prints config/FILE with the settings put in for @NAME@.
render() {
	local text
	text=$(cat -- "$cluster_dir/config/$1")
	shift
	set -- STATE "$state_dir" RUN "$run_dir" NODE "$node_name" PODS "$pod_range" DNS "$dns_service" ADDRESS "$node_address" "$@"
	while (($# > 0)); do
		text=${text//"@$1@"/"$2"}
		shift 2
	done
	printf '%s\n' "$text"
}

# cni_directory prints where Debian or another packager has put the network plugins.
cni_directory() {
	local directory
	for directory in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
		if [[ -x $directory/ptp && -x $directory/host-local ]]; then
			printf '%s\n' "$directory"
			return 0
		fi
	done
	return 1
}

# snapshotter prints overlayfs where the state's file system can hold an overlay, and native (slow, always works) elsewhere, such as
# in a container.
snapshotter() {
	local probe=$state_dir/overlay-probe result=native
	mkdir -p -- "$probe"/{lower,upper,work,merged}
	if mount -t overlay overlay -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
		umount -- "$probe/merged"
		result=overlayfs
	fi
	rm -rf --one-file-system -- "$probe"
	printf '%s\n' "$result"
}

write_configuration() {
	local plugins chosen=$state_dir/snapshotter
	plugins=$(cni_directory) || die "the network plugins ptp and host-local are not there: install the package containernetworking-plugins"
	mkdir -p -- "$state_dir/cni/config" "$state_dir/pod-logs"
	[[ -s $chosen ]] || snapshotter >"$chosen" # once: images are unpacked for one snapshotter
	render containerd.toml CNI_BIN "$plugins" SNAPSHOTTER "$(cat -- "$chosen")" | write_if_changed "$state_dir/containerd.toml" 644
	render cni.conflist | write_if_changed "$state_dir/cni/config/10-dstack-isolation.conflist" 644
	printf 'nameserver %s\n' "$dns_service" | write_if_changed "$state_dir/resolv.conf" 644
	render kubelet.yaml PORT "$kubelet_port" HEALTH_PORT "$kubelet_health_port" | write_if_changed "$state_dir/kubelet.yaml" 644
	render kube-proxy.yaml METRICS_PORT "$proxy_metrics_port" HEALTH_PORT "$proxy_health_port" |
		write_if_changed "$state_dir/kube-proxy.yaml" 644
}

start_etcd() {
	require_free_port etcd 127.0.0.1 "$etcd_port"
	require_free_port etcd 127.0.0.1 "$etcd_peer_port"
	start etcd "$pki_dir/etcd-server.crt" -- "$bin_dir/etcd" --name "$node_name" --data-dir "$state_dir/etcd" \
		--listen-client-urls "https://127.0.0.1:$etcd_port" --advertise-client-urls "https://127.0.0.1:$etcd_port" \
		--listen-peer-urls "https://127.0.0.1:$etcd_peer_port" \
		--initial-advertise-peer-urls "https://127.0.0.1:$etcd_peer_port" \
		--initial-cluster "$node_name=https://127.0.0.1:$etcd_peer_port" \
		--client-cert-auth --trusted-ca-file "$pki_dir/etcd-ca.crt" \
		--cert-file "$pki_dir/etcd-server.crt" --key-file "$pki_dir/etcd-server.key" \
		--peer-client-cert-auth --peer-trusted-ca-file "$pki_dir/etcd-ca.crt" \
		--peer-cert-file "$pki_dir/etcd-server.crt" --peer-key-file "$pki_dir/etcd-server.key" \
		--log-level warn
}

start_apiserver() {
	require_free_port kube-apiserver "$node_address" "$api_port"
	require_free_port api-proxy 127.0.0.1 "$api_port"
	start kube-apiserver "$pki_dir/apiserver.crt" "$pki_dir/ca.crt" -- "$bin_dir/kube-apiserver" \
		--bind-address "$node_address" --advertise-address "$node_address" --secure-port "$api_port" \
		--etcd-servers "https://127.0.0.1:$etcd_port" --etcd-cafile "$pki_dir/etcd-ca.crt" \
		--etcd-certfile "$pki_dir/etcd-client.crt" --etcd-keyfile "$pki_dir/etcd-client.key" \
		--client-ca-file "$pki_dir/ca.crt" \
		--tls-cert-file "$pki_dir/apiserver.crt" --tls-private-key-file "$pki_dir/apiserver.key" \
		--kubelet-certificate-authority "$pki_dir/ca.crt" --kubelet-preferred-address-types InternalIP \
		--kubelet-client-certificate "$pki_dir/apiserver-kubelet-client.crt" \
		--kubelet-client-key "$pki_dir/apiserver-kubelet-client.key" \
		--requestheader-client-ca-file "$pki_dir/front-proxy-ca.crt" --requestheader-allowed-names front-proxy \
		--requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
		--requestheader-extra-headers-prefix X-Remote-Extra- \
		--proxy-client-cert-file "$pki_dir/front-proxy.crt" --proxy-client-key-file "$pki_dir/front-proxy.key" \
		--service-account-issuer https://kubernetes.default.svc.cluster.local \
		--service-account-key-file "$pki_dir/service-accounts.pub" \
		--service-account-signing-key-file "$pki_dir/service-accounts.key" \
		--service-cluster-ip-range "$service_range" \
		--authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
		--profiling=false
	# A kubeconfig with a loopback address works whatever proxy the machine's environment names; the server itself must have an
	# address that pods can reach.
	start api-proxy -- socat "TCP-LISTEN:$api_port,bind=127.0.0.1,fork,reuseaddr" "TCP:$node_address:$api_port"
}

start_containerd() {
	start containerd "$state_dir/containerd.toml" -- containerd --config "$state_dir/containerd.toml" --log-level warn
}

start_controllers() {
	local config=$state_dir/kube-controller-manager.kubeconfig
	require_free_port kube-controller-manager 127.0.0.1 "$controller_manager_port"
	require_free_port kube-scheduler 127.0.0.1 "$scheduler_port"
	start kube-controller-manager "$config" -- "$bin_dir/kube-controller-manager" --kubeconfig "$config" \
		--authentication-kubeconfig "$config" --authorization-kubeconfig "$config" \
		--bind-address 127.0.0.1 --secure-port "$controller_manager_port" --leader-elect=false \
		--use-service-account-credentials --root-ca-file "$pki_dir/ca.crt" \
		--service-account-private-key-file "$pki_dir/service-accounts.key" \
		--cluster-signing-cert-file "$pki_dir/ca.crt" --cluster-signing-key-file "$pki_dir/ca.key" --profiling=false
	config=$state_dir/kube-scheduler.kubeconfig
	start kube-scheduler "$config" -- "$bin_dir/kube-scheduler" --kubeconfig "$config" \
		--authentication-kubeconfig "$config" --authorization-kubeconfig "$config" \
		--bind-address 127.0.0.1 --secure-port "$scheduler_port" --leader-elect=false --profiling=false
}

start_node() {
	require_free_port kubelet "$node_address" "$kubelet_port"
	require_free_port kubelet 127.0.0.1 "$kubelet_health_port"
	require_free_port kube-proxy 127.0.0.1 "$proxy_health_port"
	require_free_port kube-proxy 127.0.0.1 "$proxy_metrics_port"
	start kubelet "$state_dir/kubelet.yaml" "$state_dir/kubelet.kubeconfig" -- "$bin_dir/kubelet" \
		--config "$state_dir/kubelet.yaml" --kubeconfig "$state_dir/kubelet.kubeconfig" --root-dir "$state_dir/kubelet" \
		--cert-dir "$pki_dir" --hostname-override "$node_name" --node-ip "$node_address"
	touch -- "$run_dir/kube-proxy-started"
	start kube-proxy "$state_dir/kube-proxy.yaml" "$state_dir/kube-proxy.kubeconfig" -- "$bin_dir/kube-proxy" \
		--config "$state_dir/kube-proxy.yaml"
}

# stop_containers asks every container to end, gives it three seconds, and forgets it; the images stay.
stop_containers() {
	local container attempt signal
	is_running containerd || return 0
	for signal in SIGTERM SIGKILL; do
		for container in $(containers task ls --quiet 2>/dev/null); do
			containers task kill --all --signal "$signal" "$container" >/dev/null 2>&1 || true
		done
		for attempt in {1..30}; do
			containers task ls 2>/dev/null | grep -q RUNNING || break
			((attempt < 30)) || break
			sleep 0.1
		done
	done
	for container in $(containers container ls --quiet 2>/dev/null); do
		containers task rm --force "$container" >/dev/null 2>&1 || true
		containers container rm "$container" >/dev/null 2>&1 || true
	done
}
