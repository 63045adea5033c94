# shellcheck shell=bash
# Everything that up, down, load-image and status share. Sourced, never run.

# No script ends without a word: die says what is wrong, and this says where anything unforeseen happened.
set -o errtrace
trap 'printf "%s: stopped at %s:%s (status %s): %s\n" "${0##*/}" "${BASH_SOURCE[0]}" "$LINENO" "$?" "$BASH_COMMAND" >&2' ERR

lib_dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=hack/cluster/lib/common.sh
source "$lib_dir/common.sh"
# shellcheck source=hack/cluster/lib/settings.sh
source "$lib_dir/settings.sh"
# shellcheck source=hack/cluster/lib/process.sh
source "$lib_dir/process.sh"
# shellcheck source=hack/cluster/lib/packages.sh
source "$lib_dir/packages.sh"
# shellcheck source=hack/cluster/lib/machine.sh
source "$lib_dir/machine.sh"
# shellcheck source=hack/cluster/lib/pki.sh
source "$lib_dir/pki.sh"
# shellcheck source=hack/cluster/lib/images.sh
source "$lib_dir/images.sh"
# shellcheck source=hack/cluster/lib/components.sh
source "$lib_dir/components.sh"

require_root_on_linux() {
	[[ $(uname -s) == Linux ]] || die "the one-node cluster needs Linux; elsewhere, point KUBECONFIG at a cluster of your own"
	[[ $(id -u) == 0 ]] || die "needs root (network, mounts, cgroups): run it with sudo"
}

# require_same_addresses makes state_dir, and ends the script when the cluster in it was made with other addresses: Services keep
# theirs.
require_same_addresses() {
	local before
	before=$(cat -- "$state_dir/prefix" 2>/dev/null || true)
	[[ -z $before || $before == "$prefix" ]] ||
		die "the cluster was made with addresses $before.0.0/16: set DSTACK_ISOLATION_CLUSTER_PREFIX=$before, or remove it first (hack/cluster/down --purge)"
	if [[ -z $before ]] && is_running kube-apiserver; then
		die "somebody has removed $state_dir while the cluster was up: run hack/cluster/down first"
	fi
	mkdir -p -- "$logs_dir" "$pki_dir"
	chmod 711 "$state_dir"
	chmod 700 "$pki_dir"
	printf '%s\n' "$prefix" >"$state_dir/prefix"
}

# forget_earlier_boot removes what a machine that was stopped hard has left: addresses of pods that are gone.
forget_earlier_boot() {
	[[ $(cat -- "$state_dir/boot" 2>/dev/null) != "$boot_id" ]] || return 0
	rm -rf --one-file-system -- "$state_dir/cni/addresses"
	printf '%s\n' "$boot_id" >"$state_dir/boot"
}

# dns_is_ready reports whether something answers behind the DNS Service. What the API says of the pods is of before, for a while,
# when the cluster comes back up; a connection is of now.
dns_is_ready() {
	kube --namespace kube-system rollout status deployment/coredns --timeout=1s &&
		timeout 1 bash -c ": </dev/tcp/$dns_service/53"
}

# check_components ends the script when a component has ended since it was started.
check_components() {
	local component
	for component in "${components[@]}"; do
		is_running "$component" || fail_with_log "$component" "$component does not run"
	done
}
