"""An engine on the Docker host: its image, its weights, and its container, created and not started."""

from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components import naming, plan
from components.containers import NOBODY, RIGHTS, image, labels, rights
from components.docker_host import DockerHost
from components.engines import ALIAS, CACHE_MOUNT, WEIGHTS_MOUNT, EngineSpec
from components.facts import Variable
from switch.plan import Fetch


@dataclass(frozen=True, kw_only=True)
class EngineArgs:
    """`image` is the reference to pull; `network`, the volumes and `switch` are names on the host."""

    spec: EngineSpec
    image: str
    host: DockerHost
    network: pulumi.Input[str]
    weights_volume: pulumi.Input[str]
    cache_volume: pulumi.Input[str] | None
    switch: pulumi.Input[str]


class Engine(pulumi.ComponentResource):
    """One engine, immutable and named by content. The switch starts and stops its container."""

    container_name: pulumi.Output[str]

    def __init__(self, name: str, args: EngineArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Engine", name, None, opts)
        spec, host = args.spec, args.host

        pulled = image(f"{name}-image", args.image, host, self)

        def request(volume: str) -> str:
            return Fetch(
                engine=spec.kind,
                folder=spec.weights.folder,
                image=args.image,
                volume=volume,
                script=spec.weights.script,
                env={},
                need_bytes=spec.weights.need_bytes,
                digest=spec.weights.digest,
            ).text

        fetch = plan.upload_then_fetch(spec.weights) if spec.weights.upload else plan.FETCH
        told: dict[Variable, pulumi.Input[str]] = {"SWITCH": args.switch, "WEIGHTS": spec.weights.source}
        if spec.weights.moving:
            told["MOVING"] = spec.weights.moving
        weights = host.step(
            naming.child(name, "weights"),
            self,
            fetch,
            told,
            stdin=pulumi.Output.from_input(args.weights_volume).apply(request),
            depends_on=[pulled],
            hide_diffs=["stdin"],  # WEIGHTS says the same in words
        )

        volumes = [
            docker.ContainerVolumeArgs(
                volume_name=args.weights_volume,
                container_path=WEIGHTS_MOUNT,
                read_only=True,  # so that Ollama's /api/delete, /api/pull and /api/create change nothing
            )
        ]
        if args.cache_volume is not None:
            volumes.append(
                docker.ContainerVolumeArgs(volume_name=args.cache_volume, container_path=CACHE_MOUNT)
            )
        # No part of the engine's name by content: it answers the same, and would be another one to change to.
        if spec.kind == "ollama":
            home = {"HOME": "/tmp"}
            may = rights(user=NOBODY, scratch={"/tmp": ""})
        else:
            home = {}
            may = rights(
                # root, whose its cache is. On a GPU it compiles, and where it writes then could not be tried
                read_only=spec.gpus is None,
                scratch={"/root": "exec", "/tmp": "exec"} if spec.gpus is None else None,
            )
        container = docker.Container(
            host.labels.name(name),
            image=pulled.image_id,
            entrypoints=list(spec.entrypoint),
            command=list(spec.command),
            envs=[f"{key}={value}" for key, value in sorted({**spec.environment, **home}.items())],
            **may,
            gpus=spec.gpus,
            shm_size=spec.shm_mib,
            volumes=volumes,
            networks_advanced=[
                docker.ContainerNetworksAdvancedArgs(name=args.network, aliases=[spec.name, ALIAS])
            ],
            healthcheck=docker.ContainerHealthcheckArgs(
                tests=["CMD", *spec.health], interval="15s", timeout="10s", retries=3, start_period="10m0s"
            ),
            labels=labels(host.labels.of("engine", engine=spec.kind, weights=spec.weights.folder)),
            **host.log("engine"),
            restart="unless-stopped",
            destroy_grace_seconds=plan.STOP_GRACE,  # unset, Docker kills at once
            start=False,
            must_run=False,
            opts=host.options(
                self,
                depends_on=[weights],
                delete_before_replace=False,  # the old one serves until the switch has changed over
                ignore_changes=[
                    *("mustRun", "start"),  # running or not is the switch's, not Pulumi's
                    # One that an older version made keeps them: another container is one to change to, and
                    # by `hold` everybody waits. Whatever else is changed makes one of another name.
                    *(*RIGHTS, "envs", "volumes"),
                ],
            ),
        )
        self.container_name = container.name
        self.register_outputs({"container_name": self.container_name})
