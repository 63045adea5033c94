# shellcheck shell=bash
# Images of the cluster's own pods, and how images get into its containerd. Sourced after settings.sh.

pause_image=dstack-isolation-pause:1
coredns_image=coredns:$(module_version "$cluster_dir/coredns" github.com/coredns/coredns)

# write_own_image PROGRAM TAG prints the docker-archive file of a program of bin_dir, and writes it first when it is not there.
write_own_image() {
	local program=$1 tag=$2 out=$images_cache/$1.tar recipe
	recipe="$tag $(sha256sum <"$bin_dir/$program")"
	if [[ ! -f $out || $(cat -- "$out.stamp" 2>/dev/null) != "$recipe" ]]; then
		mkdir -p -- "$images_cache"
		say "writing image $tag"
		CGO_ENABLED=0 GOWORK=off GOFLAGS='' go -C "$cluster_dir/../images" run -mod=readonly . binary -binary "$bin_dir/$program" \
			-tag "$tag" -out "$out" -user 65532:65532 >/dev/null || die "image $tag could not be written"
		printf '%s\n' "$recipe" >"$out.stamp"
	fi
	printf '%s\n' "$out"
}

# image_digest NAME prints the digest that containerd has for the image, or nothing.
image_digest() { containers images ls "name==$1" 2>/dev/null | awk 'NR == 2 { print $3 }'; }

# import_image TAR puts the images of a docker-archive file into the cluster, unless that very file has been put there and nothing
# has replaced its images since.
import_image() {
	local tar=$1 mark record name digest imported
	mark=$state_dir/images/$(sha256sum <<<"$(stat --dereference --format '%d %i %s %y' -- "$tar")" | cut -d' ' -f1)
	if [[ -s $mark ]]; then
		record=current
		while read -r name digest; do
			[[ $(image_digest "$name") == "$digest" ]] || record=stale
		done <"$mark"
		[[ $record == stale ]] || return 0
	fi
	say "importing $tar"
	imported=$(CONTAINERD_SNAPSHOTTER=$(cat -- "$state_dir/snapshotter") containers images import "$tar") ||
		die "containerd did not import $tar; is it a docker-archive file?"
	mkdir -p -- "$state_dir/images"
	# A line such as: unpacking docker.io/library/coredns:v1.15.0 (sha256:…)...done
	while read -r name; do
		printf '%s %s\n' "$name" "$(image_digest "$name")"
	done < <(awk '$1 == "unpacking" { print $2 }' <<<"$imported") >"$mark"
}
