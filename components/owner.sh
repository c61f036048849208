#!/bin/sh
# owner.sh own|disown: the record on the host of $STACK that says whose the stack there is, and $OWNER, the id in
# this state. `own` has the switch keep what is safe in this state ($CHANGES, $CONTAINERS), and from where.
# `disown` fails where the record is another state's, or a newer one's: `pulumi destroy` begins with it. It reads
# the file and asks no program on the host, so that what is broken there can still be destroyed.
set -u
switches=$(docker ps -aq -f "label=changeover.project=$PROJECT" -f "label=changeover.stack=$STACK" \
  -f label=changeover.role=switch) || exit 1
switch=$(echo "$switches" | head -n 1)
case $1 in
  own)
    [ -n "$switch" ] || { echo "the stack has no switch" && exit 1; }
    # shellcheck disable=SC2086,SC2153 # the ids are words, and $CHANGES is one of the step's own
    docker exec "$switch" python3 -m switch own --owner "$OWNER" --changes "$CHANGES" --instead "$INSTEAD" \
      --folder "$(pwd -P)" --machine "$(uname -n)" --containers $CONTAINERS
    ;;
  disown)
    made=
    if [ -z "$switch" ]; then
      volume=$(docker volume ls -q -f "label=changeover.project=$PROJECT" -f "label=changeover.stack=$STACK" \
        -f label=changeover.role=journal) || exit 1
      image=$(docker images -q | head -n 1)
      [ -n "$volume" ] && [ -n "$image" ] || exit 0 # nothing is kept there
      made=$(docker create -v "$volume:/journal:ro" "$image" unused) || exit 1
      switch=$made
    fi
    record=$(docker cp "$switch:/journal/owner.json" - 2>/dev/null | tar -xOf - 2>/dev/null)
    [ -z "$made" ] || docker rm "$made" >/dev/null
    field() { echo "$record" | sed -n "s/^ *\"$1\": \"*\([^\",]*\)\"*,*\$/\1/p"; }
    id=$(field id)
    [ -n "$id" ] || exit 0
    from="last changed from $(field folder) on $(field machine)"
    then="Nothing was changed. \`make down\` says what can be done."
    if [ "$id" != "$OWNER" ]; then
      echo "This stack belongs to the state $id, $from, and this one is $OWNER. $then" >&2
      exit 1
    fi
    # the count is in the state alone: among this step's inputs each change would show it in a preview
    if ! state=$(pulumi stack export --stack "$STACK" 2>&1); then
      echo "How many changes this state counts can't be read: \`pulumi stack export\` fails here. $state" >&2
      exit 1
    fi
    changes=$(echo "$state" | sed -n 's/.*change \([0-9][0-9]*\) of this stack.*/\1/p' | tail -n 1)
    if [ "${changes:-0}" -lt "$(field changes)" ]; then
      echo "This state counts ${changes:-0} changes and a newer copy of it $(field changes), $from. $then" >&2
      exit 1
    fi
    ;;
esac
