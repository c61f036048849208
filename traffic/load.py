"""How many concurrent requests there are, from a log of requests or from what a monitor has kept.

A request counts from when it came until its answer ended, also while it waits because the engine has enough
to do: its user is there. While requests are held, in a change of the engine or after a crash, nothing counts:
how many wait then says how long the hold is. What has piled up in it is worked off afterwards, which is no
load of the users' either, so as much time again isn't looked at.
"""

import bisect
import datetime
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.route import NOBODY

HOUR = 3600
HELD_SECONDS = 1.0
"""A shorter wait without anything at an engine is no hold: letting one in takes milliseconds."""
SETTLE_SECONDS = 60.0
"""So long after a hold nothing counts, or for as long as it was, where that is longer."""
UNWATCHED_SECONDS = 900.0
"""A time without a look at the host that is longer than this may hide what its hour would be told by."""


@dataclass(frozen=True)
class LoggedRequest:
    """One line of the access log. Times in seconds, since the epoch or as they lasted.

    `engine` is NOBODY where none was asked. `failed`: an error of ours or of an engine (5xx).
    """

    ended: float
    total: float
    held: float
    engine: str = NOBODY
    tenant: str = NOBODY
    failed: bool = False
    cut: bool = False
    hung_up: bool = False
    first: float | None = None
    prompt: int | None = None
    completion: int | None = None
    stream: bool = False

    @property
    def began(self) -> float:
        """When the request arrived."""
        return self.ended - self.total

    @property
    def admitted(self) -> float:
        """When an engine was asked. A request that was asked again was held twice, which the log doesn't
        tell: its waiting counts as if it had come first."""
        return min(self.began + self.held, self.ended)

    @property
    def at_engine(self) -> bool:
        """Whether an engine was asked."""
        return self.engine != NOBODY

    @property
    def kind(self) -> str:
        """`ollama` or `vllm`; an engine is named by kind and content."""
        return self.engine.partition("-")[0]


@dataclass(frozen=True)
class SteadySpan:
    """A time in which nothing changed: so many requests at an engine, and so many waiting."""

    begins: float
    ends: float
    running: int
    waiting: int


Window = tuple[float, float]
"""From, until: seconds since the epoch."""


@dataclass
class Hour:
    """An hour by the clock (UTC). `levels`: for how many seconds there were so many concurrent requests."""

    levels: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    crowded: float = 0
    """Seconds in which somebody waited because the engine had enough to do."""
    left_out: float = 0
    """Seconds of holds, and after them."""
    requests: int = 0
    asked: int = 0
    """How many of them an engine got."""
    failed: int = 0
    """5xx, and answers that were cut."""
    hung_up: int = 0

    def add(self, other: "Hour") -> None:
        """Adds what is known of another hour, or of another part of this one."""
        for level, seconds in other.levels.items():
            self.levels[level] += seconds
        self.crowded += other.crowded
        self.left_out += other.left_out
        self.requests += other.requests
        self.asked += other.asked
        self.failed += other.failed
        self.hung_up += other.hung_up


@dataclass
class Traffic:
    """All that is known of a time. `since` is when the knowledge begins, `until` when it ends."""

    source: str
    """In words, where it is known from."""
    since: float
    until: float
    hours: dict[float, Hour] = field(default_factory=dict)
    """By the beginning of each. An hour without a request may be missing."""
    holds: list[Window] = field(default_factory=list)
    served: list[tuple[float, float, str]] = field(default_factory=list)
    """Which kind of engine was asked from when until when."""
    tenants: dict[str, "Share"] = field(default_factory=dict)
    by_kind: dict[str, Hour] = field(default_factory=dict)
    """The hours of each kind of engine, all together."""
    unknown: list[Window] = field(default_factory=list)
    """In between, when requests may have come of which nothing is known."""

    def knows(self, begins: float, ends: float) -> bool:
        """Whether all of this time is known."""
        gaps = any(since < ends and until > begins for since, until in self.unknown)
        return self.since <= begins and self.until >= ends and not gaps


@dataclass
class Share:
    """One tenant's part. `work` are the seconds that its requests were at an engine; `most` its own most
    concurrent requests, None where only its sums are known."""

    requests: int = 0
    failed: int = 0
    work: float = 0
    most: int | None = None


def of_log(requests: Sequence[LoggedRequest], since: float, until: float, source: str) -> Traffic:
    """The traffic that a log tells, from `since`, when it begins, until now."""
    holds = held(requests)
    out = left_out(holds)
    line = list(steady_spans(requests))
    served = engines(((each.admitted, each.kind) for each in requests if each.at_engine), until)
    traffic = Traffic(source, since, until, _hours(line, out, (since, until)), holds, served)
    begun = [span.begins for span in line]
    for begins, ends, kind in served:
        together = traffic.by_kind.setdefault(kind, Hour())
        its = line[max(0, bisect.bisect_right(begun, begins) - 1) : bisect.bisect_left(begun, ends)]
        for hour in _hours(its, out, (max(begins, since), ends)).values():
            together.add(hour)
    alone: dict[str, list[LoggedRequest]] = {}
    for each in requests:
        if not since <= each.ended <= until:
            continue
        alone.setdefault(each.tenant, []).append(each)
        hour = traffic.hours.setdefault(each.began // HOUR * HOUR, Hour())
        hour.requests += 1
        hour.asked += each.at_engine
        hour.failed += each.failed or each.cut
        hour.hung_up += each.hung_up
        share = traffic.tenants.setdefault(each.tenant, Share())
        share.requests += 1
        share.failed += each.failed or each.cut
    out_begun = [begins for begins, _ in out]
    for tenant, share in traffic.tenants.items():
        mine = alone[tenant]
        share.work = sum(each.ended - each.admitted for each in mine if each.at_engine)
        share.most = max(
            (
                span.running + span.waiting
                for span in steady_spans(mine)
                if any(_without((span.begins, span.ends), out, out_begun))
            ),
            default=0,
        )
    return traffic


def unwatched(booted: Sequence[tuple[float, float]]) -> list[Window]:
    """When nobody looked at a host that ran. Of each look it is given when that was, and when the host had
    been started: while it is off there are no requests either, so that nothing is missing of that time."""
    return [
        (before, after)
        for (before, _), (after, start) in itertools.pairwise(booted)
        if after - before > UNWATCHED_SECONDS and start <= before
    ]


def of_samples(line: Iterable[SteadySpan], holds: Sequence[Window], window: Window) -> dict[float, Hour]:
    """The hours that samples tell, without what is counted otherwise."""
    return _hours(line, left_out(holds), window)


def steady_spans(requests: Iterable[LoggedRequest]) -> Iterator[SteadySpan]:
    """How many requests there are, from the first change to the last; none where there is no request."""
    steps: list[tuple[float, int, int]] = []
    for each in requests:
        if each.admitted > each.began:
            steps += [(each.began, 0, 1), (each.admitted, 0, -1)]
        if each.at_engine and each.ended > each.admitted:
            steps += [(each.admitted, 1, 0), (each.ended, -1, 0)]
    steps.sort()
    running = waiting = 0
    before = 0.0
    for at, runs, waits in steps:
        if at > before and (running or waiting):
            yield SteadySpan(before, at, running, waiting)
        running, waiting, before = running + runs, waiting + waits, at


def held(requests: Sequence[LoggedRequest]) -> list[Window]:
    """When requests were held, as the log shows it: somebody waits and nobody is at an engine.

    Whoever has come before that, and since anybody was let in, has waited for the old engine to drain.
    """
    found: list[list[float]] = []
    for span in steady_spans(requests):
        if span.waiting and not span.running:
            if found and found[-1][1] == span.begins:
                found[-1][1] = span.ends
            else:
                found.append([span.begins, span.ends])
    found = [each for each in found if each[1] - each[0] >= HELD_SECONDS]
    if not found:
        return []
    let_in = sorted(each.admitted for each in requests if each.at_engine)
    waited = [each for each in requests if each.held >= HELD_SECONDS]
    holds = []
    for begins, ends in found:
        came = min((each.began for each in waited if each.began <= begins < each.admitted), default=begins)
        number = bisect.bisect_left(let_in, begins)
        last = let_in[number - 1] if number else came
        holds.append((min(begins, max(came, last)), ends))
    return holds


def left_out(holds: Iterable[Window]) -> list[Window]:
    """The holds, each with as much time again after it (SETTLE_SECONDS at least); adjoining ones are one."""
    return merged((begins, ends + max(SETTLE_SECONDS, ends - begins)) for begins, ends in holds)


def merged(windows: Iterable[Window]) -> list[Window]:
    """The windows in order, with adjoining ones as one."""
    found: list[Window] = []
    for begins, ends in sorted(windows):
        if found and begins <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ends))
        else:
            found.append((begins, ends))
    return found


def engines(asked: Iterable[tuple[float, str]], until: float) -> list[tuple[float, float, str]]:
    """From when until when each kind of engine served, from the times at which it was asked or seen to
    serve."""
    found: list[tuple[float, float, str]] = []
    for at, kind in sorted(asked):
        if not found or found[-1][2] != kind:
            if found:
                found[-1] = (found[-1][0], at, found[-1][2])
            found.append((at, until, kind))
    return found


def _hours(line: Iterable[SteadySpan], out: Sequence[Window], window: Window) -> dict[float, Hour]:
    """By hour what was there in `window`; what no span tells of has nobody, and counts as time too."""
    hours: dict[float, Hour] = {}
    since, until = window
    if until <= since:
        return hours
    for begins, ends in _cut([window]):
        hours[begins // HOUR * HOUR] = Hour(defaultdict(float, {0: ends - begins}))
    for begins, ends in _cut(_inside(out, window)):
        hour = hours[begins // HOUR * HOUR]
        hour.left_out += ends - begins
        hour.levels[0] -= ends - begins
    begun = [begins for begins, _ in out]
    for span in line:
        level = span.running + span.waiting
        for begins, ends in _inside([(span.begins, span.ends)], window):
            for part in _without((begins, ends), out, begun):
                for begins, ends in _cut([part]):
                    hour = hours[begins // HOUR * HOUR]
                    hour.levels[level] += ends - begins
                    hour.levels[0] -= ends - begins
                    hour.crowded += ends - begins if span.waiting else 0
    return hours


def _inside(windows: Iterable[Window], window: Window) -> Iterator[Window]:
    for begins, ends in windows:
        begins, ends = max(begins, window[0]), min(ends, window[1])
        if begins < ends:
            yield begins, ends


def _without(window: Window, out: Sequence[Window], begun: Sequence[float]) -> Iterator[Window]:
    """The parts of a window that are in none of `out`, which are in order and begin at `begun`."""
    begins, ends = window
    number = max(0, bisect.bisect_right(begun, begins) - 1)
    for out_begins, out_ends in out[number:]:
        if out_begins >= ends:
            break
        if begins < out_begins:
            yield begins, out_begins
        begins = max(begins, out_ends)
    if begins < ends:
        yield begins, ends


def _cut(windows: Iterable[Window]) -> Iterator[Window]:
    """The window in parts, none of which is in two hours."""
    for begins, ends in windows:
        while begins < ends:
            end = min(ends, (begins // HOUR + 1) * HOUR)
            yield begins, end
            begins = end


def percentile(levels: Mapping[int, float], share: float) -> int:
    """The smallest number of concurrent requests that wasn't exceeded for this share (0 to 1) of the time."""
    every = sum(levels.values())
    so_far = 0.0
    for level, seconds in sorted(levels.items()):
        so_far += seconds
        if so_far >= share * every - 1e-6:
            return level
    return 0


def most(levels: Mapping[int, float]) -> int:
    """The most concurrent requests, for however short a time."""
    return max((level for level, seconds in levels.items() if seconds > 1e-9), default=0)


def day_of(at: float) -> str:
    """The day (UTC), as 2026-11-29."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat()
