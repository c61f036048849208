#!/bin/sh
# Waits until the weights $FOLDER are on this node, whole: their mark says $DIGEST. It reads no more, or each host of a
# flip would be away for longer: what fetches weights on the node reads them.
trap 'exit 143' TERM # the first process of a container does not hear it else
until [ "$(cat "/weights/$FOLDER/.complete" 2>/dev/null)" = "$DIGEST" ]; do
  echo "this node does not have the weights $FOLDER yet"
  sleep 5 &
  wait $!
done
