#!/bin/sh
# The second part, for a folder of weights.
# shellcheck disable=SC2164 # the first part has set -e
cd @PLACE@/source
test -f Modelfile || echo 'FROM .' >Modelfile
/bin/ollama create @MODEL@ -f Modelfile
