# shellcheck shell=bash
# shellcheck disable=SC2034 # read by the files that source this one
# Names, addresses and places of the one-node cluster. Sourced after common.sh.

node_name=dstack-isolation
state_dir=$cache_dir/cluster       # survives a restart of the machine
run_dir=/run/dstack-isolation      # does not: sockets, and what must be given back to the machine
pids_dir=$run_dir/pids
pki_dir=$state_dir/pki
logs_dir=$state_dir/logs
kubeconfig=$state_dir/kubeconfig
images_cache=$cache_dir/images
containerd_socket=$run_dir/containerd.sock
boot_id=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)

# All addresses are of the range that RFC 2544 keeps for benchmarks: nothing outside the machine has them, and no office or cloud
# network is hidden by them. The node's own address is on the loopback interface, so nothing of the cluster listens to a network.
prefix=${DSTACK_ISOLATION_CLUSTER_PREFIX:-198.19}
pod_range=$prefix.0.0/24
service_range=$prefix.1.0/24
kubernetes_service=$prefix.1.1
dns_service=$prefix.1.10
node_address=$prefix.2.1

# Away from the usual ports, so that the cluster may stand beside another one.
api_port=16443
etcd_port=12379
etcd_peer_port=12380
kubelet_port=11250
kubelet_health_port=11248
controller_manager_port=11257
scheduler_port=11259
proxy_metrics_port=11249
proxy_health_port=11256

# In the order of starting.
components=(etcd kube-apiserver api-proxy containerd kube-controller-manager kube-scheduler kubelet kube-proxy)

# kube runs kubectl as the cluster's administrator.
kube() { "$bin_dir/kubectl" --kubeconfig "$kubeconfig" "$@"; }

# containers runs containerd's client on the cluster's own containerd.
containers() { ctr --address "$containerd_socket" --namespace k8s.io "$@"; }
