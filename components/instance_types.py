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
"""Root volume: system, driver and packages. Docker's data is on the data volume."""

GpuKey = Literal["t4", "a10g", "l4"]


@dataclass(frozen=True, kw_only=True)
class InstanceType:
    """One type: its GPUs (a key of the GPU table, and how many), vCPUs, RAM in GiB, price an hour."""

    name: str
    gpu: GpuKey
    gpus: int
    vcpus: int
    ram_gib: int
    hourly: float


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


def cost(instance: InstanceType, *, volumes_gib: int, region: str, spot: bool) -> str:
    """What a stack costs an hour and a month of 730 hours, in one line for the preview.

    `volumes_gib` counts root and data volume. Traffic, snapshots and logs are not in it.
    """
    hourly = instance.hourly + ADDRESS_HOUR + volumes_gib * GP3_GIB_MONTH / HOURS_A_MONTH
    notes = [f"{instance.name} on demand, {volumes_gib} GiB of gp3, one address"]
    notes.append(f"prices of {PRICES_REGION}, {PRICES_DATE}")
    if region != PRICES_REGION:
        notes.append(f"{region} differs")
    if instance.name not in PRICES_VERIFIED:
        notes.append("the instance's price is unverified")
    if spot:
        notes.append("spot costs less: at most this")
    return f"${hourly:.3f} an hour, ${hourly * HOURS_A_MONTH:.0f} a month ({'; '.join(notes)})"
