"""The composition: from a blueprint and a Docker host to the endpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components import api_keys, caddyfile, naming, owner, pins
from components.commit import Commit, CommitArgs
from components.containers import image, volume_labels
from components.docker_host import DockerHost
from components.edge import Edge, EdgeArgs
from components.engine import Engine, EngineArgs
from components.gateway import Gateway, GatewayArgs
from components.keys import Keys, KeysArgs
from components.monitor import Monitor, MonitorArgs
from components.plan import LOOK
from components.prepare import Prepare, PrepareArgs
from components.proxy import Proxy, ProxyArgs
from components.switch import Switch, SwitchArgs
from stacks.blueprint import Blueprint
from switch.answers import looked


@dataclass(frozen=True, kw_only=True)
class EndpointArgs:
    """`api_keys` maps tenants to keys, as a secret. `no_flip`: why the engine must not change, if so."""

    blueprint: Blueprint
    host: DockerHost
    api_keys: pulumi.Input[Mapping[str, str]]
    no_flip: str = ""


class Endpoint(pulumi.ComponentResource):
    """Networks, volumes, switch, proxy, engines, keys, the two phases with the gateway between, edge, and the
    monitor where there is one."""

    url: pulumi.Output[str]
    certificate: pulumi.Output[str]
    """The last change's certificate in one line."""
    ca: pulumi.Output[str] | None
    """The CA that clients need for the endpoint's certificate, as PEM; None: a public one, or no TLS."""

    def __init__(self, name: str, args: EndpointArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Endpoint", name, None, opts)
        blueprint, host = args.blueprint, args.host
        settings = blueprint.settings
        child = pulumi.ResourceOptions(parent=self)
        reference = blueprint.reference

        identity = owner.identity(self)

        def bridge(role: str, name: str) -> docker.Network:
            return docker.Network(
                role,
                name=name,
                driver="bridge",
                labels=[
                    docker.NetworkLabelArgs(label=key, value=value)
                    for key, value in sorted(host.labels.of(role, plugin=host.origin).items())
                ],
                opts=host.shared_options(self, import_=host.networks.get(role), depends_on=[identity]),
            )

        network = bridge("network", host.labels.prefix)
        # On a machine of the stack's own there is nobody beside it. By its name it comes after the other, and
        # the first of a container's networks is that by which Docker publishes its port.
        clients = bridge("clients", host.labels.name("clients")) if host.machine is None else None

        def volume(role: str) -> docker.Volume:
            return docker.Volume(
                role,
                name=host.labels.name(role),
                labels=volume_labels(host.labels.of(role)),
                opts=host.options(
                    self,
                    retain_on_delete=True,  # weights are hours of download; only a person deletes them
                ),
            )

        weights = {kind: volume(naming.child(kind, "weights")) for kind in ("ollama", "vllm")}
        caches = {"vllm": volume(naming.VLLM_CACHE)}

        live = docker.Volume(
            "live",
            name=host.labels.name("live"),
            labels=volume_labels(host.labels.of("live")),
            opts=host.shared_options(self, depends_on=[identity]),
        )

        switch = Switch(
            "switch",
            SwitchArgs(
                image=reference(pins.SWITCH),
                host=host,
                network=network.name,
                live_volume=live.name,
                weights_volumes={kind: each.name for kind, each in weights.items()},
                after=[identity],
            ),
            child,
        )
        proxy = Proxy(
            naming.PROXY,
            ProxyArgs(
                image=switch.image.image_id,
                host=host,
                network=network.name,
                live_volume=live.name,
                after=[switch],
            ),
            child,
        )
        engines = [
            Engine(
                spec.name,
                EngineArgs(
                    spec=spec,
                    image=reference(spec.image),
                    host=host,
                    network=network.name,
                    weights_volume=weights[spec.kind].name,
                    cache_volume=caches[spec.kind].name if spec.cache else None,
                    switch=switch.container_name,
                ),
                child,
            )
            for spec in blueprint.specs
        ]
        active = engines[0]

        seen = host.look(
            LOOK,
            self,
            {"PROJECT": host.labels.project, "STACK": host.labels.stack, "SEEN": caddyfile.SEEN},
        ).apply(looked)
        keys = Keys(
            naming.KEYS,
            KeysArgs(
                document=pulumi.Output.from_input(args.api_keys).apply(
                    lambda keys: api_keys.document(keys, never_open=settings.aws is not None)
                ),
                tenants=settings.tenants,
                host=host,
                switch=switch.container_name,
                seen=seen["keys"],
            ),
            child,
        )
        gateway_config = blueprint.gateway_config
        gateway_image = None
        if gateway_config is not None:
            gateway_image = image("gateway-image", reference(pins.GATEWAY), host, self)
        edge_image = image("edge-image", reference(pins.EDGE), host, self)
        plan = blueprint.plan()
        prepare = Prepare(
            naming.PREPARE,
            PrepareArgs(
                plan=plan,
                host=host,
                switch=switch.container_name,
                engine=active.container_name,
                # the standby as well: what an update needs is there before anything is held
                after=[*([gateway_image] if gateway_image else []), edge_image, proxy.ready, *engines],
                no_flip=args.no_flip,
            ),
            child,
        )
        gateway = None
        if gateway_config is not None and gateway_image is not None:
            gateway = Gateway(
                naming.GATEWAY,
                GatewayArgs(
                    image=gateway_image.image_id,
                    config=gateway_config,
                    drain=settings.bounds.drain,
                    host=host,
                    network=network.name,
                    prepared=prepare.step,
                    seen=seen["gateway"],
                ),
                child,
            )
        commit = Commit(
            naming.COMMIT,
            CommitArgs(
                plan=plan,
                host=host,
                switch=switch.container_name,
                engine=active.container_name,
                gateway=gateway.container_name if gateway else None,
                prepared=prepare.step,
            ),
            child,
        )
        edge = Edge(
            naming.EDGE,
            EdgeArgs(
                image=edge_image.image_id,
                port=settings.port,
                caddyfile=pulumi.Output.from_input(host.tls.name if host.tls else None).apply(
                    blueprint.edge_caddyfile
                ),
                host=host,
                network=network.name,
                clients=clients,
                after=[commit.step, keys.step, *([clients] if clients else [])],
                seen=seen["edge"],
            ),
            child,
        )
        last: list[pulumi.Resource] = [edge.configured]
        if settings.monitor is not None:
            monitor = Monitor(
                naming.MONITOR,
                MonitorArgs(
                    store=reference(pins.STORE),
                    alerts=reference(pins.ALERTS),
                    tools=switch.image.image_id,
                    host=host,
                    network=network.name,
                    files=blueprint.monitor_files,
                    port=settings.monitor.port,
                    receiver=settings.monitor.receiver,
                    after=[edge.configured],  # whatever becomes of it, all that serves is done
                ),
                child,
            )
            last.append(monitor)
        owned = owner.Owner(
            "owner",
            owner.OwnerArgs(
                host=host,
                identity=identity,
                changes=commit.changes,
                containers=[switch.container_id, proxy.container_id, edge.container_id],
                after=last,
            ),
            child,
        )
        url: pulumi.Input[str] = f"http://{host.bind}:{settings.port}/v1"
        if host.tls is not None:
            url = pulumi.Output.concat("https://", host.tls.name, "/v1")
        self.url = pulumi.Output.all(url, edge.configured.id, owned.kept).apply(
            lambda all_of_it: str(all_of_it[0])
        )
        self.certificate = commit.certificate
        self.ca = edge.ca
        self.register_outputs({"url": self.url, "certificate": self.certificate})
