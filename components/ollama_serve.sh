#!/bin/sh
# The first part of a weights step in Ollama's image: its server, which pulls and creates models in the step's folder.
set -eu
export OLLAMA_HOST=127.0.0.1:11434 OLLAMA_MODELS=@PLACE@/models OLLAMA_NOPRUNE=1
mkdir -p @PLACE@/models
/bin/ollama serve >/tmp/serve.log 2>&1 &
tries=0
until /bin/ollama list >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 150 ] || { cat /tmp/serve.log; exit 1; }
  sleep 0.2
done
