"""The busiest minute of a time: when there were how many requests, at an engine or before one. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from traffic.load import LoggedRequest, held, left_out, steady_spans

MINUTE = 60


@dataclass(frozen=True)
class Busiest:
    """`requests` were there at a time, on average over the minute that begins at `at` (seconds since the
    epoch)."""

    at: float
    requests: float


def busiest_minute(requests: Sequence[LoggedRequest], since: float, until: float) -> Busiest | None:
    """The minute by the clock, between both times, with the most requests at a time; None: there were none.

    What waits counts as well: its user is there. What waited in a hold, and what was worked off after it,
    says how long the hold was, and nothing of how many users there are.
    """
    out = left_out(held(requests))
    sums = dict[float, float]()
    for piece in steady_spans(requests):
        at = max(piece.begins, since) // MINUTE * MINUTE
        while at < min(piece.ends, until):
            begins, ends = max(piece.begins, since, at), min(piece.ends, until, at + MINUTE)
            seconds = _counted(begins, ends, out)
            sums[at] = sums.get(at, 0.0) + (piece.running + piece.waiting) * seconds
            at += MINUTE
    most = None
    for at, sum_ in sorted(sums.items()):
        counted = _counted(max(at, since), min(at + MINUTE, until), out)
        if counted >= MINUTE / 2 and (most is None or sum_ / counted > most.requests):
            most = Busiest(at, sum_ / counted)
    return most


def _counted(begins: float, ends: float, out: Sequence[tuple[float, float]]) -> float:
    """How many seconds of a time are in none of the windows, which don't overlap."""
    missing = sum(max(0.0, min(ends, last) - max(begins, first)) for first, last in out)
    return max(0.0, ends - begins - missing)
