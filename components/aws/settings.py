"""What a person decides about a stack on AWS, checked; `stacks/aws_settings.py` reads it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.instance_types import ROOT_GIB, InstanceType, cost, hourly
from components.ssh_config import Access

EVERYBODY = "0.0.0.0/0"
LONGEST_STACK = 35
"""Characters of a stack's name: IAM takes 64 for a role, `changeover-STACK-snapshots-0a1b2c3` the longest
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html). The name of a topic takes no dot
(https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html)."""


@dataclass(frozen=True, kw_only=True)
class AwsSettings:
    """The checked settings of a stack on AWS. Sizes in GiB, `budget` in US dollars a month.

    `vpc_id` and `subnet_id` are empty for a network of the stack's own, `ami` for the Deep Learning AMI,
    `data_snapshot` for an empty volume. `public_keys` are those of `host` and `client`.
    """

    zone: str
    instance: InstanceType
    allowed: tuple[str, ...]
    access: Access
    admins: tuple[str, ...]
    public_http: bool
    vpc_id: str
    subnet_id: str
    domain: str
    hosted_zone: str
    ami: str
    ami_refresh: str
    data_gib: int
    data_snapshot: str
    spot: bool
    protect: bool
    idle_minutes: int
    email: str
    budget: int
    log_days: int
    public_keys: Mapping[str, str]

    @property
    def region(self) -> str:
        """The AWS region of the availability zone."""
        return self.zone[:-1]

    @property
    def volumes_gib(self) -> int:
        """The size of both volumes of the instance together, in GiB."""
        return ROOT_GIB + self.data_gib

    @property
    def hourly(self) -> float:
        """US dollars an hour, without spot's discount."""
        return hourly(self.instance, volumes_gib=self.volumes_gib)

    @property
    def cost(self) -> str:
        """What the stack costs an hour and a month, in words."""
        return cost(self.instance, volumes_gib=self.volumes_gib, region=self.region, spot=self.spot)
