#!/bin/sh
# What follows each download of a repository. The hub's library compares sizes: here every file has to have the hash that
# the hub named for it, which is the SHA-256 of what is large and comes from elsewhere, and Git's own of the others.
# shellcheck disable=SC2164 # what is in front of it has set -e
cd @PLACE@
wrong=$(find . -type f ! -path './.cache/*' | while IFS= read -r file; do
  hash=$(sed -n 2p ".cache/huggingface/download/$file.metadata" || true)
  case ${#hash} in
    64) found=$(sha256sum <"$file") ;;
    40) found=$({ printf 'blob %s\0' "$(wc -c <"$file")" && cat "$file"; } | sha1sum) ;;
    *) found=none ;;
  esac
  [ "${found%% *}" = "$hash" ] || echo "$file"
done)
if [ -n "$wrong" ]; then
  cd /
  rm -rf @PLACE@
  echo "what came is not what the hub has by its own word, and was removed: $wrong"
  echo "Run the command again. If that fails again, something on the way changes downloads"
  exit 65 # what keeps weights on a node of a cluster does not fetch them again by itself
fi
