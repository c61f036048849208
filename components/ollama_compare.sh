#!/bin/sh
# The third part, for a tag: each layer is called by its SHA-256. Ollama compares what it downloads, and looks at no layer
# that a pull which was interrupted has left behind, so that the files are read here. Whatever else is there has another
# name.
wrong=$(for layer in @PLACE@/models/blobs/sha256-*; do
  name=${layer##*/}
  [ "${#name}" -eq 71 ] || continue
  found=$(sha256sum <"$layer")
  [ "sha256-${found%% *}" = "$name" ] || echo "$name"
done)
if [ -n "$wrong" ]; then
  rm -rf @PLACE@/models
  echo "what came is not what it is called by, and was removed: $wrong"
  echo "Run the command again. If that fails again, something on the way changes downloads"
  exit 65 # what keeps weights on a node of a cluster does not fetch them again by itself
fi
