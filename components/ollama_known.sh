#!/bin/sh
# The fourth part, for a tag whose weights the catalogue names by their SHA-256.
if ! grep -rqF '"sha256:@SUM@"' @PLACE@/models/manifests || ! [ -e @PLACE@/models/blobs/sha256-@SUM@ ]; then
  rm -rf @PLACE@/models
  echo 'the weights that came are not those with the SHA-256 @SUM@ of the catalogue, and were removed.'
  echo "Run the command again. If that fails again, the hub has replaced them: make model writes another entry (NAME=…)"
  exit 65 # what keeps weights on a node of a cluster does not fetch them again by itself
fi
