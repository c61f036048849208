# gpu_stays.sh: runs on the host as root. Where Docker's cgroups are systemd's, every `systemctl daemon-reload`, which
# the update of a package does, takes the GPU from the containers that run (NVIDIA/nvidia-container-toolkit#48). So
# Docker looks after them itself. Then a container has to keep the GPU while systemd reloads, or this exits 9.
config=/etc/docker/daemon.json
if [ "$(docker info --format '{{.CgroupDriver}}')" != cgroupfs ]; then
  python3 -c '
import json, os, sys
with open(sys.argv[1]) as file:
    content = json.load(file)
others = [each for each in content.get("exec-opts", []) if not each.startswith("native.cgroupdriver=")]
content["exec-opts"] = [*others, "native.cgroupdriver=cgroupfs"]
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(content, file, indent=4)
os.replace(file.name, sys.argv[1])' "$config"
  if [ -n "$(docker ps --quiet)" ]; then
    echo "from the next start of Docker on: containers run, and it is not restarted under them. Until then" \
      "a systemctl daemon-reload takes the GPU from them; in a quiet minute: sudo systemctl restart docker"
    exit 0
  fi
  systemctl restart docker
fi

image=changeover-gpu-stays
name=$image-$$
trap 'docker rm --force $name >/dev/null 2>&1 || true; docker rmi --force $image >/dev/null 2>&1 || true' EXIT
# No registry is needed for what the host has: a shell, and the libraries of nvidia-smi, which the runtime brings.
files=$({ ldd /bin/sh && ldd /bin/sleep && { ldd "$(command -v nvidia-smi)" || true; }; } 2>/dev/null |
  grep -o '/[^ ]*' | sed 's|^/||' | sort -u)
# shellcheck disable=SC2086 # one file a word
tar -C / -ch bin/sh bin/sleep usr/bin/env etc/debian_version $files 2>/dev/null | docker import - $image >/dev/null
docker run --detach --name $name --network none --gpus all --env NVIDIA_DRIVER_CAPABILITIES=utility \
  $image /bin/sleep 600 >/dev/null
seen() { docker exec $name nvidia-smi --query-gpu=name --format=csv,noheader 2>&1; }
if ! before=$(seen); then
  echo "not proven: nvidia-smi does not run in a container made from the host's own files: $before"
  exit 0
fi
systemctl daemon-reload
if ! after=$(seen); then
  echo "a container that had $before has lost it after systemctl daemon-reload: $after"
  exit 9
fi
echo "a container keeps $after while systemd reloads"
