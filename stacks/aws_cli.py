"""What AWS says of a stack's host, asked through the `aws` command before anything is changed."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.labels import Labels

STATES = ("pending", "running", "stopping", "stopped", "shutting-down")
"""Of an instance that exists: a terminated one is listed for an hour and is nothing any more."""


class AwsError(Exception):
    """The `aws` command failed; the text is what it said."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The stack's instance and volumes, by their tags. `size_gib` counts every volume of the stack."""

    instance: str | None
    state: str
    type: str
    zone: str
    address: str
    """The public one; empty where there is none."""
    tags: Mapping[str, str]
    volumes: tuple[str, ...]
    size_gib: int


def aws(region: str, *words: str, seconds: float = 60) -> Any:
    """The JSON that `aws` answers within `seconds`; None where it answers nothing. Raises AwsError."""
    if shutil.which("aws") is None:
        raise AwsError("there is no `aws` command here. Install AWS's CLI, version 2")
    try:
        done = subprocess.run(
            ["aws", *words, "--region", region, "--output", "json"],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AwsError(f"`aws {words[0]} {words[1]}` said nothing for {seconds:.0f} s") from None
    if done.returncode != 0:
        raise AwsError(f"`aws {words[0]} {words[1]}` failed: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def _ours(labels: Labels) -> list[str]:
    return ["--filters", f"Name=tag:Project,Values={labels.project}", f"Name=tag:Stack,Values={labels.stack}"]


def look(region: str, labels: Labels) -> Found:
    """What there is of the stack. Raises AwsError."""
    states = f"Name=instance-state-name,Values={','.join(STATES)}"
    answer = aws(region, "ec2", "describe-instances", *_ours(labels), states)
    volumes = aws(region, "ec2", "describe-volumes", *_ours(labels))["Volumes"]
    instances = [each for group in answer["Reservations"] for each in group["Instances"]]
    return found(instances, volumes)


def subnet(region: str, name: str) -> tuple[str, str]:
    """Availability zone and VPC of an existing subnet. Raises AwsError."""
    answer = aws(region, "ec2", "describe-subnets", "--subnet-ids", name)
    (one,) = answer["Subnets"]
    return one["AvailabilityZone"], one["VpcId"]


def found(instances: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]]) -> Found:
    """The same from what `describe-instances` and `describe-volumes` answer."""
    # while one is replaced there are two: the one that ends is the last to be asked about
    ordered = sorted(instances, key=lambda each: STATES.index(each["State"]["Name"]))
    one = ordered[0] if ordered else {}
    return Found(
        instance=one.get("InstanceId"),
        state=one.get("State", {}).get("Name", ""),
        type=one.get("InstanceType", ""),
        zone=one.get("Placement", {}).get("AvailabilityZone", ""),
        address=one.get("PublicIpAddress", ""),
        tags={each["Key"]: each["Value"] for each in one.get("Tags", [])},
        volumes=tuple(each["VolumeId"] for each in volumes),
        size_gib=sum(each["Size"] for each in volumes),
    )
