"""Made traffic: requests as a proxy in front of an engine would log them, from arrivals that are known."""

import datetime
import heapq
import json
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.route import NOBODY
from traffic.load import HOUR, LoggedRequest, Window

MONDAY = 1763942400.0
"""2025-11-24, 00:00 UTC."""
DAY = 24 * HOUR


@dataclass(frozen=True)
class Arrival:
    """Somebody asks `at` a time (seconds since the epoch) for what takes `seconds` at an engine."""

    at: float
    seconds: float
    tenant: str = "acme"
    failed: bool = False


def served(
    arrivals: Iterable[Arrival],
    *,
    at_a_time: int = 1000,
    holds: Sequence[Window] = (),
    kinds: Sequence[tuple[float, str]] = ((0.0, "ollama"),),
) -> list[LoggedRequest]:
    """What is logged of them where an engine works on so many at a time, in the order in which they came.

    In `holds` nobody is let in; what is at the engine when one begins is finished. `kinds` says which engine
    is asked from when on.
    """
    waiting: deque[Arrival] = deque()
    coming = deque(sorted(arrivals, key=lambda each: each.at))
    ends: list[float] = []
    releases = deque(sorted(until for _, until in holds))
    found = []
    while coming or waiting:
        moments = [coming[0].at] if coming else []
        moments += [ends[0]] if ends else []
        moments += [releases[0]] if releases else []
        now = min(moments)
        while coming and coming[0].at <= now:
            waiting.append(coming.popleft())
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        while releases and releases[0] <= now:
            releases.popleft()
        if any(begins <= now < until for begins, until in holds):
            continue
        while waiting and len(ends) < at_a_time:
            one = waiting.popleft()
            heapq.heappush(ends, now + one.seconds)
            kind = [name for since, name in kinds if since <= now][-1]
            found.append(
                LoggedRequest(
                    ended=now + one.seconds,
                    total=now + one.seconds - one.at,
                    held=now - one.at,
                    engine=f"{kind}-00000000",
                    tenant=one.tenant,
                    failed=one.failed,
                )
            )
    return found


def level(at: float, seconds: float, users: int, tenant: str = "acme") -> list[Arrival]:
    """So many users at once for so long, each of whom asks for one long answer."""
    return [Arrival(at, seconds, tenant) for _ in range(users)]


def office(day: float, users: int, tenant: str = "acme") -> list[Arrival]:
    """A day with `users` from 9 to 17 o'clock, half as many in the hours before and after."""
    hours = [(8, users // 2), *((hour, users) for hour in range(9, 17)), (17, users // 2)]
    return [each for hour, many in hours for each in level(day + hour * HOUR, HOUR, many, tenant)]


def chance(seed: int, number: int, begins: float, seconds: float, longest: float) -> list[Arrival]:
    """Any arrivals, of three tenants."""
    rng = random.Random(seed)
    return [
        Arrival(
            begins + rng.random() * seconds,
            rng.random() ** 3 * longest,
            rng.choice(["acme", "bob", NOBODY]),
            rng.random() < 0.1,
        )
        for _ in range(number)
    ]


def log_lines(requests: Iterable[LoggedRequest]) -> list[str]:
    """Their lines in the proxy's access log, in the order in which they ended."""
    return [
        json.dumps(
            {
                "time": datetime.datetime.fromtimestamp(each.ended, datetime.UTC).isoformat(
                    timespec="milliseconds"
                ),
                "tenant": each.tenant,
                "endpoint": "/v1/chat/completions",
                "model": "tiny",
                "engine": each.engine,
                "stream": each.stream,
                "status": 503 if each.failed else 200,
                "prompt_tokens": each.prompt,
                "completion_tokens": each.completion,
                "tokens": None if each.completion is None else "reported",
                "first_ms": None if each.first is None else round(each.first * 1000, 1),
                "total_ms": round(each.total * 1000, 1),
                "held_ms": round(each.held * 1000, 1),
                "hung_up": each.hung_up,
                "cut": each.cut,
            }
        )
        for each in sorted(requests, key=lambda each: each.ended)
    ]
