#!/bin/sh
# over_ssh.sh COMMAND: runs a step whose DOCKER_HOST is behind SSH. Docker's own command line takes no options
# for ssh, so a wrapper that adds ours comes first on PATH.
PATH=$PWD/components/ssh:$PATH
export PATH
exec /bin/sh -c "$1"
