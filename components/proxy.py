"""The proxy: our service in the way of every request, between the edge and the gateway."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from common import ROOT
from components import naming, plan
from components.catalogue import MIB
from components.code import Code
from components.containers import DNS_OPTIONS, NOBODY, labels, rights, volume_labels
from components.docker_host import DockerHost
from components.gpu_memory import PROXY_RAM
from proxy import route
from switch.shared import LIVE, PROXY_PORT, PROXY_STATUS

CODE = Code("proxy")

ALIAS = route.ALIAS
"""Network alias of every proxy."""

PORT = route.PORT
"""TCP port at which the edge asks."""

LOCK = ROOT / "proxy" / "requirements.lock"
PYTHON = "3.11"
"""Of the image that runs it, which is the switch's: wheels are fetched for it."""

WHEELS_MOUNT = "/wheels"

ENVIRONMENT = ("PYTHONUNBUFFERED=1", f"MALLOC_MMAP_THRESHOLD_={64 * 1024}")
"""glibc is to give back what is large as soon as it is free. By itself it raises its threshold until it keeps
all of it, with holes in it: a proxy that held 255 MiB of bodies had 490 MiB then, and has 311 MiB so."""

GRACE = plan.REQUEST_SECONDS + 30
"""Seconds from SIGTERM to SIGKILL: a proxy that is replaced takes nothing new and ends what it carries."""

STATUS = (
    "import urllib.request; "
    f"urllib.request.urlopen('http://127.0.0.1:{PROXY_PORT}{PROXY_STATUS}', timeout=2).read()"
)
"""Python that fails where the proxy does not answer."""


@dataclass(frozen=True, kw_only=True)
class ProxyArgs:
    """`image` is an image id, `live_volume` a name on the host; `after` must be there first."""

    image: pulumi.Input[str]
    host: DockerHost
    network: pulumi.Input[str]
    live_volume: pulumi.Input[str]
    after: Sequence[pulumi.Resource]


class Proxy(pulumi.ComponentResource):
    """Created beside the one it replaces, which is told to end once the new one answers."""

    ready: local.Command
    container_id: pulumi.Output[str]

    def __init__(self, name: str, args: ProxyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Proxy", name, None, opts)
        host = args.host
        code = CODE.write()[:8]
        zipped = f"proxy-{code}.zip"
        lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:8]
        # Named by its packages: the old proxy keeps its own until it is gone. Of code it has every version.
        wheels = docker.Volume(
            f"{name}-wheels-{lock}",
            name=host.labels.name(f"{name}-wheels-{lock}"),
            labels=volume_labels(host.labels.of("wheels")),
            opts=host.shared_options(self),
        )
        log = docker.Volume(
            f"{name}-log",
            name=host.labels.name(f"{name}-log"),
            labels=volume_labels(host.labels.of("log")),
            opts=host.shared_options(self),
        )
        filled = host.step(
            naming.child(name, "files"),
            self,
            plan.PROXY_FILES,
            {
                "LOCK": lock,
                "ARCHIVE": str(CODE.built),
                "CODE": zipped,
                "VOLUME": wheels.name,
                "LOGS": log.name,
                "OWNER": NOBODY,
                "IMAGE": args.image,
                "PYTHON": PYTHON,
            },
        )
        container = docker.Container(
            host.labels.name(name),
            image=args.image,
            command=["python3", "-m", "proxy"],
            envs=[
                f"PYTHONPATH={WHEELS_MOUNT}/{zipped}:{WHEELS_MOUNT}",
                *ENVIRONMENT,
            ],
            **rights(user=NOBODY),
            volumes=[
                # the code is there too: Docker uploads nothing into a read-only root
                docker.ContainerVolumeArgs(
                    volume_name=wheels.name, container_path=WHEELS_MOUNT, read_only=True
                ),
                docker.ContainerVolumeArgs(volume_name=args.live_volume, container_path=LIVE, read_only=True),
                docker.ContainerVolumeArgs(volume_name=log.name, container_path="/log"),
            ],
            networks_advanced=[docker.ContainerNetworksAdvancedArgs(name=args.network, aliases=[ALIAS])],
            dns_opts=DNS_OPTIONS,
            healthcheck=docker.ContainerHealthcheckArgs(
                tests=["CMD", "python3", "-c", STATUS], interval="15s", timeout="5s", retries=3
            ),
            memory=PROXY_RAM // MIB,
            memory_swap=-1,  # Docker says -1 where it can't limit swap, so anything else would show as drift
            labels=labels(host.labels.of("proxy", code=code, wheels=lock)),
            **host.log("proxy"),
            restart="always",
            destroy_grace_seconds=GRACE,  # unset, Docker kills at once
            opts=host.options(
                self,
                depends_on=[filled, *args.after],
                delete_before_replace=False,  # the new one answers before the old one is told to end
            ),
        )
        self.container_id = container.id
        self.ready = host.step(
            naming.child(name, "ready"),
            self,
            plan.PROXY_READY,
            {"PROXY": container.name, "ASK": STATUS},
        )
        self.register_outputs({})
