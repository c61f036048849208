"""The edge: Caddy, the only thing that listens outside the host."""

import hashlib
import json
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from components import caddyfile, plan
from components.containers import DNS_OPTIONS, labels, volume_labels
from components.docker_host import DockerHost

ALIAS = "edge"
"""Network alias at which the switch asks for the number of requests."""

LISTEN_PORT = 8080
TLS_PORT = 443
HTTP_PORT = 80
BOOTSTRAP = "/etc/caddy/bootstrap.json"


@dataclass(frozen=True, kw_only=True)
class EdgeArgs:
    """`image` is an image id, `port` the published one, `config` what it runs with (secret).

    `tenants` and `caddyfile` are what may be shown of it: who has a key, and the text without keys.
    `seen` is what the edge says of the configuration that it runs with now.
    """

    image: pulumi.Input[str]
    port: int
    config: pulumi.Input[str]
    tenants: tuple[str, ...]
    caddyfile: str
    host: DockerHost
    network: pulumi.Input[str]
    committed: pulumi.Resource
    seen: pulumi.Input[str]


class Edge(pulumi.ComponentResource):
    """Created once something behind it answers. Its configuration changes by a validated reload."""

    configured: local.Command
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
            # Configuration and keys are given to the running container and kept in the volume: they are
            # in no container's definition, and a restart goes on with the last ones that were valid.
            command=["caddy", "run", "--resume", "--config", BOOTSTRAP],
            uploads=[
                docker.ContainerUploadArgs(
                    file=BOOTSTRAP, content=json.dumps({"admin": {"listen": caddyfile.ADMIN}})
                )
            ],
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
            labels=labels(host.labels.of("edge")),
            **host.log("edge"),
            restart="unless-stopped",
            destroy_grace_seconds=30,  # unset, Docker kills at once
            opts=host.options(
                self,
                depends_on=[args.committed],
                delete_before_replace=True,  # two containers cannot publish one port
            ),
        )
        self.configured = local.Command(
            f"{name}-configuration",
            create=plan.CONFIGURE,
            update=plan.CONFIGURE,
            interpreter=host.interpreter,
            stdin=pulumi.Output.secret(args.config),
            environment={
                **host.environment,
                "EDGE": container.name,
                "EDGE_ID": container.id,  # a new container under the same volume is brought up to date too
                "APPLY": caddyfile.APPLY,
                "SEEN": args.seen,  # read at every preview, so an edit by hand shows and is put right
                # All of stdin is a secret: by these two a review says what in it changes.
                "TENANTS": ", ".join(args.tenants),
                "CADDYFILE": hashlib.sha256(caddyfile.loaded(args.caddyfile).encode()).hexdigest()[:8],
            },
            add_previous_output_in_env=False,
            opts=host.step_options(self),
        )
        self.ca = None
        if host.tls is not None and host.tls.internal:
            self.ca = local.Command(
                f"{name}-ca",
                create=plan.CA,
                interpreter=host.interpreter,
                environment={**host.environment, "EDGE": container.name},
                triggers=[container.id],
                add_previous_output_in_env=False,
                opts=host.step_options(self, depends_on=[self.configured]),
            ).stdout
        self.register_outputs({})
