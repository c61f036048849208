"""What a new instance does once at its first boot: a shell script as user data. Pure; no secret is in it."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

DATA_MOUNT = "/data"
PATH = "/usr/local/sbin/changeover-boot"
# What it relies on, said here, since another text of it would be another instance:
# - `MaxStartups`: from 10 unauthenticated connections on sshd drops some by chance, and all from 100 on,
#   unless it is told otherwise (sshd_config(5)).
# - Ubuntu 24.04 listens by ssh.socket; `systemctl restart ssh` has sshd read its configuration anew all the
#   same, since one sshd takes every connection from the first one on
#   (https://discourse.ubuntu.com/t/sshd-now-uses-socket-based-activation-ubuntu-22-10-and-later/30189).
# - Docker 29 keeps images with containerd, in /var/lib/containerd, unless `containerd-snapshotter` is false
#   (https://docs.docker.com/engine/storage/containerd/).
# The probe in it knows no proxy and wants a gateway; `ready.sh` puts `probe.sh` in its place. It leaves
# Docker's cgroups to systemd; `ready.sh` runs `gpu_stays.sh`. Another text would mean another instance, and
# the endpoint down for it: both go from here with what has to change anyway.
_BODY = (Path(__file__).parent / "boot.sh").read_text()
_FORMER = (
    (
        re.compile(r"  # What the switch had live there.*?(?=\}\n)", re.DOTALL),
        "  # What the switch had live there; the certificates of changes beside it stay.\n"
        '  rm -f "$DATA_MOUNT"/docker/volumes/*-journal/_data/state.json\n',
    ),
    (
        re.compile(r"    retry 300 curl .*?(?=    retry 600 dpkg)", re.DOTALL),
        "    retry 300 curl -fsS -o /tmp/agent.deb \\\n"
        '      "https://amazoncloudwatch-agent-$REGION.s3.$REGION.amazonaws.com/ubuntu/amd64/latest/'
        'amazon-cloudwatch-agent.deb"\n',
    ),
)
"""Where each former text differs from the one after it, the newest first: which part, and what stood there.
The first one left the switch's older self on a data volume, and the second took CloudWatch's agent as it
came, too."""
FORMER_TEXTS = len(_FORMER)


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What differs between stacks. `host_key_parameter` is the name of an SSM SecureString, not its value.

    `data_volume` is the EBS volume's id, `namespace` that of the stack's CloudWatch metrics. `former`: as it
    was so many texts ago, of which there are `FORMER_TEXTS`. An instance that one of them made keeps it.
    """

    region: str
    data_volume: str
    host_key_parameter: str
    namespace: str
    former: int = 0


def data_device(volume: str) -> str:
    """The device of an EBS volume by its id: Nitro's NVMe names (`nvme1n1`) change from boot to boot.

    udev makes the link from model and serial number, which is the id without its hyphen: so juju's tests
    and those of other public projects have it. AWS's own page on it was not read.
    """
    return f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"


def render(boot: Boot) -> str:
    """The boot script. Any change of it means a new instance."""
    values = {
        "REGION": boot.region,
        "DATA_DEVICE": data_device(boot.data_volume),
        "DATA_MOUNT": DATA_MOUNT,
        "HOST_KEY_PARAMETER": boot.host_key_parameter,
        "NAMESPACE": boot.namespace,
    }
    header = "".join(f"{key}={quote(value)}\n" for key, value in values.items())
    body = _BODY
    for part, was in _FORMER[: boot.former]:
        start, end = _span(part, body)
        body = body[:start] + was + body[end:]
    return f"#!/bin/bash\n{header}{body}"


def _span(part: re.Pattern[str], body: str) -> tuple[int, int]:
    found = part.search(body)
    assert found, f"the script has nothing like {part.pattern} any more"
    return found.span()


def user_data(boot: Boot) -> str:
    """The script as cloud-config, which leaves it on the host: a person can run it again."""
    indented = "".join(f"      {line}\n" if line else "\n" for line in render(boot).splitlines())
    return f"""\
#cloud-config
write_files:
  - path: {PATH}
    permissions: "0755"
    content: |
{indented}runcmd:
  - [{PATH}]
"""


def digest(boot: Boot) -> str:
    """What tells one version of the script from another, whatever the volume is."""
    return hashlib.sha256(user_data(replace(boot, data_volume="")).encode()).hexdigest()[:12]
