#!/bin/sh
# The second part, for a tag: the model gets the catalogue's name too.
/bin/ollama pull @TAG@
/bin/ollama cp @TAG@ @MODEL@
