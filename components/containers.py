"""What every container of a stack has in common."""

from collections.abc import Mapping

import pulumi_docker as docker

LOGS = {"max-size": "10m", "max-file": "3"}
"""Docker's json-file log grows without bound otherwise."""

DNS_OPTIONS = ["timeout:2", "attempts:2"]
"""Where no DNS server can be reached, a stopped container's name takes this long to be unknown."""


def labels(values: Mapping[str, str]) -> list[docker.ContainerLabelArgs]:
    """Labels as the docker provider takes them, in a fixed order."""
    return [docker.ContainerLabelArgs(label=key, value=value) for key, value in sorted(values.items())]


def volume_labels(values: Mapping[str, str]) -> list[docker.VolumeLabelArgs]:
    """The same for a volume."""
    return [docker.VolumeLabelArgs(label=key, value=value) for key, value in sorted(values.items())]
