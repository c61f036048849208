"""The busiest minute of a time: when there were how many requests, at an engine or before one. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from traffic.load import LoggedRequest, held, left_out, steady_spans

MINUTE = 60
REPLACED_SECONDS = 300
"""So long it may take until proxies have been replaced. Of what came meanwhile a part is in no log."""


@dataclass(frozen=True)
class Busiest:
    """`requests` were there at a time, on average over the minute that begins at `at` (seconds since the
    epoch)."""

    at: float
    requests: float


@dataclass(frozen=True)
class KnownMinutes:
    """What is known of a time. `minutes` says how many requests were there at a time, by when each minute
    begins. From `since` until `until` that is all of them, and before it may be a part. Times are in seconds
    since the epoch."""

    minutes: Mapping[float, float]
    since: float
    until: float

    @property
    def busiest(self) -> Busiest | None:
        """The minute with the most requests at a time, the first of several; None: there were none."""
        found = [Busiest(at, count) for at, count in sorted(self.minutes.items())]
        return max(found, key=lambda each: each.requests, default=None)

    def with_kept(self, kept: "KnownMinutes", oldest: float) -> "KnownMinutes":
        """With what was kept before, from the minute on that begins at `oldest`.

        Of a minute that both know the larger number counts: it is the same requests, of which the other one
        has a part only, since its minute had not ended or a log of it has gone.
        """
        both = sorted({*self.minutes, *kept.minutes})
        minutes = {at: max(each.minutes.get(at, 0.0) for each in (self, kept)) for at in both if at >= oldest}
        adjoin = self.since <= kept.until + REPLACED_SECONDS
        return KnownMinutes(minutes, min(self.since, kept.since) if adjoin else self.since, self.until)


def by_minute(requests: Sequence[LoggedRequest], since: float, until: float) -> dict[float, float]:
    """How many requests were there at a time, by the minutes of the clock that had any between both times.

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
    counted = {at: _counted(max(at, since), min(at + MINUTE, until), out) for at in sums}
    return {at: sum_ / counted[at] for at, sum_ in sums.items() if counted[at] >= MINUTE / 2}


def _counted(begins: float, ends: float, out: Sequence[tuple[float, float]]) -> float:
    """How many seconds of a time are in none of the windows, which don't overlap."""
    missing = sum(max(0.0, min(ends, last) - max(begins, first)) for first, last in out)
    return max(0.0, ends - begins - missing)
