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

# What the workers' own sandboxes let through (base/sandbox.c) the unit lets through as well: a call
# that one of them forbids is no use in the other.
members() { # members @SET: the system calls in it
	systemd-analyze --no-pager syscall-filter "$1" | sed '1d; s/^ *//; /^#/d; /^$/d' | while read -r name; do
		case $name in @*) members "$name" ;; *) echo "$name" ;; esac
	done
}
filtered() { # what the unit's SystemCallFilter= lines leave
	: >"$dir/calls"
	sed -n 's/^SystemCallFilter=//p' "$unit" | while read -r line; do
		for name in ${line#\~}; do
			case $name in @*) members "$name" ;; *) echo "$name" ;; esac
		done | sort -u >"$dir/line"
		case $line in
		\~*) comm -23 "$dir/calls" "$dir/line" ;;
		*) sort -u "$dir/calls" "$dir/line" ;;
		esac >"$dir/next"
		mv "$dir/next" "$dir/calls"
	done
	cat "$dir/calls"
}
grep -o '{ "[a-z0-9_]*", \(BOTH\|INTAKE\|DELIVERY\)' "$top_srcdir/src/base/sandbox.c" | cut -d'"' -f2 | sort -u >"$dir/sandbox"
[ "$(wc -l <"$dir/sandbox")" -gt 50 ] || {
	echo "check_units.sh finds no system calls in base/sandbox.c: has the table changed?"
	exit 1
}
out=$(filtered | comm -13 - "$dir/sandbox")
if [ -n "$out" ]; then
	echo "base/sandbox.c allows what relayd.service's SystemCallFilter= does not:" $out
	exit 1
fi
