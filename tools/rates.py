"""What happened between two looks at a stack, from the counters of its proxies. Pure."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

MINUTE = 60.0

Sample = tuple[str, str, frozenset[tuple[str, str]]]
"""Proxy, name and labels of one counter."""


@dataclass(frozen=True)
class Look:
    """The counters of the `proxies` at `now` (seconds since the epoch), and how busy the host's CPUs were."""

    now: float
    proxies: frozenset[str]
    counters: Mapping[Sample, float]
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
    """Of one line of the switch's `observe`."""
    counters: dict[Sample, float] = {}
    for proxy, text in line["metrics"].items():
        for family in text_string_to_metric_families(text):
            if family.type in ("counter", "histogram"):
                for sample in family.samples:
                    counters[proxy, sample.name, frozenset(sample.labels.items())] = sample.value
    return Look(line["now"], frozenset(line["metrics"]), counters, line["cpu"]["busy"], line["cpu"]["all"])


def trimmed(looks: Sequence[Look]) -> list[Look]:
    """Without those that are older than a minute, but for the one that it begins with."""
    kept = list(looks)
    while len(kept) > 2 and kept[-1].now - kept[1].now >= MINUTE:
        kept.pop(0)
    return kept


def grown(looks: Sequence[Look]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """By how much each counter grew, of all proxies together.

    Those of a proxy that was started anew begin at nothing, and what one had that has gone is counted until
    it was seen last.
    """
    total: dict[tuple[str, frozenset[tuple[str, str]]], float] = defaultdict(float)
    for before, after in itertools.pairwise(looks):
        for (proxy, name, labels), value in after.counters.items():
            if name.endswith("_created"):
                continue
            # a proxy that was not seen before may have counted for long, in a stack that was there
            was = before.counters.get((proxy, name, labels), 0.0 if proxy in before.proxies else value)
            total[name, labels] += value - was if value >= was else value
    return total


def minute(looks: Sequence[Look]) -> Minute:
    """What happened between the first and the last of them."""
    if len(looks) < 2:
        return Minute(0)
    first, last = looks[0], looks[-1]
    requests = errors = cut = tokens = 0.0
    buckets: dict[float, float] = defaultdict(float)
    tenants: dict[str, float] = defaultdict(float)
    for (name, pairs), value in grown(looks).items():
        labels = dict(pairs)
        match name:
            case "changeover_requests_total":
                requests += value
                tenants[labels["tenant"]] += value
                errors += value if labels["status"] >= "500" else 0
            case "changeover_cut_total":
                cut += value
            case "changeover_tokens_total" if labels["kind"] == "completion":
                tokens += value
            case "changeover_first_byte_seconds_bucket":
                buckets[float(labels["le"])] += value
    ticks = last.ticks - first.ticks
    return Minute(
        seconds=last.now - first.now,
        requests=requests,
        errors=errors,
        cut=cut,
        tokens=tokens,
        first=(quantile(buckets, 0.5), quantile(buckets, 0.95)),
        cpu=(last.busy - first.busy) / ticks if ticks > 0 else None,
        tenants={tenant: count for tenant, count in tenants.items() if count},
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
