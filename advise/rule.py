"""Which engine the rules of thumb advise for a traffic, and the numbers that it stands on.

The rules are those of the document that this project began with: regularly more than 15 concurrent requests:
vLLM; fewer than 10: Ollama. What it calls users at a time are concurrent requests here: somebody who reads an
answer asks for nothing. Exactly:

- A day's figure is that of its busiest hour by the clock (UTC): the most concurrent requests, but for the 5 %
  of the hour's time with the most (p95). An hour of which more than half is left out, for holds, has no
  figure. Days count that are over, are known from their first minute on, and in which an engine was asked.
- *Regularly above 15*: the figure is above 15 on at least half of these days.
- *Below 10*: it is below 10 on at least three of four of these days.
- Between, neither holds. With fewer than three such days nothing is said.
"""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from switch.plan import EngineKind
from traffic.load import HOUR, Hour, Traffic, day_of, most, percentile

BUSY, QUIET = 15, 10
SHARE_BUSY, SHARE_QUIET = 1 / 2, 3 / 4
DAYS, LEAST_DAYS = 7, 3
"""So many days are looked at, and so many with requests are needed."""
BUSIEST = 0.95
LEAST_SECONDS = HOUR / 2
"""Of an hour, for a figure: of less, a moment would be the 5 % that are not looked at."""

Verdict = Literal["upgrade", "stay", "undecided", "too little"]


@dataclass(frozen=True)
class Day:
    """`busiest` is the hour (0 to 23, UTC) with the highest p95, which is `figure`; `most` the most
    concurrent requests of the day. `whole`: the day is over, and known from its beginning to its end."""

    name: str
    whole: bool
    busiest: int
    figure: int
    most: int
    requests: int
    asked: int
    """How many of the requests an engine got; the others were refused, or given up before."""
    failed: int
    left_out: float

    @property
    def counts(self) -> bool:
        """Whether the rules look at this day."""
        return self.whole and self.asked > 0


@dataclass(frozen=True)
class Advice:
    """`engine` is the one that is advised, None where none is; `words` what to do and why, a line each."""

    verdict: Verdict
    engine: EngineKind | None
    figure: int | None
    """The middle one of the days' figures."""
    words: tuple[str, ...]
    short: str
    """One line for who looks at something else."""


def days(traffic: Traffic) -> list[Day]:
    """The days of which something is known, in order."""
    found: dict[str, dict[float, Hour]] = {}
    for at, hour in sorted(traffic.hours.items()):
        found.setdefault(day_of(at), {})[at] = hour
    said = []
    for name, hours in found.items():
        begins = datetime.datetime.fromisoformat(f"{name}T00:00:00+00:00").timestamp()
        long = [at for at, hour in hours.items() if sum(hour.levels.values()) >= LEAST_SECONDS]
        busiest = max(
            long or hours, key=lambda at: (percentile(hours[at].levels, BUSIEST), most(hours[at].levels))
        )
        said.append(
            Day(
                name=name,
                whole=traffic.knows(begins, begins + 24 * HOUR),
                busiest=int((busiest - begins) // HOUR),
                figure=percentile(hours[busiest].levels, BUSIEST),
                most=max(most(hour.levels) for hour in hours.values()),
                requests=sum(hour.requests for hour in hours.values()),
                asked=sum(hour.asked for hour in hours.values()),
                failed=sum(hour.failed for hour in hours.values()),
                left_out=sum(hour.left_out for hour in hours.values()),
            )
        )
    return said


def by_clock(traffic: Traffic) -> dict[int, Hour]:
    """All days' hours together, by the hour of the day (UTC)."""
    found: dict[int, Hour] = {}
    for at, hour in traffic.hours.items():
        found.setdefault(int(at // HOUR % 24), Hour()).add(hour)
    return dict(sorted(found.items()))


def advise(traffic: Traffic, serves: str, stack: str) -> Advice:
    """What to do with a stack whose engine is `serves` now."""
    known = [day for day in days(traffic) if day.counts][-DAYS:]
    if len(known) < LEAST_DAYS:
        return _too_little(traffic, known)
    figures = sorted(day.figure for day in known)
    middle = figures[(len(figures) - 1) // 2]
    above = [day for day in known if day.figure > BUSY]
    below = [day for day in known if day.figure < QUIET]
    listed = ", ".join(f"{day.figure} on {day.name}" for day in known)
    stands_on = (
        f"Concurrent requests in each day's busiest hour (p95): {listed}. Above {BUSY} on {len(above)} of "
        f"{len(known)} days, below {QUIET} on {len(below)}"
    )
    alone = [f"An occasional spike: {_when(day)}." for day in above]
    if len(above) >= SHARE_BUSY * len(known):
        words = (
            "Upgrade to vLLM" if serves == "ollama" else "Stay with vLLM",
            f"there are regularly more than {BUSY} concurrent requests",
        )
        short = "upgrade to vLLM" if serves == "ollama" else "stay with vLLM"
        return Advice(
            "upgrade",
            "vllm",
            middle,
            (f"{words[0]}: {words[1]}.", f"{stands_on}."),
            _line(len(known), middle, short),
        )
    if len(below) >= SHARE_QUIET * len(known):
        says = (
            f"Stay with Ollama: on most days there are fewer than {QUIET} concurrent requests, and Ollama is "
            "enough for that."
            if serves == "ollama"
            else f"Ollama would do: on most days there are fewer than {QUIET} concurrent requests. vLLM "
            "serves them, too; but if it answers faster than Ollama, there would be more of them with Ollama."
        )
        short = "stay with Ollama" if serves == "ollama" else "Ollama would do"
        return Advice(
            "stay", "ollama", middle, (says, f"{stands_on}.", *alone), _line(len(known), middle, short)
        )
    more = math.ceil(SHARE_BUSY * len(known)) - len(above)
    fewer = math.ceil(SHARE_QUIET * len(known)) - len(below)
    return Advice(
        "undecided",
        None,
        middle,
        (
            f"Undecided: there are between {QUIET} and {BUSY} concurrent requests, or days of both kinds.",
            f"{stands_on}.",
            f"What would decide it: {more} more of these days above {BUSY} for vLLM, or {fewer} more below "
            f"{QUIET} for Ollama; or a measurement of both engines on this card: make report STACK={stack}.",
        ),
        _line(len(known), middle, "undecided"),
    )


def _too_little(traffic: Traffic, known: Sequence[Day]) -> Advice:
    every = days(traffic)
    requests = sum(day.requests for day in every)
    if not requests:
        return Advice(
            "too little",
            None,
            None,
            ("Too little is known: there was no traffic.", _needed()),
            "no traffic is known; advice: none",
        )
    if not any(day.asked for day in every):
        return Advice(
            "too little",
            None,
            None,
            (f"Too little is known: there were {requests} requests, and no engine got any.", _needed()),
            "no traffic is known; advice: none",
        )
    have = f"{len(known)} whole day{'' if len(known) == 1 else 's'} with requests"
    highest = max(every, key=lambda day: (day.most, day.name))
    return Advice(
        "too little",
        None,
        None,
        (
            f"Too little is known: {have}, and {requests} requests in all since {_time(traffic.since)}.",
            f"So far there were at most {highest.most} concurrent requests, on {highest.name}.",
            _needed(),
        ),
        f"{have}; advice: none yet, {LEAST_DAYS} are needed",
    )


def _needed() -> str:
    return (
        f"Advice needs at least {LEAST_DAYS} days (UTC) that are over, are known from their beginning, and "
        "had requests."
    )


def _line(days: int, figure: int, short: str) -> str:
    many = f"request{'' if figure == 1 else 's'}"
    return (
        f"the last {DAYS} days, {days} of them with requests: {figure} concurrent {many} in a day's busiest "
        f"hour (p95); advice: {short}"
    )


def _when(day: Day) -> str:
    return f"at most {day.most} concurrent requests on {day.name}, p95 {day.figure} from {day.busiest:02}:00"


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
