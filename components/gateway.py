"""The gateway: a TensorZero container whose TOML says which engine is preferred."""

from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components import tensorzero
from components.catalogue import MIB
from components.containers import DNS_OPTIONS, NOBODY, labels, rights
from components.docker_host import DockerHost
from components.gpu_memory import GATEWAY_RAM
from components.labels import label

ALIAS = "gateway"
"""Network alias of every gateway. Only an edge made by an older version asks by it, until the end of the
update that replaces its configuration."""


@dataclass(frozen=True, kw_only=True)
class GatewayArgs:
    """`image` is an image id; `config` the rendered TOML; `drain` is how long it may take to end, in seconds.

    `seen` is what the switch says of the TOML that is in the gateway now.
    """

    image: pulumi.Input[str]
    config: str
    drain: int
    host: DockerHost
    network: pulumi.Input[str]
    prepared: pulumi.Resource
    seen: pulumi.Input[str]


class Gateway(pulumi.ComponentResource):
    """Created beside the one that it replaces. The proxies ask it once a change is committed."""

    container_name: pulumi.Output[str]

    def __init__(self, name: str, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Gateway", name, None, opts)
        host = args.host
        container = docker.Container(
            host.labels.name(name),
            image=args.image,
            command=list(tensorzero.COMMAND),
            # not read-only: Docker uploads nothing into such a root. Nobody can write /tmp in it, and no more
            **rights(user=NOBODY, read_only=False),
            uploads=[docker.ContainerUploadArgs(file=tensorzero.CONFIG_FILE, content=args.config)],
            memory=GATEWAY_RAM // MIB,
            memory_swap=-1,  # Docker says -1 where it can't limit swap, so anything else would show as drift
            networks_advanced=[docker.ContainerNetworksAdvancedArgs(name=args.network, aliases=[ALIAS])],
            dns_opts=DNS_OPTIONS,
            healthcheck=docker.ContainerHealthcheckArgs(
                tests=["CMD", *f"wget -q -t 1 -T 2 -O /dev/null {tensorzero.STATUS_URL}".split()],
                interval="15s",
                timeout="5s",
                retries=3,
            ),
            # Docker tells nobody that a file was edited. A label that follows what the switch says of the
            # TOML replaces an edited gateway; the new one keeps the label, so that it is replaced once.
            labels=labels({**host.labels.of("gateway"), label("config"): args.seen}),
            **host.log("gateway"),
            restart="no",  # after a crash or a reboot the switch starts it, once the engine is gated
            destroy_grace_seconds=args.drain,  # unset, Docker kills at once
            must_run=False,
            opts=host.options(
                self,
                depends_on=[args.prepared],
                delete_before_replace=False,  # the new one answers before the old one is deleted
                ignore_changes=["mustRun"],  # the switch stops it to hold requests
            ),
        )
        self.container_name = container.name
        self.register_outputs({"container_name": self.container_name})
