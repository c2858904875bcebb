#!/usr/bin/env bash
# The main job, seen from outside: unmodified programs lock files through the
# kernel, the locks live in Sneck, and survive kill -9.
#
#   scripts/demo.sh PATH-OF-SNECK
set -euo pipefail

sneck=$(realpath "$1")
work=$(mktemp -d)
source=$work/source mountpoint=$work/mnt log=$work/log
mkdir "$source" "$mountpoint"
mount_pid="" holders=()

cleanup() {
	status=$?
	for pid in "${holders[@]}"; do kill -- "-$pid" 2>/dev/null || true; done # each leads a process group
	[ -z "$mount_pid" ] || kill "$mount_pid" 2>/dev/null || true
	wait
	if grep -q " $mountpoint " /proc/mounts; then umount -l "$mountpoint" 2>/dev/null || fusermount3 -uz "$mountpoint" || true; fi
	rm -rf "$work"
	exit $status
}
trap cleanup EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { line="$*"; printf '$ %s\n' "${line//"$work/"/}"; "$@"; }

# mounts and waits for the line that says so
start() {
	: >"$work/out"
	"$sneck" mount "$source" "$mountpoint" --log "$log" >"$work/out" 2>"$work/err" &
	mount_pid=$!
	until grep -q '^sneck: mounted' "$work/out"; do
		kill -0 "$mount_pid" 2>/dev/null || { cat "$work/out" "$work/err" >&2; exit 1; }
		read -rt 0.05 <> <(:) || true
	done
	sed "s,$work/,,g" "$work/out"
}

# hold NAME COMMAND...: runs the command, which says "held" when it has its lock
# and then holds it until it is killed
hold() {
	name=$1
	shift
	mkfifo "$work/$name"
	setsid "$@" >"$work/$name" 2>&1 &
	holders+=($!)
	read -r line <"$work/$name"
	[ "$line" = held ] || { echo "$name: $line" >&2; exit 1; }
	echo "process $! holds a lock: $name"
}

say "1. Mount a folder"
start

say "2. flock(1): one process holds a lock, another is refused"
touch "$mountpoint/job.lock"
hold flock flock "$mountpoint/job.lock" sh -c 'echo held; exec sleep 1000'
show flock -n "$mountpoint/job.lock" true && { echo "two holders of one lock" >&2; exit 1; } || echo "refused, exit $?"

say "3. sqlite3: four writers at once, then one that keeps its transaction open"
db=$mountpoint/data.db
sqlite3 "$db" 'create table t(writer, n)'
writers=()
for w in 1 2 3 4; do
	(for n in $(seq 25); do echo "insert into t values($w, $n);"; done | sqlite3 -cmd '.timeout 60000' "$db") &
	writers+=($!)
done
for pid in "${writers[@]}"; do wait "$pid"; done
show sqlite3 "$db" 'select count(*) || " rows" from t' 'pragma integrity_check'
hold sqlite sh -c '(echo "begin exclusive; insert into t values(5, 1);"; echo ".print held"; exec sleep 1000) | exec sqlite3 "$1"' sh "$db"
show sqlite3 "$db" 'insert into t values(6, 1)' && { echo "two writers in one transaction" >&2; exit 1; } || echo "refused, exit $?"

say "4. Who holds what"
show "$sneck" log inspect "$log" --locks

say "5. kill -9 of the file server: the log still knows"
kill -9 "$mount_pid"
wait "$mount_pid" 2>/dev/null || true
mount_pid=""
show "$sneck" log inspect "$log" --locks

say "6. Mount again: a new epoch; what the dead mount's descriptors held is released, and said so"
start
show flock -n "$mountpoint/job.lock" echo "the lock is free again"
show sqlite3 "$db" 'select count(*) || " rows" from t' 'pragma integrity_check'

say "7. Unmount"
kill "$mount_pid"
wait "$mount_pid"
mount_pid=""
echo "exit 0"
