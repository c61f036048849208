"""An engine on the Docker host: its image, its weights, and its container, created and not started."""

from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from components import plan
from components.containers import LOGS, image, labels
from components.docker_host import DockerHost
from components.engines import ALIAS, CACHE_MOUNT, WEIGHTS_MOUNT, EngineSpec


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

        request = pulumi.Output.json_dumps(
            {
                "engine": spec.kind,
                "folder": spec.weights.folder,
                "image": args.image,
                "volume": args.weights_volume,
                "script": spec.weights.script,
                "env": {},
                "need_bytes": spec.weights.need_bytes,
                "digest": spec.weights.digest,
            },
            indent=2,
        )
        fetch = plan.upload_then_fetch(spec.weights) if spec.weights.upload else plan.FETCH
        weights = local.Command(
            f"{name}-weights",
            create=fetch,
            update=fetch,
            stdin=request,
            environment={
                "DOCKER_HOST": host.address,
                "SWITCH": args.switch,
                "WEIGHTS": spec.weights.source,
            },
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[pulled],
                hide_diffs=["stdin"],  # WEIGHTS says the same in words
            ),
        )

        volumes = [
            docker.ContainerVolumeArgs(
                volume_name=args.weights_volume,
                container_path=WEIGHTS_MOUNT,
                read_only=spec.kind == "vllm",  # Ollama opens its store for writing even to read it
            )
        ]
        if args.cache_volume is not None:
            volumes.append(
                docker.ContainerVolumeArgs(volume_name=args.cache_volume, container_path=CACHE_MOUNT)
            )
        container = docker.Container(
            host.labels.name(name),
            image=pulled.image_id,
            entrypoints=list(spec.entrypoint),
            command=list(spec.command),
            envs=[f"{key}={value}" for key, value in sorted(spec.environment.items())],
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
            log_driver="json-file",
            log_opts=LOGS,
            restart="unless-stopped",
            destroy_grace_seconds=plan.STOP_GRACE,  # unset, Docker kills at once
            start=False,
            must_run=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=host.provider,
                depends_on=[weights],
                delete_before_replace=False,  # the old one serves until the switch has changed over
                ignore_changes=["mustRun", "start"],  # running or not is the switch's, not Pulumi's
            ),
        )
        self.container_name = container.name
        self.register_outputs({"container_name": self.container_name})
