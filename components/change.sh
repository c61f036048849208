#!/bin/sh
# change.sh VERB [OPTION]...: tells the switch ($SWITCH) to `prepare` or to `commit` the plan on stdin, and
# prints how it goes until that phase has ended. Each `follow` renews the lease: when this script dies with
# `pulumi up`, the switch restores by itself, and an update that comes right after waits for that. A change
# that has ended leaves its certificate in certificates/$STACK: this one's, by the id that it was asked for with.
#
# A switch that gives no answer (69) is asked again: it may be stopped, or Docker, and a stall is waited for.
set -u
verb=$1
shift
change=$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')
switch() { docker exec -i "$SWITCH" python3 -m switch "$@"; }
again() { # COMMAND: again where it gets no answer
  tries=0
  until "$@"; do
    [ "$?" = 69 ] && [ "$tries" -lt 10 ] || return 1
    tries=$((tries + 1))
  done
}
# shellcheck disable=SC2329 # `again` runs them
short() { said=$(switch certificate --change "$change" </dev/null); }
# shellcheck disable=SC2329
whole() { switch certificate --change "$change" --tar </dev/null >"$sent/tar"; }
certificate() {
  again short || return 0
  echo "$said"
  folder=certificates/$STACK
  mkdir -p "$folder" && sent=$(mktemp -d "$folder/.XXXXXX") || return 0
  # What comes from the host is no more than text in files of plain names: no link, no folder, and nothing in the
  # place of a link that is there. This machine may have rights that the host must not get.
  again whole || echo "Its two files could not be fetched. They are in the volume of the switch's journal."
  tar -tf "$sent/tar" 2>/dev/null | grep -xE '[0-9A-Za-z][0-9A-Za-z.-]*\.(md|json)' | while read -r name; do
    tar -xOf "$sent/tar" "$name" >"$sent/text" && [ -s "$sent/text" ] && mv -f "$sent/text" "$folder/$name"
  done
  rm -rf "$sent"
}
plan=$(cat)
# Ctrl-C has this script killed without a word. But Pulumi waits for whoever has its output open: so somebody is
# left behind, who gives up what was being prepared, and says what is so now. One that is being committed can
# only be left to its lease. Whether requests wait the switch says itself: not by overlap, nor for a gateway.
seconds() { printf '%s' "$plan" | tr -d ' \n' | sed 's/.*"'"$1"'":\([0-9]*\).*/\1/'; }
interrupted() {
  trap '' INT HUP PIPE
  while kill -0 "$1" 2>/dev/null; do sleep 0.3 >/dev/null 2>&1; done
  said="it is being committed"
  if [ "$2" = prepare ]; then
    said=$(switch abandon --engine "$ENGINE" --change "$change" 2>&1)
    # A switch of the version before does not know that option (2).
    [ "$?" != 2 ] || said=$(switch abandon --engine "$ENGINE" 2>&1)
  fi
  loads="If its engine was already stopped, it has to load again, which takes $(seconds load) s at most."
  lease="$(($(seconds lease_following) + $(seconds lease_prepared))) s at most"
  case "$said" in
    *"no request waits"*) echo "Interrupted: the change is given up, and what had begun of it is taken back now." \
      "No request waits for it." ;;
    "" | *"requests wait"*) echo "Interrupted: the change is given up, and what served before is brought back now." \
      "Requests wait until then, and are answered. $loads" ;;
    *"no change to"*) echo "Interrupted: no change had begun." ;;
    *"is another"*) echo "Interrupted: the change that is under way is another \`pulumi up\`'s, and is left to it." ;;
    *) case "$(switch held </dev/null 2>&1)" in
      *"no request waits"*) echo "Interrupted: nobody follows the change any more. No request waits for it, and it" \
        "is taken back once the switch has waited for somebody, which is $lease. If it is committed by then, it" \
        "stays." ;;
      *) echo "Interrupted: nobody follows the change any more. Requests that are held stay so for as long as the" \
        "switch waits for somebody, which is $lease, and until what served before is back. $loads If the change" \
        "is committed by then, it stays." ;;
    esac ;;
  esac
  echo "\`make status STACK=$STACK\` shows it, and the next \`pulumi up\` waits for it."
}
interrupted "$$" "$verb" &
watcher=$!
trap 'kill "$watcher" 2>/dev/null' EXIT
waited=0
misses=0
while :; do
  said=$(printf '%s\n' "$plan" | switch "$verb" --change "$change" "$@" 2>&1)
  code=$?
  kill -0 "$PPID" 2>/dev/null || break
  case "$code" in
    69) misses=$((misses + 1)); [ "$misses" -lt 10 ] || break ;;
    75)
      [ "$waited" -lt 120 ] || break
      [ "$waited" -gt 0 ] || echo "waiting for another change: ${said#refused: }"
      waited=$((waited + 1))
      ;;
    *) break ;;
  esac
  sleep 1
done
echo "$said"
[ "$code" != 75 ] || echo "Run \`pulumi up\` again when it has ended; \`make status\` shows it."
[ "$code" = 0 ] || exit 1
misses=0
while kill -0 "$PPID" 2>/dev/null; do # who started it may have been killed and have left it behind
  said=$(switch follow --change "$change" </dev/null)
  code=$?
  [ "$code" = 69 ] || [ -z "$said" ] || printf '%s\n' "$said"
  case "$code" in
    75) misses=0; continue ;; # still under way
    0)
      [ "$verb" = prepare ] || certificate
      exit 0
      ;;
    1) # it failed, unless the switch itself is away
      if docker exec "$SWITCH" true 2>/dev/null; then
        certificate
        exit 1
      fi
      ;;
    69) # it is stopped: each time is as long as the CLI waits for an answer
      [ "$misses" -gt 0 ] || echo "the switch gives no answer; waiting for it"
      [ "$misses" -lt 15 ] || misses=30
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
