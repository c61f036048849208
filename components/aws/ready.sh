#!/bin/sh
# ready.sh: waits until the host behind $DOCKER_HOST is ready: SSH, cloud-init, the GPU ($GPUS times $GPU, driver
# $DRIVER or newer), Docker and its NVIDIA runtime, and a GPU that stays when systemd reloads; then grows the file
# system at $DATA_MOUNT to its volume, and puts the probe of the endpoint's alarm there, which sends to $NAMESPACE in
# $REGION. Gives up after $DEADLINE seconds, or at once where waiting can't help, with what the failing check said.
# shellcheck disable=SC2016,SC2029 # who expands what, this machine or the host, is as it is meant each time
set -u
host=${DOCKER_HOST#ssh://}
end=$(($(date +%s) + DEADLINE))
on() { ssh "$host" "$1" 2>&1; }
left() { # the seconds until the deadline, 1 or more: to `timeout` 0 is for ever
  seconds=$((end - $(date +%s)))
  echo $((seconds > 0 ? seconds : 1))
}

wait_for() { # wait_for WHAT CHECK...: a check that exits 9 will not get better by waiting
  what=$1
  shift
  while :; do
    said=$("$@")
    code=$?
    [ "$code" -ne 0 ] || break
    if [ "$code" -eq 9 ] || [ "$(date +%s)" -ge "$end" ]; then
      printf '%s is not ready on %s. Its last answer:\n%s\n' "$what" "$host" "$said" >&2
      exit 1
    fi
    sleep "${PAUSE:-5}"
  done
  echo "$what: ready"
}

cloud_init() {
  status=$(on "timeout $(left) cloud-init status --wait")
  code=$?
  echo "$status"
  case $status in
    *"status: done"*) return 0 ;;
    *"status: error"*)
      on 'sudo tail -n 40 /var/log/cloud-init-output.log'
      return 9
      ;;
  esac
  return "$code"
}

gpu() {
  found=$(on 'timeout 60 nvidia-smi --query-gpu=driver_version,name --format=csv,noheader') || {
    echo "$found"
    return 1
  }
  echo "$found"
  if [ "$(echo "$found" | grep -c ", $GPU\$")" -ne "$GPUS" ]; then
    echo "expected: $GPUS x $GPU"
    return 9
  fi
  if [ "$(echo "$found" | head -n 1 | cut -d . -f 1)" -lt "$DRIVER" ]; then
    echo "the engines' images need driver $DRIVER or newer"
    return 9
  fi
}

runtime() {
  said=$(on "timeout 60 docker info --format '{{json .Runtimes}}'")
  echo "$said"
  echo "$said" | grep -q '"nvidia"'
}

stays() { # the whole script first: what it runs must not read the rest of it
  on 'sudo sh -euc "$(cat)"' <"$(dirname "$0")/gpu_stays.sh"
}

probe() { # the values first, as in the boot script
  {
    printf '#!/bin/sh\nREGION=%s\nNAMESPACE=%s\nDATA_MOUNT=%s\n' "$REGION" "$NAMESPACE" "$DATA_MOUNT"
    cat "$(dirname "$0")/probe.sh"
  } | on 'sudo sh -euc "cd /usr/local/bin; cat >changeover-probe.new; chmod 755 changeover-probe.new
mv changeover-probe.new changeover-probe"'
}

wait_for SSH on true
wait_for cloud-init cloud_init
# The connection that these commands share was opened before the boot script put its user into the group docker.
ssh -O exit "$host" >/dev/null 2>&1
# one connection carries them all, and sshd's own limit is 10 (sshd_config(5)); each beyond it would be a connection
# of its own
wait_for "SSH's limit of sessions" on 'sudo sh -euc "file=/etc/ssh/sshd_config.d/20-changeover.conf
grep -qs MaxSessions \$file || { echo MaxSessions 100 >\$file; systemctl restart ssh; }"'
wait_for 'The GPU' gpu
wait_for Docker on "timeout 60 docker version --format '{{.Server.Version}}'"
wait_for "Docker's NVIDIA runtime" runtime
wait_for 'The GPU in a container' stays
case $said in *"keeps"*) ;; *) echo "$said" ;; esac
# a volume that was made larger meanwhile; otherwise there is nothing to do
wait_for "The data volume's file system" on "sudo resize2fs \"\$(findmnt -no SOURCE $DATA_MOUNT)\""
wait_for "The probe of the endpoint's alarm" probe
