"""What AWS says of a stack's host, asked through the `aws` command before anything is changed."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from components.aws import spot
from components.labels import Labels

STATES = ("pending", "running", "stopping", "stopped", "shutting-down")
"""Of an instance that exists: a terminated one is listed for an hour and is nothing any more."""


class AwsError(Exception):
    """The `aws` command failed; the text is what it said."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A data volume: its size in GiB, its zone, and the snapshot that it was made from; empty: from none."""

    id: str
    gib: int
    zone: str
    snapshot: str


@dataclass(frozen=True, kw_only=True)
class FoundOnAws:
    """The stack's instance, by the key that its instances have, and its volumes, by their tags.

    `size_gib` counts every volume of the stack, `data` has those for data. `requests` are its spot requests
    that live, each with its instance, which may be none. `others` are more instances that AWS has started for
    a request by itself, and `strangers` those that some update of the stack has made, by the stack's tags.
    """

    instance: str | None
    state: str
    type: str
    zone: str
    address: str
    """The public one; empty where there is none."""
    tags: Mapping[str, str]
    volumes: tuple[str, ...]
    size_gib: int
    others: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    requests: Mapping[str, str] = field(default_factory=dict)
    data: tuple[Volume, ...] = ()

    def left_over(self) -> tuple[str, ...]:
        """What nobody has made and nobody uses: ids of requests and instances.

        Never an instance that an update has made, nor its request: that state may be lost here and serve.
        """
        made = (self.instance, *self.strangers)
        return (*(each for each, runs in self.requests.items() if runs not in made), *self.others)


def aws(region: str, *words: str, seconds: float = 60) -> Any:
    """The JSON that `aws` answers within `seconds`; None where it answers nothing. Raises AwsError."""
    if shutil.which("aws") is None:
        raise AwsError("there is no `aws` command here. Install version 2 of the AWS CLI")
    try:
        done = subprocess.run(
            ["aws", *words, "--region", region, "--output", "json"],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AwsError(f"`aws {words[0]} {words[1]}` did not answer within {seconds:.0f} s") from None
    if done.returncode != 0:
        raise AwsError(f"`aws {words[0]} {words[1]}` failed: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def _ours(labels: Labels) -> list[str]:
    return ["--filters", f"Name=tag:Project,Values={labels.project}", f"Name=tag:Stack,Values={labels.stack}"]


def look(region: str, labels: Labels, mine: str | None) -> FoundOnAws:
    """What there is of the stack; `mine` is the instance that the state has made. Raises AwsError."""
    key = spot.any_key(labels)  # an instance that a spot request starts by itself need not have the tags
    states = f"Name=instance-state-name,Values={','.join(STATES)}"
    alive = ("--filters", f"Name=launch.key-name,Values={key}", "Name=state,Values=open,active,disabled")
    asks = (
        ("describe-instances", "--filters", f"Name=key-name,Values={key}", states),
        ("describe-volumes", *_ours(labels)),
        ("describe-spot-instance-requests", *alive),
    )
    with ThreadPoolExecutor() as at_once:  # the command needs a second only to start
        answer, volumes, requests = at_once.map(lambda words: aws(region, "ec2", *words), asks)
    instances = [each for group in answer["Reservations"] for each in group["Instances"]]
    listed, open_ = volumes["Volumes"], requests["SpotInstanceRequests"]
    return found(instances, listed, open_, mine=mine, data=labels.name("data"))


def root_gib(region: str, image: str) -> int:
    """The size of a machine image's own root volume. Raises AwsError."""
    (one,) = aws(region, "ec2", "describe-images", "--image-ids", image)["Images"]
    disks = [each for each in one["BlockDeviceMappings"] if each["DeviceName"] == one["RootDeviceName"]]
    return max((int(each.get("Ebs", {}).get("VolumeSize", 0)) for each in disks), default=0)


def snapshot_gib(region: str, snapshot: str) -> int:
    """The size of the volume that a snapshot is of. Raises AwsError."""
    (one,) = aws(region, "ec2", "describe-snapshots", "--snapshot-ids", snapshot)["Snapshots"]
    return int(one["VolumeSize"])


def parameter(region: str, *names: str) -> str:
    """The value of the first of these parameters that is there. Raises AwsError."""
    for name in names[:-1]:
        try:
            return parameter(region, name)
        except AwsError as error:
            # https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html
            if "ParameterNotFound" not in str(error):
                raise
    return str(aws(region, "ssm", "get-parameter", "--name", names[-1])["Parameter"]["Value"])


def quota(region: str, name: str) -> float | None:
    """How many vCPUs the account may have by this quota of EC2; None where there is none. Raises AwsError."""
    listed = aws(region, "service-quotas", "list-service-quotas", "--service-code", "ec2")["Quotas"]
    return next((float(each["Value"]) for each in listed if each["QuotaName"] == name), None)


def subnet(region: str, name: str) -> tuple[str, str]:
    """Availability zone and VPC of an existing subnet. Raises AwsError."""
    answer = aws(region, "ec2", "describe-subnets", "--subnet-ids", name)
    (one,) = answer["Subnets"]
    return one["AvailabilityZone"], one["VpcId"]


def is_public(region: str, subnet: str, vpc: str) -> bool:
    """Whether a subnet of this VPC has a route to an internet gateway. Raises AwsError.

    One without a route table of its own has the main one of its VPC:
    https://docs.aws.amazon.com/vpc/latest/userguide/subnet-route-tables.html
    """

    listed = aws(region, "ec2", "describe-route-tables", "--filters", f"Name=vpc-id,Values={vpc}")
    tables = [(table["Routes"], bound) for table in listed["RouteTables"] for bound in table["Associations"]]
    own = [routes for routes, bound in tables if bound.get("SubnetId") == subnet]
    main = [routes for routes, bound in tables if bound.get("Main")]
    return any(
        route.get("DestinationCidrBlock") == "0.0.0.0/0"
        and route.get("GatewayId", "").startswith("igw-")
        and route.get("State") == "active"
        for routes in own or main
        for route in routes
    )


def found(
    instances: Sequence[Mapping[str, Any]],
    volumes: Sequence[Mapping[str, Any]],
    requests: Sequence[Mapping[str, Any]] = (),
    *,
    mine: str | None = None,
    data: str = "",
) -> FoundOnAws:
    """What AWS has of a stack, by `describe-instances`, `-volumes` and `-spot-instance-requests`.

    `data` is what a volume for data is called. Where the state knows an instance, it is that one or none;
    otherwise the one that is most alive and that some update has made.
    """
    ordered = sorted(instances, key=lambda each: STATES.index(each["State"]["Name"]))
    made = [each for each in ordered if any(tag["Key"] == "Stack" for tag in each.get("Tags", []))]
    own = [each for each in (ordered if mine else made) if mine in (None, each["InstanceId"])]
    one = own[0] if own else {}
    rest = [each for each in ordered if each is not one and each["State"]["Name"] != "shutting-down"]
    return FoundOnAws(
        instance=one.get("InstanceId"),
        state=one.get("State", {}).get("Name", ""),
        type=one.get("InstanceType", ""),
        zone=one.get("Placement", {}).get("AvailabilityZone", ""),
        address=one.get("PublicIpAddress", ""),
        tags={each["Key"]: each["Value"] for each in one.get("Tags", [])},
        volumes=tuple(each["VolumeId"] for each in volumes),
        size_gib=sum(each["Size"] for each in volumes),
        others=tuple(each["InstanceId"] for each in rest if each not in made),
        strangers=tuple(each["InstanceId"] for each in rest if each in made),
        requests={each["SpotInstanceRequestId"]: each.get("InstanceId", "") for each in requests},
        data=tuple(
            Volume(
                id=each["VolumeId"],
                gib=each["Size"],
                zone=each["AvailabilityZone"],
                snapshot=each.get("SnapshotId", ""),
            )
            for each in volumes
            if {"Key": "Name", "Value": data} in each.get("Tags", [])
        ),
    )
