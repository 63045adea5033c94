# shellcheck shell=bash
# What every script here needs: where things are, how to speak, and locks. Sourced, never run.

cluster_dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
repo_dir=$(cd -- "$cluster_dir/../.." && pwd -P)
cache_dir=${DSTACK_ISOLATION_CACHE:-$repo_dir/.cache}
[[ $cache_dir == /* ]] || cache_dir=$PWD/$cache_dir
# Read by the scripts that source this file.
# shellcheck disable=SC2034
bin_dir=$cache_dir/bin

# say reports progress. It goes to stderr, so that a script's result on stdout stays alone.
say() { printf '%s\n' "$*" >&2; }

# die ends the script with a message: "<script>: <what is wrong and what to do>".
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# find_go puts Go on PATH. sudo drops /usr/local/go/bin from it, hence the second look.
find_go() {
	if ! command -v go >/dev/null 2>&1 && [[ -x /usr/local/go/bin/go ]]; then
		PATH=$PATH:/usr/local/go/bin
	fi
	command -v go >/dev/null 2>&1 ||
		die "Go is needed to build the cluster's programs and is not on PATH: install Go 1.26 or later (https://go.dev/doc/install)"
}

# module_version DIR MODULE prints the version that DIR/go.mod requires of MODULE. go.mod is the only place that names versions.
module_version() {
	awk -v module="$2" '$1 == "require" { $1 = ""; $0 = $0; $1 = $1 } $1 == module { print $2; exit }' "$1/go.mod"
}

# lock FILE WHAT takes an exclusive lock on file descriptor 9 for the rest of the script. Background processes must be started
# with 9>&-, or they would hold it for as long as they live.
lock() {
	mkdir -p -- "$(dirname -- "$1")"
	if ! command -v flock >/dev/null 2>&1; then
		return 0 # not Linux: only the builds come here, and they replace files by rename
	fi
	exec 9>>"$1"
	if ! flock --nonblock 9; then
		say "waiting for another $2 to end…"
		flock 9
	fi
}

# write_if_changed FILE MODE writes stdin to FILE by rename and only when it differs: kube-proxy exits when its file is written,
# even with the same text, and containerd would read a half-written CNI file.
write_if_changed() {
	local file=$1 mode=$2 temporary
	temporary=$(mktemp "$file.XXXXXX")
	cat >"$temporary"
	chmod "$mode" "$temporary"
	if [[ -f $file ]] && cmp -s -- "$temporary" "$file"; then
		rm -f -- "$temporary"
	else
		mv -f -- "$temporary" "$file"
	fi
}
