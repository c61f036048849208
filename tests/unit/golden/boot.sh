#!/bin/bash
REGION=us-east-1
DATA_DEVICE=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0
DATA_MOUNT=/data
HOST_KEY_PARAMETER=/changeover/prod/host-key
NAMESPACE=Changeover/prod

# The values above are all that differs between stacks. This runs once for each new instance, as root,
# started by cloud-init. A rerun changes nothing that is in place.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive AWS_DEFAULT_REGION=$REGION

retry() { # retry SECONDS COMMAND...: until it succeeds, or the seconds are over
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "gave up: $*" >&2
      return 1
    fi
    sleep 5
  done
}

host_key() { # the key that the deployer knows this host by; the role may take a minute to be usable
  local key
  key=$(aws ssm get-parameter --name "$HOST_KEY_PARAMETER" --with-decryption \
    --query Parameter.Value --output text) || return 1
  (umask 077 && printf '%s\n' "$key" >/etc/ssh/ssh_host_ed25519_key)
  ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key >/etc/ssh/ssh_host_ed25519_key.pub
}

configure_ssh() {
  retry 300 host_key
  cat >/etc/ssh/sshd_config.d/10-changeover.conf <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
# The docker provider opens a connection for each request, many at once; the default drops some beyond 10.
MaxStartups 100
END
  systemctl restart ssh
}

mount_data() {
  retry 600 test -b "$DATA_DEVICE" # it is attached once the instance runs
  local found=0
  blkid -p "$DATA_DEVICE" >/dev/null || found=$?
  case $found in
    0) ;; # it holds something, weights most likely: never formatted
    2) mkfs.ext4 -q -L changeover-data "$DATA_DEVICE" ;;
    *)
      echo "blkid can't tell what is on $DATA_DEVICE (exit $found); it is left alone" >&2
      return 1
      ;;
  esac
  local uuid
  uuid=$(blkid -s UUID -o value "$DATA_DEVICE")
  mkdir -p "$DATA_MOUNT"
  grep -q "UUID=$uuid " /etc/fstab ||
    echo "UUID=$uuid $DATA_MOUNT ext4 defaults,noatime,nofail,x-systemd.device-timeout=10min 0 2" >>/etc/fstab
  systemctl daemon-reload
  mountpoint -q "$DATA_MOUNT" || mount "$DATA_MOUNT"
  resize2fs "$DATA_DEVICE" # the setting may have grown since
}

configure_docker() {
  systemctl stop docker.socket docker
  mkdir -p /etc/docker /etc/systemd/system/docker.service.d
  # Docker 29 would keep images in containerd's own folder, on the root volume.
  cat >/etc/docker/daemon.json <<END
{
  "data-root": "$DATA_MOUNT/docker",
  "features": {"containerd-snapshotter": false},
  "log-driver": "json-file",
  "log-opts": {"max-size": "10m", "max-file": "3"}
}
END
  nvidia-ctk runtime configure --runtime=docker
  cat >/etc/systemd/system/docker.service.d/10-changeover.conf <<END
[Unit]
RequiresMountsFor=$DATA_MOUNT
END
  systemctl daemon-reload
  systemctl enable docker
  systemctl start docker
  usermod -aG docker ubuntu
}

forget_former_host() { # a data volume from a former instance: weights, images and records stay, what ran does not
  local left
  left=$(docker ps --all --quiet)
  # shellcheck disable=SC2086 # one id a word
  [ -z "$left" ] || docker rm --force $left
  docker network prune --force
  # What the switch had live there, as it was one write before, too, and what the proxies were told of it; without any
  # of it nothing was ever committed. The certificates of changes beside it stay.
  rm -f "$DATA_MOUNT"/docker/volumes/*-journal/_data/state.* "$DATA_MOUNT"/docker/volumes/*-live/_data/route.*
}

keep_up_to_date() { # security updates, and never one that takes the driver or Docker away from what runs
  command -v unattended-upgrade >/dev/null || retry 600 apt-get -qq install --yes unattended-upgrades
  cat >/etc/apt/apt.conf.d/52changeover <<'END'
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade::Automatic-Reboot "false";
Unattended-Upgrade::Package-Blacklist {
  "nvidia-";
  "libnvidia-";
  "cuda-";
  "linux-";
  "docker-";
  "containerd";
};
END
}

watch() { # metrics of GPU (often: a short answer is no idleness) and disk, and once a minute whether what serves is up
  local agent=/opt/aws/amazon-cloudwatch-agent
  if [ ! -x $agent/bin/amazon-cloudwatch-agent-ctl ]; then
    retry 300 curl -fsS -o /tmp/agent.deb \
      https://amazoncloudwatch-agent.s3.amazonaws.com/ubuntu/amd64/1.300072.0b1766/amazon-cloudwatch-agent.deb
    # named by several public projects, one of which checked Amazon's signature
    echo "05baeadca96c4bb8e43906ed09cf0bebd0f321ff6d41987bdc46ce681de0978d  /tmp/agent.deb" | sha256sum --check --quiet
    retry 600 dpkg -i /tmp/agent.deb # unattended upgrades may hold its lock
  fi
  mkdir -p $agent/etc
  cat >$agent/etc/changeover.json <<END
{
  "metrics": {
    "namespace": "$NAMESPACE",
    "append_dimensions": {"InstanceId": "\${aws:InstanceId}"},
    "aggregation_dimensions": [["InstanceId"]],
    "metrics_collected": {
      "nvidia_gpu": {
        "measurement": ["utilization_gpu", "memory_used", "memory_total"],
        "metrics_collection_interval": 10
      },
      "disk": {"resources": ["/", "$DATA_MOUNT"], "measurement": ["used_percent"]}
    }
  }
}
END
  $agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c "file:$agent/etc/changeover.json"
  cat >/usr/local/bin/changeover-probe <<END
#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin # cron's own has no /usr/local/bin
# 1 while edge and gateway run and an engine is healthy, else 0.
running() { [ -n "\$(docker ps --quiet --filter "label=changeover.role=\$1" --filter "\$2")" ]; }
up=0
running edge status=running && running gateway status=running && running engine health=healthy && up=1
token=\$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
id=\$(curl -fsS -H "X-aws-ec2-metadata-token: \$token" http://169.254.169.254/latest/meta-data/instance-id)
exec aws cloudwatch put-metric-data --region "$REGION" --namespace "$NAMESPACE" --metric-name EndpointUp \\
  --value "\$up" --dimensions "InstanceId=\$id"
END
  chmod 755 /usr/local/bin/changeover-probe
  echo '* * * * * root /usr/local/bin/changeover-probe >/dev/null 2>&1' >/etc/cron.d/changeover
}

main() {
  configure_ssh
  mount_data
  configure_docker
  forget_former_host
  keep_up_to_date
  watch
}

main
