#!/bin/sh
# The units as they are installed: systemd finds no mistake in them, and relayd.service is exposed by
# no more than 1.2 on systemd's own scale (security-standards: a service that talks to the Internet).
set -u
command -v systemd-analyze >/dev/null || { echo "systemd-analyze is missing"; exit 77; }
unit=$(pwd)/systemd/relayd.service
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
: "${top_srcdir:=$(cd "$(dirname "$0")/../.." && pwd)}"

systemd-analyze security --offline=yes --no-pager --threshold=12 "$unit" >"$dir/security" || {
	cat "$dir/security"
	exit 1
}
grep Overall "$dir/security"

# the program may not be installed yet, the manual pages neither
sed 's|^ExecStart=.*|ExecStart=/bin/true|; s|^ExecReload=/.*--check|ExecReload=/bin/true|; /^Documentation=/d' \
	"$unit" >"$dir/relayd.service"
sed '/^Documentation=/d' "$top_srcdir/systemd/relayd.socket" >"$dir/relayd.socket"
out=$(systemd-analyze verify "$dir/relayd.service" "$dir/relayd.socket" 2>&1 | grep "relayd")
if [ -n "$out" ]; then
	echo "$out"
	exit 1
fi
