#!/bin/sh
# `create` and `list` are what the weights step and the health check ask of Ollama. Like the real ones, Ollama
# answers for every model that has a manifest, and vLLM for the one name that it is told.
manifests="${OLLAMA_MODELS:-}/manifests"
library="$manifests/registry.ollama.ai/library"
case "$1" in
    create) mkdir -p "$library/$2" && touch "$library/$2/latest"; exit ;;
    list) exit 0 ;;
esac
[ -z "${OLLAMA_MODELS:-}" ] || FAST_NAMES=$(cd "$manifests" 2>/dev/null && find . -type f | sed \
    -e 's|/latest$||' -e 't untagged' -e 's|/\([^/]*\)$|:\1|' -e ': untagged' \
    -e 's|^./||' -e 's|^registry.ollama.ai/||' -e 's|^library/||' \
    -e '/:/!{p;s|$|:latest|}') || FAST_NAMES=none
while [ $# -gt 1 ]; do
    [ "$1" != --served-model-name ] || FAST_NAMES=$2
    shift
done
export FAST_NAMES FAST_TOKENS=0.005 FAST_DELAY=0
exec python3 -u /fast_engine.py
