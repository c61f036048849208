#!/bin/sh
# Puts the edge on one more network, where it is `edge`. Docker cuts none of its connections for that.
# shellcheck disable=SC2016 # the names are those of Docker's template
on=$(docker inspect -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}' "$EDGE") || exit
case " $on" in
  *" $NETWORK "*) ;;
  *) docker network connect --alias edge "$NETWORK" "$EDGE" || exit ;;
esac
echo "The edge is on the network $NETWORK."
