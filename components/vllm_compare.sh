#!/bin/sh
# What follows the download of a repository whose weights the catalogue names by their SHA-256.
# shellcheck disable=SC2164 # what is in front of it has set -e
cd @PLACE@
sums=$(export LC_ALL=C && sha256sum -- *.safetensors)
found=$(printf '%s\n' "$sums" | sha256sum)
if [ "${found%% *}" != @SUM@ ]; then
  cd /
  rm -rf @PLACE@
  echo "the weights that came have the SHA-256 ${found%% *} and not @SUM@ of the catalogue, and were removed."
  echo "Run the command again. If it fails again, what is at the hub was replaced: make model writes its entry anew"
  exit 1
fi
