#!/bin/sh
# Whether the weights in $PLACES, each a folder and its digest, are on this node as they came: their mark says the
# digest, and every file is there with its size. It runs every few seconds and reads none of them: what fetches does.
# Kubernetes replaces variables in the commands of probes as well, so that none is in parentheses here.
set -eu
for each in $PLACES; do
  cd "/weights/${each%=*}"
  grep -qx "${each##*=}" .complete
  test -s .sizes
  if find . -type f -exec stat -c '%s %n' {} + | grep -qFxv -f - .sizes; then exit 1; fi
done
