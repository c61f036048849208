"""What a cluster costs in the documentation is what the table of prices says."""

import math
import re

import pytest

from common import ROOT
from components.instance_types import HOURS_A_MONTH, INSTANCE_TYPES, PRICES_DATE, PRICES_REGION, hourly
from components.kubernetes.settings import HOSTS_MAXIMUM

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
DISK, EKS, USERS_OF_A_CARD = 280, 73, 40
"""GiB of a host's volumes; US dollars a month, and users, as the page assumes."""
HOST = hourly(INSTANCE_TYPES["g4dn.xlarge"], volumes_gib=DISK) * HOURS_A_MONTH


@pytest.mark.parametrize("users", [40, 400, 4000])
def test_each_row_of_what_it_costs_follows_from_the_prices(users: int) -> None:
    cards = users / USERS_OF_A_CARD
    stacks = math.ceil((cards + 1) / HOSTS_MAXIMUM)
    hosts = 1 if cards == 1 else math.ceil(cards) + stacks
    month = HOST * hosts + (EKS if hosts > 1 else 0)
    row = re.search(rf"^\| {users:,} \| (\d+)[^|]* \| \$([\d,]+) \| \$([\d.]+) \|$", PAGE, re.MULTILINE)
    assert row is not None
    assert row.groups() == (str(hosts), f"{month:,.0f}", f"{month / users:.2f}")


def test_the_prices_are_said_with_what_they_are_of() -> None:
    assert f"{PRICES_REGION} on {PRICES_DATE}" in PAGE and f"${HOST:.0f} a month" in PAGE
    for words in (f"{DISK} GiB", f"${EKS} a month", f"one T4 serves {USERS_OF_A_CARD} users"):
        assert words in PAGE
