#!/bin/bash
# machine.sh FOLDER NAME: process 1 of a machine of the cluster, started by `unshare` with namespaces of its own for
# mounts, network, processes and its name. What is written to /var/lib and /var/log is in FOLDER, and what is written to
# /run ends with it.
set -eu
folder=$1
mount --make-rprivate /
mount -t proc proc /proc
hostname "$2"
mkdir -p "$folder/lib" "$folder/log" "$folder/kernel"
mount --bind "$folder/lib" /var/lib
mount --bind "$folder/log" /var/log
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/tmp
# kubelet sets these of the kernel, which is this machine's, too: it sees them set, and leaves the kernel alone
for each in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  entry=${each%=*}
  echo "${each#*=}" >"$folder/kernel/${entry##*/}"
  mount --bind "$folder/kernel/${entry##*/}" "/proc/sys/$entry"
done
mount --make-rshared / # kubelet's volumes have to reach the containers
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
for each in all default; do # a Service's address is reached through the one node that a client asks
  echo 0 >"/proc/sys/net/ipv4/conf/$each/send_redirects"
done
echo ready >/run/init
while :; do # bash takes in the orphans of this process namespace
  sleep 3600 &
  wait $! || true
done
