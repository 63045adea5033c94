# shellcheck shell=bash
# Long-running processes and their pid files. Sourced after settings.sh.
#
# A pid file holds "PID START BOOT": the process's start time in ticks since boot (/proc/PID/stat, field 22) and the boot's id. A
# number alone would name a stranger after the machine was stopped hard and counted its processes anew. The files are below /run, so
# that down finds the processes even when somebody has removed the cache under them.

pid_file() { printf '%s\n' "$pids_dir/$1.pid"; }

# start_time PID prints when the process began, or nothing when it is gone or dead and not yet collected.
start_time() {
	local stat fields
	stat=$(cat -- "/proc/$1/stat" 2>/dev/null) || return 0
	read -r -a fields <<<"${stat##*) }" # the name before it may hold blanks and brackets
	[[ ${fields[0]} == [ZX] ]] || printf '%s\n' "${fields[19]}"
}

# pid_from FILE prints the pid that FILE stands for when that very process still runs.
pid_from() {
	local pid start boot
	read -r pid start boot 2>/dev/null <"$1" || return 1
	[[ $boot == "$boot_id" && -n $start && $(start_time "$pid") == "$start" ]] || return 1
	printf '%s\n' "$pid"
}

pid_of() { pid_from "$(pid_file "$1")" 2>/dev/null; }

is_running() { pid_of "$1" >/dev/null; }

# start NAME FILE... -- PROGRAM ARG... starts PROGRAM in the background, unless it runs already with the same arguments and the
# same content of FILE...; when those have changed, it is started anew.
start() {
	local name=$1 files=() recipe pid log
	shift
	while [[ $1 != -- ]]; do
		files+=("$1")
		shift
	done
	shift
	log=$logs_dir/$name.log
	recipe=$({ printf '%s\n' "$@" && stat --dereference --format '%i %Y %s' -- "$(command -v "$1")" &&
		cat -- /dev/null ${files[@]+"${files[@]}"}; } | sha256sum)
	if is_running "$name"; then
		[[ $(cat -- "$pids_dir/$name.recipe" 2>/dev/null) != "$recipe" ]] || return 0
		say "restarting $name: its settings have changed"
		stop "$name" 20
	fi
	if [[ -f $log && $(stat --format %s -- "$log") -gt 20000000 ]]; then
		mv -f -- "$log" "$log.1"
	fi
	printf -- '--- started %s\n' "$(date --iso-8601=seconds)" >>"$log"
	setsid "$@" >>"$log" 2>&1 </dev/null 9>&- &
	pid=$!
	# Only now is there a process to ask; one that has ended at once has no start time, which reads as "not running".
	printf '%s %s %s\n' "$pid" "$(start_time "$pid")" "$boot_id" >"$(pid_file "$name")"
	printf '%s\n' "$recipe" >"$pids_dir/$name.recipe"
	disown "$pid"
}

# stop NAME SECONDS ends the process and all of its process group, with SIGKILL after SECONDS.
stop() {
	local name=$1 pid deadline=$((SECONDS + $2))
	if pid=$(pid_of "$name"); then
		kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true
		while is_running "$name" && ((SECONDS < deadline)); do sleep 0.1; done
		if is_running "$name"; then
			kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
			while is_running "$name"; do sleep 0.1; done
		fi
	fi
	rm -f -- "$(pid_file "$name")" "$pids_dir/$name.recipe"
}

# wait_until NAME SECONDS WHAT COMMAND... waits until COMMAND succeeds; ends the script when process NAME ends or the time is over.
wait_until() {
	local name=$1 deadline=$((SECONDS + $2)) what=$3
	shift 3
	until "$@" >/dev/null 2>&1; do
		is_running "$name" || fail_with_log "$name" "$name ended while waiting until $what"
		((SECONDS < deadline)) || fail_with_log "$name" "gave up waiting until $what"
		sleep 0.2
	done
}

# fail_with_log NAME MESSAGE ends the script with the end of the component's log.
fail_with_log() {
	tail -n 20 -- "$logs_dir/$1.log" >&2 || true
	die "$2; the end of $logs_dir/$1.log is above"
}

# require_free_port NAME ADDRESS PORT ends the script when a stranger listens where NAME is about to.
require_free_port() {
	local name=$1 address=$2 port=$3 listener
	! is_running "$name" || return 0
	listener=$(ss --no-header --listening --tcp --numeric --processes "sport = :$port" 2>/dev/null |
		awk -v a="$address:$port" -v p="$port" '$4 == a || $4 == "0.0.0.0:" p || $4 == "*:" p || $4 == "[::]:" p { print; exit }')
	[[ -z $listener ]] || die "$name needs port $port of $address, where another program listens: $(sed 's/.*users:/users:/' <<<"$listener")"
}
