#!/bin/sh
# look.sh: says of gateway, keys and edge, a line each, whether they are what they were brought to: of the edge its own
# program $SEEN knows it, of the others the switch. Nothing is said of what isn't there.
#
# Each says all of it at once: two that write at the same time mix the pieces in which they write. Containers are found
# by their labels and not by their names, so that what is said is known in every preview, that of a new container too,
# and waits for nothing.
labels="-f label=changeover.project=$PROJECT -f label=changeover.stack=$STACK"
# shellcheck disable=SC2086 # one option a word
for each in $(docker ps $labels --format '{{.Label "changeover.role"}}={{.ID}}'); do
  case $each in
    switch=*) said=$(docker exec "${each#*=}" python3 -m switch look) && echo "$said" & ;;
    edge=*) said=$(docker exec "${each#*=}" /bin/sh -c "$SEEN") && echo "edge $said" & ;;
  esac
done 2>/dev/null
wait
