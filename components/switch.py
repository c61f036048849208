"""The switch: the service on the Docker host that owns which engine is live."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.containers import LOGS, image, labels, volume_labels
from components.docker_host import DockerHost

CODE = Path(__file__).parent.parent / "switch"
ARCHIVE = "/app/switch.zip"


def archive() -> bytes:
    """The switch's modules as a zip that Python runs from, the same bytes on every machine.

    One file, since the docker provider takes most of a second to compare twenty.
    """
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as out:
        for file in sorted(CODE.glob("*.py")):
            out.writestr(zipfile.ZipInfo(f"switch/{file.name}"), file.read_bytes())
    return raw.getvalue()


@dataclass(frozen=True, kw_only=True)
class SwitchArgs:
    """`image` is the reference to pull; `weights_volumes` maps each kind of engine to its volume."""

    image: str
    host: DockerHost
    network: pulumi.Input[str]
    weights_volumes: Mapping[str, pulumi.Input[str]]


class Switch(pulumi.ComponentResource):
    """A container with the Docker socket, a journal in a volume, and no port."""

    container_name: pulumi.Output[str]

    def __init__(self, name: str, args: SwitchArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Switch", name, None, opts)
        host, code = args.host, archive()
        pulled = image(f"{name}-image", args.image, host, self)
        journal = docker.Volume(
            f"{name}-journal",
            name=host.labels.name("journal"),
            labels=volume_labels(host.labels.of("journal")),
            opts=pulumi.ResourceOptions(parent=self, provider=host.provider),
        )
        container = docker.Container(
            host.labels.name(name),
            image=pulled.image_id,
            command=["python3", "-m", "switch", "serve"],
            envs=[
                f"PYTHONPATH={ARCHIVE}",
                f"CHANGEOVER_PROJECT={host.labels.project}",
                f"CHANGEOVER_STACK={host.labels.stack}",
                "PYTHONUNBUFFERED=1",
                # its runtime then mounts nvidia-smi, by which the switch sees what memory is free
                *(["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"] if host.gpu else []),
            ],
            gpus="all" if host.gpu else None,
            uploads=[
                docker.ContainerUploadArgs(file=ARCHIVE, content_base64=base64.b64encode(code).decode())
            ],
            volumes=[
                docker.ContainerVolumeArgs(host_path=host.socket, container_path="/var/run/docker.sock"),
                docker.ContainerVolumeArgs(volume_name=journal.name, container_path="/journal"),
                *(
                    docker.ContainerVolumeArgs(volume_name=volume, container_path=f"/weights/{kind}")
                    for kind, volume in sorted(args.weights_volumes.items())
                ),
            ],
            networks_advanced=[docker.ContainerNetworksAdvancedArgs(name=args.network)],
            labels=labels(host.labels.of("switch", code=hashlib.sha256(code).hexdigest()[:8])),
            log_driver="json-file",
            log_opts=LOGS,
            restart="always",
            destroy_grace_seconds=10,  # unset, Docker kills at once
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=host.provider,
                delete_before_replace=True,  # two switches on one journal would contradict each other
                hide_diffs=["uploads"],  # the label `code` shows that it changes, and git shows what
            ),
        )
        self.container_name = container.name
        self.register_outputs({"container_name": self.container_name})
