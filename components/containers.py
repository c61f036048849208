"""What every container of a stack has in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_docker as docker

from components.docker_host import DockerHost

DNS_OPTIONS = ["timeout:2", "attempts:2"]
"""Where no DNS server can be reached, a stopped container's name takes this long to be unknown."""

NOBODY = "65534:65534"
"""User and group without any rights, by number: in an image they need no name."""

RIGHTS = ["capabilities", "readOnly", "securityOpts", "tmpfs", "user"]
"""What `rights` decides, as Pulumi calls it. Docker changes none of it in a container that is there."""


def rights(
    *,
    user: str | None = None,
    adds: Sequence[str] = (),
    read_only: bool = True,
    scratch: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The arguments of a container that say what it may do: nothing that is not named here.

    `user` is the image's own if None. `adds` are the capabilities that it keeps. `scratch` maps folders that
    it may write, and that are gone when it stops, to mount options. Processes are limited by the switch: the
    docker provider can't.
    """
    return {
        "user": user,
        "capabilities": docker.ContainerCapabilitiesArgs(adds=list(adds) or None, drops=["ALL"]),
        "security_opts": ["no-new-privileges:true"],
        "read_only": read_only,
        "tmpfs": scratch,
    }


PULL = "2h"
"""How long an image may take. The docker provider gives up after 20 minutes otherwise, in which 100 Mbit/s
bring 15 GB: `dockerImageCreateDefaultTimeout` in resource_docker_image.go of
https://github.com/kreuzwerker/terraform-provider-docker."""


def image(name: str, reference: str, host: DockerHost, parent: pulumi.Resource) -> docker.RemoteImage:
    """The image on the host, pulled if it is not there. It stays: a way back or another stack may need it."""
    return docker.RemoteImage(
        name,
        name=reference,
        keep_locally=True,
        opts=pulumi.ResourceOptions.merge(
            host.options(parent),
            pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create=PULL, update=PULL)),
        ),
    )


def labels(values: Mapping[str, pulumi.Input[str]]) -> list[docker.ContainerLabelArgs]:
    """Labels as the docker provider takes them, in a fixed order."""
    return [docker.ContainerLabelArgs(label=key, value=value) for key, value in sorted(values.items())]


def volume_labels(values: Mapping[str, str]) -> list[docker.VolumeLabelArgs]:
    """Labels of a volume as the docker provider takes them, in a fixed order."""
    return [docker.VolumeLabelArgs(label=key, value=value) for key, value in sorted(values.items())]
