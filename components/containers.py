"""What every container of a stack has in common."""

from collections.abc import Mapping

import pulumi
import pulumi_docker as docker

from components.docker_host import DockerHost

DNS_OPTIONS = ["timeout:2", "attempts:2"]
"""Where no DNS server can be reached, a stopped container's name takes this long to be unknown."""


def image(name: str, reference: str, host: DockerHost, parent: pulumi.Resource) -> docker.RemoteImage:
    """The image on the host, pulled if it is not there. It stays: a way back or another stack may need it."""
    return docker.RemoteImage(
        name,
        name=reference,
        keep_locally=True,
        opts=host.options(parent),
    )


def labels(values: Mapping[str, pulumi.Input[str]]) -> list[docker.ContainerLabelArgs]:
    """Labels as the docker provider takes them, in a fixed order."""
    return [docker.ContainerLabelArgs(label=key, value=value) for key, value in sorted(values.items())]


def volume_labels(values: Mapping[str, str]) -> list[docker.VolumeLabelArgs]:
    """The same for a volume."""
    return [docker.VolumeLabelArgs(label=key, value=value) for key, value in sorted(values.items())]
