"""The switch: the service on the Docker host that owns which engine is live."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.catalogue import MIB
from components.code import Code
from components.containers import image, labels, rights, volume_labels
from components.docker_host import DockerHost
from components.gpu_memory import SWITCH_RAM
from switch import shared

CODE = Code("switch")
ARCHIVE = "/app/switch.zip"


ALIAS = "switch"
"""Its name on the stack's network, where it is scraped."""


@dataclass(frozen=True, kw_only=True)
class SwitchArgs:
    """`image` is the reference to pull; `weights_volumes` maps each kind of engine to its volume.

    `live_volume` is where it tells the proxies what they may ask, and who may ask them; `after` must be there
    as long as the journal is.
    """

    image: str
    host: DockerHost
    network: pulumi.Input[str]
    live_volume: pulumi.Input[str]
    weights_volumes: Mapping[str, pulumi.Input[str]]
    after: Sequence[pulumi.Resource]


class Switch(pulumi.ComponentResource):
    """A container with the Docker socket and a journal in a volume. It listens only on the port of its
    metrics, which is not published."""

    container_name: pulumi.Output[str]
    container_id: pulumi.Output[str]
    image: docker.RemoteImage

    def __init__(self, name: str, args: SwitchArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Switch", name, None, opts)
        host, digest = args.host, CODE.write()
        self.image = image(f"{name}-image", args.image, host, self)
        journal = docker.Volume(
            f"{name}-journal",
            name=host.labels.name("journal"),
            labels=volume_labels(host.labels.of("journal")),
            opts=host.shared_options(self, depends_on=list(args.after)),
        )
        container = docker.Container(
            host.labels.name(name),
            image=self.image.image_id,
            command=["python3", "-m", "switch", "serve"],
            envs=[
                f"PYTHONPATH={Path(ARCHIVE).parent}:{ARCHIVE}",
                f"{shared.PROJECT}={host.labels.project}",
                f"{shared.STACK}={host.labels.stack}",
                "PYTHONUNBUFFERED=1",
                # its runtime then mounts nvidia-smi, by which the switch sees what memory is free
                *(["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"] if host.gpu else []),
            ],
            # root, whose socket Docker's is: who has that has the host, whatever else is taken away. The root
            # is writable, since its code is uploaded to it.
            **rights(read_only=False),
            memory=SWITCH_RAM // MIB,
            memory_swap=-1,  # Docker says -1 where it can't limit swap, so anything else would show as drift
            gpus="all" if host.gpu else None,
            # by name: its content among the inputs would cost every preview a fifth of a second
            uploads=[docker.ContainerUploadArgs(file=ARCHIVE, source=str(CODE.built), source_hash=digest)],
            volumes=[
                docker.ContainerVolumeArgs(host_path=host.socket, container_path=shared.SOCKET),
                docker.ContainerVolumeArgs(volume_name=journal.name, container_path=shared.JOURNAL),
                docker.ContainerVolumeArgs(volume_name=args.live_volume, container_path=shared.LIVE),
                *(
                    docker.ContainerVolumeArgs(volume_name=volume, container_path=f"{shared.WEIGHTS}/{kind}")
                    for kind, volume in sorted(args.weights_volumes.items())
                ),
            ],
            networks_advanced=[docker.ContainerNetworksAdvancedArgs(name=args.network, aliases=[ALIAS])],
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
        self.container_name, self.container_id = container.name, container.id
        self.register_outputs({"container_name": self.container_name})
