#!/bin/sh
# upload.sh MODEL ENGINE FOLDER: sends a folder of the offline builder's models to the Docker host, for the
# weights step of ENGINE, and then has the switch ($SWITCH) fetch as the JSON on stdin says.
set -u
request=$(cat)
models="${CHANGEOVER_CACHE:-$HOME/.cache/changeover}/models"
if [ ! -d "$models/$1" ]; then
  echo "the model $1 is not in $models. To build it, run: make up" >&2
  exit 1
fi
tar -C "$models/$1" -cf - . | docker exec -i "$SWITCH" python3 -m switch receive --engine "$2" --folder "$3" ||
  exit 1
printf '%s' "$request" | docker exec -i "$SWITCH" python3 -m switch fetch
