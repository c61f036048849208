#!/bin/sh
# change.sh VERB [OPTION]...: tells the switch ($SWITCH) to `prepare` or to `commit` the plan on stdin, and
# prints how it goes until that phase has ended. Each `follow` renews the lease: when this script dies with
# `pulumi up`, the switch restores by itself, and an update that comes right after waits for that. A change
# that has ended leaves its certificate in certificates/$STACK.
set -u
switch() { docker exec "$SWITCH" python3 -m switch "$@"; }
certificate() {
  mkdir -p "certificates/$STACK" && switch certificate --tar | tar -xf - -C "certificates/$STACK"
  echo "certificate: $(switch certificate)"
}
plan=$(cat)
waited=0
while :; do
  said=$(printf '%s\n' "$plan" | docker exec -i "$SWITCH" python3 -m switch "$@" 2>&1)
  code=$?
  if [ "$code" != 75 ] || [ "$waited" -ge 120 ] || ! kill -0 "$PPID" 2>/dev/null; then break; fi
  [ "$waited" -gt 0 ] || echo "waiting for another change: ${said#refused: }"
  waited=$((waited + 1))
  sleep 1
done
echo "$said"
[ "$code" != 75 ] || echo "Run \`pulumi up\` again when it has ended; \`make status\` shows it."
[ "$code" = 0 ] || exit 1
misses=0
while kill -0 "$PPID" 2>/dev/null; do # who started it may have been killed and have left it behind
  switch follow
  code=$?
  case "$code" in
    75) misses=0; continue ;; # still under way
    0)
      [ "$1" = prepare ] || certificate
      exit 0
      ;;
    1) # it failed, unless the switch itself is away
      if docker exec "$SWITCH" true 2>/dev/null; then
        certificate
        exit 1
      fi
      ;;
  esac
  misses=$((misses + 1))
  if [ "$misses" -gt 30 ]; then
    echo "The switch ($SWITCH) does not answer. It restores by itself; look with: docker logs $SWITCH" >&2
    exit 1
  fi
  sleep 1
done
exit 1
