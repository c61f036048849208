#!/bin/sh
# Runs in the edge's container, and brings the edge to the Caddyfile in $CADDYFILE.
#
# It is validated before anything changes. A reload with what runs already does nothing; any other can close a
# connection on which a request has just arrived, as every Go server's does. At the end it keeps a digest of what runs
# now, and $SEEN, what edge_seen.sh said before it. The files that are removed are those of an edge that knew keys
# itself: files that are named by them must not stay in its volume.
set -eu
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s' "$CADDYFILE" >"$work/Caddyfile"
caddy() { command caddy "$1" --config "$work/Caddyfile" --adapter caddyfile >"$work/log" 2>&1; }
caddy validate || { cat "$work/log" >&2; exit 1; }
tries=0
until caddy reload; do
  tries=$((tries + 1))
  [ "$tries" -lt 20 ] || { cat "$work/log" >&2; exit 1; }
  sleep 0.5
done
running=$(wget -q -O - http://127.0.0.1:2019/config/) || exit 1
now=$(echo "$running" | sha256sum | cut -c1-12)
echo "$now ${SEEN:-@AS_DECLARED@}" >/config/caddyfile.applied
rm -rf /config/api-keys /config/applied
