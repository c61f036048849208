#!/bin/sh
# The third part, for a tag whose weights the catalogue names by their SHA-256: Ollama has compared each layer with the
# digest in the tag's manifest, so that this digest is what is compared.
if ! grep -rqF '"sha256:@SUM@"' @PLACE@/models/manifests; then
  rm -rf @PLACE@/models
  echo 'the weights that came are not those with the SHA-256 @SUM@ of the catalogue, and were removed.'
  echo "Run the command again. If it fails again, what is at the hub was replaced: make model writes its entry anew"
  exit 1
fi
