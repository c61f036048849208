"""What happened between two looks at a stack, from the counters of its proxies. Pure.

A look is taken once a second, of a thousand time series and more: so they are read line by line, and added up
at once to the few numbers that are shown.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from switch.observe import NAMES

MINUTE = 60.0

REQUESTS, CUT, _, FIRST = NAMES
"""What the switch has to say of a proxy's metrics; more than that is passed over."""

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
BOUND = re.compile(r'[{,]le="([^"]+)"')
ESCAPED = re.compile(r"\\(.)")

Count = tuple[Literal["requests", "errors", "cut", "tokens", "first"], str]
"""What is counted: requests of a tenant, first bytes within a bound of seconds; else the text is empty."""


@dataclass(frozen=True)
class Look:
    """What each proxy had counted at `now` (seconds since the epoch), and how busy the host's CPUs were."""

    now: float
    counts: Mapping[str, Mapping[Count, float]]
    busy: int
    ticks: int


@dataclass(frozen=True)
class Minute:
    """What happened in so many `seconds`. `first` are seconds until an answer's first byte at p50 and p95,
    None where none came; `cpu` is the share of the host's CPUs that had work, 0 to 1."""

    seconds: float
    requests: float = 0
    errors: float = 0
    cut: float = 0
    tokens: float = 0
    first: tuple[float | None, float | None] = (None, None)
    cpu: float | None = None
    tenants: Mapping[str, float] = field(default_factory=dict)
    """Requests by tenant."""


def look(line: Mapping[str, Any]) -> Look:
    """The look that one line of the switch's `observe` gives."""
    counts = {proxy: _counts(text) for proxy, text in line["metrics"].items()}
    return Look(line["now"], counts, line["cpu"]["busy"], line["cpu"]["all"])


def _counts(text: str) -> dict[Count, float]:
    """What a proxy's exposition counts (Prometheus' text format 0.0.4)."""
    found: dict[Count, float] = defaultdict(float)
    for row in text.splitlines():
        if not row.startswith(NAMES):
            continue
        series, _, number = row.rpartition(" ")
        value = float(number)
        if series.startswith(FIRST):
            if bound := BOUND.search(series):
                found["first", bound[1]] += value
        elif series.startswith(CUT):
            found["cut", ""] += value
        else:
            labels = dict(LABEL.findall(series))
            if series.startswith(REQUESTS):
                found["requests", ESCAPED.sub(r"\1", labels["tenant"])] += value
                found["errors", ""] += value if labels["status"] >= "500" else 0
            elif labels["kind"] == "completion":
                found["tokens", ""] += value
    return dict(found)


def trimmed(looks: Sequence[Look]) -> list[Look]:
    """The looks without those that are older than a minute, but with the one at its beginning."""
    # later than the newest are those from before the host's clock was set back
    kept = [each for each in looks if each.now <= looks[-1].now]
    while len(kept) > 2 and kept[-1].now - kept[1].now >= MINUTE:
        kept.pop(0)
    return kept


def grown(looks: Sequence[Look]) -> dict[Count, float]:
    """By how much each count grew, of all proxies together.

    Those of a proxy that was started anew begin at nothing, and what one had that has gone is counted until
    it was seen last. One that had no answer ready for a look goes on from the look before.
    """
    total: dict[Count, float] = defaultdict(float)
    seen: dict[str, Mapping[Count, float]] = {}
    for each in looks:
        for proxy, counts in each.counts.items():
            # a proxy that was not seen before may have counted for long, in a stack that was there
            known = seen.get(proxy, counts)
            for count, value in counts.items():
                was = known.get(count, 0.0)
                total[count] += value - was if value >= was else value
        seen.update(each.counts)
    return total


def minute(looks: Sequence[Look]) -> Minute:
    """What happened between the first and the last of these looks."""
    if len(looks) < 2:
        return Minute(0)
    first, last = looks[0], looks[-1]
    counts = grown(looks)
    buckets = {float(bound): value for (what, bound), value in counts.items() if what == "first"}
    tenants = {tenant: value for (what, tenant), value in counts.items() if what == "requests" and value}
    ticks = last.ticks - first.ticks
    return Minute(
        seconds=last.now - first.now,
        requests=sum(tenants.values()),
        errors=counts.get(("errors", ""), 0),
        cut=counts.get(("cut", ""), 0),
        tokens=counts.get(("tokens", ""), 0),
        first=(quantile(buckets, 0.5), quantile(buckets, 0.95)),
        cpu=(last.busy - first.busy) / ticks if ticks > 0 else None,
        tenants=tenants,
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which that share of a histogram lies, taken as even within a bucket, as Prometheus'
    `histogram_quantile` does it; None of an empty one."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    low = below = 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return low
            inside = buckets[bound] - below
            return low + (bound - low) * ((rank - below) / inside if inside else 1)
        low, below = bound, buckets[bound]
    return low
