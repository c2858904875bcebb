#!/usr/bin/env bash
# Installs the Debian packages that the tests and the demonstration use, if
# they are missing: make, a C compiler (the race detector, a test program), sqlite3,
# flock(1), and fusermount3 for mounting as an ordinary user.
set -euo pipefail
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need make make
need gcc gcc
need sqlite3 sqlite3
need flock util-linux
need fusermount3 fuse3
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
if [ ${#missing[@]} -gt 0 ]; then
	sudo=""
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	$sudo apt-get update -q
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
command -v go >/dev/null || { echo "Go 1.25 or later is needed: https://go.dev/dl/" >&2; exit 1; }
