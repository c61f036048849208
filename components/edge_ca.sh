#!/bin/sh
# Prints the certificate of the edge's own CA, which Caddy makes when it first needs one.
docker exec "$EDGE" /bin/sh -c '
tries=0
until cat /data/caddy/pki/authorities/local/root.crt 2>/dev/null; do
  tries=$((tries + 1)); [ "$tries" -lt 60 ] || exit 1; sleep 1
done'
