#!/bin/bash
# init.sh FOLDER API_PID: process 1 of the stand-in host, started by `unshare` with namespaces of its own for
# mounts, network and processes. Its root is an overlay over this machine's: what the boot script writes to
# /etc and elsewhere stays in FOLDER/rw. /run/api.net leads to the network in which the emulator of AWS listens,
# that of the process API_PID.
set -eu
folder=$1
mount --make-rprivate /
mkdir -p "$folder/rw/upper" "$folder/rw/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/rw/upper,workdir=$folder/rw/work" "$folder/root"
cd "$folder/root"
mount -t tmpfs -o mode=755 tmpfs run
touch run/api.net
mount --bind "/proc/$2/ns/net" run/api.net
cp "$folder/emulator.env" run/
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=755 tmpfs dev
mkdir -p dev/pts dev/shm dev/mqueue dev/disk/by-id dev/disk/by-uuid run/sshd run/lock
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  # shellcheck disable=SC2086 # three words
  mknod -m 666 dev/${node%% *} c ${node#* }
done
mkdir -p opt/aws/amazon-cloudwatch-agent/bin mnt/old etc/ssh/sshd_config.d
cp -P "$folder"/bin/* usr/local/bin/
cp usr/bin/setpriv usr/local/bin/as-root # what `sudo` is made of
chmod u+s usr/local/bin/as-root
mv usr/local/bin/amazon-cloudwatch-agent-ctl opt/aws/amazon-cloudwatch-agent/bin/
ip link set lo up
pivot_root . mnt/old
umount -l /mnt/old
groupadd --force docker
id ubuntu >/dev/null 2>&1 || useradd --create-home --shell /bin/bash ubuntu
echo ready >/run/init
while :; do # bash takes in the orphans of this process namespace
  sleep 3600 &
  wait $! || true
done
