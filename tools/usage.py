"""`make usage`: requests and tokens of each tenant and day, from the proxies' access log.

Tokens are those that the engines reported. Of an answer that was broken off there is no report: there the
events that had come are counted, in a column of their own. `CSV=file` writes the table there.
"""

import csv
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import StepFailed, main_guard, say
from tools.host import on_aws
from tools.status import containers_of

HOURS = 24
HEAD = (
    "day",
    "tenant",
    "requests",
    "failed",
    "hung up",
    "prompt",
    "completion",
    "events",
    "unknown",
    "share",
    "USD",
)
"""`unknown` are answers of which no token is known. `share` is a tenant's part of the day's tokens, and `USD`
the same part of what the instance costs in that day: today, until now."""


@dataclass(frozen=True)
class Row:
    """Of one tenant's day; `share` from 0 to 1, `usd` None where the stack has no price."""

    day: str
    tenant: str
    counts: Mapping[str, int]
    share: float
    usd: float | None

    def texts(self) -> list[str]:
        """In the order of `HEAD`."""
        share, usd = f"{100 * self.share:.1f} %", "" if self.usd is None else f"{self.usd:.2f}"
        return [self.day, self.tenant, *(str(count) for count in self.counts.values()), share, usd]


def rows(days: Mapping[str, Mapping[str, Mapping[str, int]]], hourly: float | None, now: float) -> list[Row]:
    """By day, and in it those with the most tokens first. `hourly` is the instance's price in USD; `now` is
    in seconds since the epoch."""
    found = []
    for day, tenants in sorted(days.items()):
        tokens = {tenant: _tokens(counts) for tenant, counts in tenants.items()}
        every = sum(tokens.values()) or 1
        for tenant in sorted(tenants, key=lambda each: (-tokens[each], each)):
            share = tokens[tenant] / every
            usd = None if hourly is None else share * hourly * _hours(day, now)
            found.append(Row(day, tenant, tenants[tenant], share, usd))
    return found


def _hours(day: str, now: float) -> float:
    """How much of the day (UTC) is over."""
    begins = datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()
    return min(max(0.0, (now - begins) / 3600), HOURS)


def _tokens(counts: Mapping[str, int]) -> int:
    return counts["prompt_tokens"] + counts["completion_tokens"] + counts["events"]


def read(stack: str) -> dict[str, Any]:
    """What a proxy of the stack has summed up of the log. Raises StepFailed."""
    proxy = containers_of(stack, "proxy")[0]
    words = ["docker", "exec", proxy, "python3", "-m", "proxy.usage"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"{proxy} can't read its log: {done.stderr.strip()}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def write(file: Path, table: Sequence[Row]) -> None:
    """As CSV; shares and prices as plain numbers."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(HEAD)
        for row in table:
            usd = "" if row.usd is None else round(row.usd, 4)
            writer.writerow([row.day, row.tenant, *row.counts.values(), round(row.share, 6), usd])


def usage(stack: str) -> None:
    """Prints the table. Raises StepFailed."""
    settings = on_aws(stack)
    said = read(stack)
    table = rows(said["days"], settings.hourly if settings else None, time.time())
    if not table:
        say(f"stack `{stack}` has no request in its log.")
        return
    shown = Table(*HEAD[: len(HEAD) if settings else -1])
    for column in shown.columns[2:]:
        column.justify = "right"
    for row in table:
        shown.add_row(*row.texts()[: len(shown.columns)])
    Console(width=None if sys.stdout.isatty() else 120).print(shown)
    say(f"The log has every request since {said['since'][:16]} UTC; of older ones, some or all are missing.")
    if said["unreadable"]:
        say(
            f"{said['unreadable']} of its lines can't be read: they were being written when the proxy was "
            "ended."
        )
    if name := os.environ.get("CSV"):
        write(Path(name), table)
        say(f"Written to {name}")


if __name__ == "__main__":
    main_guard(lambda: usage(sys.argv[1]))
