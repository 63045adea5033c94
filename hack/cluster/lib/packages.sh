# shellcheck shell=bash
# Debian packages, installed only where a program is missing. Sourced after common.sh.

# ensure_packages PROGRAM=PACKAGE... installs the packages whose program is not there yet. A program is a name that is looked up
# on PATH, or an absolute path. What is there is used, whichever package it came from, and nothing is ever removed for it.
ensure_packages() {
	local pair program missing=()
	PATH=$PATH:/usr/sbin:/sbin # Debian's su and sudo may leave them out
	for pair in "$@"; do
		program=${pair%%=*}
		if ! is_there "$program" && [[ " ${missing[*]-} " != *" ${pair#*=} "* ]]; then
			missing+=("${pair#*=}")
		fi
	done
	((${#missing[@]} > 0)) || return 0
	command -v apt-get >/dev/null 2>&1 ||
		die "these Debian packages are needed and this machine has no apt-get: ${missing[*]}. Install their programs by hand, or use a Debian or Ubuntu machine"
	say "installing Debian packages: ${missing[*]}"
	install_packages "${missing[@]}" || die "apt-get did not install ${missing[*]}; see its messages above"
	for pair in "$@"; do
		program=${pair%%=*}
		is_there "$program" || die "package ${pair#*=} is installed, but $program is not there"
	done
}

is_there() {
	case $1 in
	/*) [[ -e $1 ]] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# install_packages PACKAGE... installs them, with the package lists of now first and fresh ones only if those do not do.
install_packages() {
	local options=(--yes --no-install-recommends --no-remove --quiet --quiet -o DPkg::Lock::Timeout=300)
	keep_services_stopped
	if ! DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@" </dev/null >/dev/null 2>&1; then
		say "refreshing the package lists"
		apt-get update --quiet --quiet -o DPkg::Lock::Timeout=300 </dev/null >&2 || true # the install says whether it is enough
		DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@" </dev/null >&2
	fi
	local status=$?
	let_services_start
	return $status
}

# A freshly installed containerd would start as a service of the machine; the cluster runs one of its own. /usr/sbin/policy-rc.d
# is Debian's way to say so. A machine that has that file keeps it.
policy_file=/usr/sbin/policy-rc.d

keep_services_stopped() {
	[[ ! -e $policy_file ]] || return 0
	printf '#!/bin/sh\n# dstack-isolation: written while packages are installed, removed afterwards\nexit 101\n' >"$policy_file"
	chmod 755 "$policy_file"
	trap let_services_start EXIT
}

let_services_start() {
	if grep -qs '^# dstack-isolation:' "$policy_file"; then
		rm -f -- "$policy_file"
	fi
}
