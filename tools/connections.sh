#!/bin/sh
# How many files a container may open, and how many TCP connections it has, with those that it has not accepted.
# shellcheck disable=SC3045 # the shells of all images know it
ulimit -n
cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == "01"' | wc -l # 01: established
