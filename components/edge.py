"""The edge: Caddy, the only thing that listens outside the host."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from components import caddyfile, naming, plan
from components.catalogue import MIB
from components.containers import DNS_OPTIONS, RIGHTS, labels, rights, volume_labels
from components.docker_host import DockerHost
from components.gpu_memory import EDGE_FILES, EDGE_RAM

ALIAS = "edge"
"""Network alias of the edge. Containers on the network of clients ask by it. On the stack's own nobody does,
and without it the container would be replaced."""

LISTEN_PORT = 8080
TLS_PORT = 443
HTTP_PORT = 80


@dataclass(frozen=True, kw_only=True)
class EdgeArgs:
    """`image` is an image id, `port` the published one, `caddyfile` what it runs with.

    `clients` is the network of those who ask from containers of their own; None: there is none.
    `after` must be there before it takes requests: made on volumes that are there, it runs at once with the
    configuration that they keep. `seen` is what the edge says of the configuration that it runs with now.
    """

    image: pulumi.Input[str]
    port: int
    caddyfile: pulumi.Input[str]
    host: DockerHost
    network: pulumi.Input[str]
    clients: docker.Network | None
    after: Sequence[pulumi.Resource]
    seen: pulumi.Input[str]


class Edge(pulumi.ComponentResource):
    """Created once something behind it answers. Its configuration changes by a validated reload."""

    configured: local.Command
    container_id: pulumi.Output[str]
    ca: pulumi.Output[str] | None
    """The certificate of the edge's own CA, as PEM."""

    def __init__(self, name: str, args: EdgeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Edge", name, None, opts)
        host = args.host
        volumes = [
            docker.Volume(
                f"{name}-{part}",
                name=host.labels.name(f"{name}-{part}"),
                labels=volume_labels(host.labels.of("edge")),
                opts=host.shared_options(self),
            )
            for part in ("config", "data")
        ]
        ports = [(LISTEN_PORT, args.port)]
        if host.tls is not None:
            ports = [(TLS_PORT, TLS_PORT)]
            if not host.tls.internal:
                ports.append((HTTP_PORT, HTTP_PORT))  # certificates are proven and clients redirected here
        container = docker.Container(
            host.labels.name(name),
            image=args.image,
            # The configuration is given to the running container and kept in the volume: it is in no
            # container's definition, and a restart goes on with the last one that was valid. Without one
            # Caddy has its admin API and nothing else.
            command=["caddy", "run", "--resume"],
            # Root, whose its volumes are, without root's power over others' files. Its image gives the binary
            # this one capability, and Linux runs no binary that is to have one it can't get.
            **rights(adds=["NET_BIND_SERVICE"], scratch={"/tmp": ""}),
            volumes=[
                docker.ContainerVolumeArgs(volume_name=volume.name, container_path=f"/{part}")
                for part, volume in zip(("config", "data"), volumes, strict=True)
            ],
            ports=[
                docker.ContainerPortArgs(internal=internal, external=external, ip=host.bind)
                for internal, external in ports
            ],
            networks_advanced=[docker.ContainerNetworksAdvancedArgs(name=args.network, aliases=[ALIAS])],
            dns_opts=DNS_OPTIONS,
            memory=EDGE_RAM // MIB,  # of it Caddy makes Go's own limit when it starts
            memory_swap=-1,  # Docker says -1 where it can't limit swap, so anything else would show as drift
            ulimits=[docker.ContainerUlimitArgs(name="nofile", soft=EDGE_FILES, hard=EDGE_FILES)],
            labels=labels(host.labels.of("edge")),
            **host.log("edge"),
            restart="unless-stopped",
            destroy_grace_seconds=30,  # unset, Docker kills at once
            opts=host.options(
                self,
                depends_on=list(args.after),
                delete_before_replace=True,  # two containers cannot publish one port
                # An edge that an older version made keeps what it has: another container would be a moment in
                # which connections are refused. One that is made gets all of it.
                ignore_changes=[*RIGHTS, "command", "ulimits", "uploads"],
            ),
        )
        self.container_id = container.id
        self.configured = host.step(
            naming.child(name, "configuration"),
            self,
            plan.CONFIGURE,
            {
                "EDGE": container.name,
                "EDGE_ID": container.id,  # a new one with the same volume is brought up to date too
                "APPLY": caddyfile.APPLY,
                "SEEN": args.seen,  # read at every preview, so an edit by hand shows and is put right
                "CADDYFILE": args.caddyfile,
            },
        )
        if args.clients is not None:
            # not one of the container's own networks: one more there would be another container
            host.step(
                naming.child(name, "clients"),
                self,
                plan.ATTACH,
                {
                    "EDGE": container.name,
                    "EDGE_ID": container.id,
                    "NETWORK": args.clients.name,
                    "NETWORK_ID": args.clients.id,
                },
                delete=plan.DETACH,
                depends_on=[self.configured],
            )
        self.ca = None
        if host.tls is not None and host.tls.internal:
            self.ca = local.Command(
                f"{name}-ca",
                create=plan.CA,
                interpreter=host.interpreter,
                environment=host.telling({"EDGE": container.name}),
                triggers=[container.id],
                add_previous_output_in_env=False,
                opts=host.step_options(self, depends_on=[self.configured]),
            ).stdout
        self.register_outputs({})
