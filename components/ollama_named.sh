#!/bin/sh
# Starts Ollama with another name for its model, by a copy of the model's manifest beside the store.
set -e
mkdir -p @STORE@/manifests/@FOLDER@
ln -s "$OLLAMA_MODELS/blobs" @STORE@
cp "$OLLAMA_MODELS/manifests/@OWN@" @STORE@/manifests/@OTHER@
chmod -R a-w @STORE@
export OLLAMA_MODELS=@STORE@
exec /bin/ollama serve
