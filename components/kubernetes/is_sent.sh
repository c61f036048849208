#!/bin/sh
# Says @HERE@ where the folder @PLACE@ of weights has come, and nothing where it hasn't: a status would be taken for a
# failure.
if [ -d "@PLACE@" ]; then
  echo "@HERE@"
fi
