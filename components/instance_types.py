"""EC2 instance types with one kind of NVIDIA GPU: what each has and costs. Pure.

Sizes are AWS's published ones. Prices are Linux on demand in us-east-1, in US dollars an hour; what
`PRICES_VERIFIED` does not name was not checked against AWS when this was written.
"""

from dataclasses import dataclass
from typing import Literal

PRICES_DATE = "2026-11-24"
PRICES_REGION = "us-east-1"
PRICES_VERIFIED = frozenset({"g4dn.xlarge"})
"""Types whose price ten independent public tables agree on. AWS's own price list could not be reached."""

GP3_GIB_MONTH = 0.08
"""US dollars for a GiB of gp3 and month in us-east-1, unverified."""
ADDRESS_HOUR = 0.005
"""US dollars an hour for a public IPv4 address, unverified."""
HOURS_A_MONTH = 730

ROOT_GIB = 80
"""Root volume: system, driver and packages. Docker's data is on the data volume. The image's own has had
75 GB, as people say who use it; AWS's pages don't. Before an instance is made, AWS is asked what
the image has."""

GpuKey = Literal["t4", "a10g", "l4"]

GPU_WORDS: dict[GpuKey, str] = {"t4": "Tesla T4", "a10g": "NVIDIA A10G", "l4": "NVIDIA L4"}
"""What `nvidia-smi` calls each GPU."""

REGIONS_DATE = "2026-11-24"
GPU_REGIONS: dict[str, frozenset[str]] = {
    family: frozenset(regions.split())
    for family, regions in {
        "g4dn": "us-east-1 us-east-2 us-west-1 us-west-2 ca-central-1 sa-east-1 eu-central-1 eu-north-1 "
        "eu-south-1 eu-west-1 eu-west-2 eu-west-3 ap-east-1 ap-northeast-1 ap-northeast-2 ap-northeast-3 "
        "ap-south-1 ap-southeast-1 ap-southeast-2 af-south-1 me-south-1",
        "g5": "us-east-1 us-east-2 us-west-2 ca-central-1 sa-east-1 eu-central-1 eu-north-1 eu-west-1 "
        "eu-west-2 ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-2",
        "g6": "us-east-1 us-east-2 us-west-2 ca-central-1 sa-east-1 eu-central-1 eu-north-1 eu-west-2 "
        "eu-west-3 ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-2",
    }.items()
}
"""Regions in which a family was offered, from memory of AWS's tables: nothing here could ask AWS, and no page
was found that lists them. AWS itself says it: aws ec2 describe-instance-type-offerings --region REGION
--filters 'Name=instance-type,Values=g4dn.xlarge'."""


@dataclass(frozen=True, kw_only=True)
class InstanceType:
    """One type: its GPUs (a key of the GPU table, and how many), vCPUs, RAM in GiB, price an hour."""

    name: str
    gpu: GpuKey
    gpus: int
    vcpus: int
    ram_gib: int
    hourly: float

    @property
    def family(self) -> str:
        """The part of the name before the dot, as in `g4dn`."""
        return self.name.partition(".")[0]


def _family(family: str, gpu: GpuKey, *rows: tuple[str, int, int, int, float]) -> dict[str, InstanceType]:
    return {
        f"{family}.{size}": InstanceType(
            name=f"{family}.{size}", gpu=gpu, gpus=gpus, vcpus=vcpus, ram_gib=ram, hourly=hourly
        )
        for size, gpus, vcpus, ram, hourly in rows
    }


INSTANCE_TYPES: dict[str, InstanceType] = {
    **_family(
        "g4dn",
        "t4",
        ("xlarge", 1, 4, 16, 0.526),
        ("2xlarge", 1, 8, 32, 0.752),
        ("4xlarge", 1, 16, 64, 1.204),
        ("8xlarge", 1, 32, 128, 2.176),
        ("12xlarge", 4, 48, 192, 3.912),
        ("16xlarge", 1, 64, 256, 4.352),
    ),
    **_family(
        "g5",
        "a10g",
        ("xlarge", 1, 4, 16, 1.006),
        ("2xlarge", 1, 8, 32, 1.212),
        ("4xlarge", 1, 16, 64, 1.624),
        ("8xlarge", 1, 32, 128, 2.448),
        ("12xlarge", 4, 48, 192, 5.672),
        ("16xlarge", 1, 64, 256, 4.096),
        ("24xlarge", 4, 96, 384, 8.144),
        ("48xlarge", 8, 192, 768, 16.288),
    ),
    **_family(
        "g6",
        "l4",
        ("xlarge", 1, 4, 16, 0.8048),
        ("2xlarge", 1, 8, 32, 0.9776),
        ("4xlarge", 1, 16, 64, 1.3232),
        ("8xlarge", 1, 32, 128, 2.0144),
        ("12xlarge", 4, 48, 192, 4.6016),
        ("16xlarge", 1, 64, 256, 3.3968),
        ("24xlarge", 4, 96, 384, 6.6752),
        ("48xlarge", 8, 192, 768, 13.3504),
    ),
}


def hourly(instance: InstanceType, *, volumes_gib: int) -> float:
    """US dollars an hour for instance, gp3 volumes and address. Traffic, snapshots and logs are not in it."""
    return instance.hourly + ADDRESS_HOUR + volumes_gib * GP3_GIB_MONTH / HOURS_A_MONTH


def cost(instance: InstanceType, *, volumes_gib: int, region: str, spot: bool) -> str:
    """What a stack costs an hour and a month of 730 hours, in one line for the preview.

    `volumes_gib` counts root and data volume.
    """
    price = hourly(instance, volumes_gib=volumes_gib)
    notes = [f"{instance.name} on demand, {volumes_gib} GiB of gp3, one address"]
    notes.append(f"prices of {PRICES_REGION}, {PRICES_DATE}")
    if region != PRICES_REGION:
        notes.append(f"prices in {region} differ")
    if instance.name not in PRICES_VERIFIED:
        notes.append("the instance's price is unverified")
    if spot:
        notes.append("spot costs less, so this is the most")
    return f"${price:.3f} an hour, ${price * HOURS_A_MONTH:.0f} a month ({'; '.join(notes)})"


def difference(before: float, after: float) -> str:
    """What a change of the price an hour does, in words: `+$0.480 an hour, +$350 a month`."""
    more = after - before
    sign = "-" if more < 0 else "+"
    return f"{sign}${abs(more):.3f} an hour, {sign}${abs(more) * HOURS_A_MONTH:.0f} a month"


def cheapest(gpu: GpuKey, *, gpus: int, ram_gib: int) -> InstanceType | None:
    """The cheapest type with at least so many of these GPUs and so much RAM in GiB."""
    found = [
        each
        for each in INSTANCE_TYPES.values()
        if each.gpu == gpu and each.gpus >= gpus and each.ram_gib >= ram_gib
    ]
    return min(found, key=lambda each: each.hourly, default=None)
