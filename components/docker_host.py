"""Where the Docker host is. A target makes one; nothing else knows which target it is."""

from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components.gpu_memory import Gpu
from components.labels import Labels


@dataclass(frozen=True, kw_only=True)
class DockerHost:
    """A Docker engine to deploy on.

    `address` is what `DOCKER_HOST` takes, `socket` the path of its socket on the host itself, and
    `bind` the address there on which the edge listens. `origin` says where the docker plugin comes
    from that deploys to it.
    """

    address: pulumi.Input[str]
    socket: str
    bind: str
    gpu: Gpu | None
    provider: docker.Provider
    labels: Labels
    origin: str
