#!/bin/sh
# proxy_ready.sh: waits until the proxy ($PROXY), which was just made, answers. Where it doesn't, the update fails
# while the one before it still serves.
tries=0
until docker exec "$PROXY" python3 -c "$ASK" 2>/dev/null; do
  tries=$((tries + 1))
  if [ "$tries" -ge 60 ] || ! kill -0 "$PPID" 2>/dev/null; then
    echo "The proxy ($PROXY) does not answer; the one before it, if any, still serves. Fix the cause and run: pulumi up" >&2
    echo "Its last lines:" >&2
    docker logs --tail 20 "$PROXY" >&2
    exit 1
  fi
  sleep 0.5
done
echo "The proxy answers."
