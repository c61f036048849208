"""The switch: the service on the Docker host that owns which engine is live."""

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.containers import image, labels, volume_labels
from components.docker_host import DockerHost

CODE = Path(__file__).parent.parent / "switch"
ARCHIVE = "/app/switch.zip"
BUILT = Path(".changeover") / "switch.zip"
"""Relative to the project's folder: Pulumi's plugins run there, wherever the folder is."""


def archive() -> bytes:
    """The switch's modules as a zip that Python runs from, the same bytes on every machine."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as out:
        for file in sorted(CODE.glob("*.py")):
            out.writestr(zipfile.ZipInfo(f"switch/{file.name}"), file.read_bytes())
    return raw.getvalue()


def write(code: bytes) -> None:
    """Put the archive where the docker provider reads it when it makes the container."""
    if not BUILT.exists() or BUILT.read_bytes() != code:
        BUILT.parent.mkdir(exist_ok=True)
        new = BUILT.with_suffix(f".{os.getpid()}")
        new.write_bytes(code)
        new.replace(BUILT)  # two programs may run at once


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
        write(code)
        digest = hashlib.sha256(code).hexdigest()
        pulled = image(f"{name}-image", args.image, host, self)
        journal = docker.Volume(
            f"{name}-journal",
            name=host.labels.name("journal"),
            labels=volume_labels(host.labels.of("journal")),
            opts=host.shared_options(self),
        )
        container = docker.Container(
            host.labels.name(name),
            image=pulled.image_id,
            command=["python3", "-m", "switch", "serve"],
            envs=[
                f"PYTHONPATH={Path(ARCHIVE).parent}:{ARCHIVE}",
                f"CHANGEOVER_PROJECT={host.labels.project}",
                f"CHANGEOVER_STACK={host.labels.stack}",
                "PYTHONUNBUFFERED=1",
                # its runtime then mounts nvidia-smi, by which the switch sees what memory is free
                *(["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"] if host.gpu else []),
            ],
            gpus="all" if host.gpu else None,
            # by name: its content among the inputs would cost every preview a fifth of a second
            uploads=[docker.ContainerUploadArgs(file=ARCHIVE, source=str(BUILT), source_hash=digest)],
            volumes=[
                docker.ContainerVolumeArgs(host_path=host.socket, container_path="/var/run/docker.sock"),
                docker.ContainerVolumeArgs(volume_name=journal.name, container_path="/journal"),
                *(
                    docker.ContainerVolumeArgs(volume_name=volume, container_path=f"/weights/{kind}")
                    for kind, volume in sorted(args.weights_volumes.items())
                ),
            ],
            networks_advanced=[docker.ContainerNetworksAdvancedArgs(name=args.network)],
            labels=labels(host.labels.of("switch", code=digest[:8])),
            **host.log("switch"),
            restart="always",
            destroy_grace_seconds=10,  # unset, Docker kills at once
            opts=host.options(
                self,
                delete_before_replace=True,  # two switches on one journal would contradict each other
                hide_diffs=["uploads"],  # the label `code` shows that it changes, and git shows what
            ),
        )
        self.container_name = container.name
        self.register_outputs({"container_name": self.container_name})
