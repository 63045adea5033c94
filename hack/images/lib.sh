# shellcheck shell=bash
# What the scripts that write images share. Sourced, never run.

images_dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=hack/cluster/lib/common.sh
source "$images_dir/../cluster/lib/common.sh"

# absolute PATH prints PATH as seen from the root.
absolute() {
	case $1 in
	/*) printf '%s\n' "$1" ;;
	*) printf '%s\n' "$PWD/$1" ;;
	esac
}

# images ARG... runs the program of this directory.
images() {
	find_go
	CGO_ENABLED=0 GOWORK=off GOFLAGS='' go -C "$images_dir" run -mod=readonly . "$@"
}
