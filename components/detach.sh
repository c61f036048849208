#!/bin/sh
# Takes everything off a network, so that Docker lets it be removed. Its text is in the state, since the checkout that
# deletes may be of another version.
# shellcheck disable=SC2016 # the names are those of Docker's template
for each in $(docker network inspect -f '{{range $id, $_ := .Containers}}{{$id}} {{end}}' "$NETWORK"); do
  docker network disconnect --force "$NETWORK" "$each"
done
