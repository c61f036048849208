"""What a flip across the pods of a cluster takes, and whether what comes meanwhile fits those that are left.
Pure.

Pod by pod: out of the proxies' choice, drained, ended, the next one started and gated. The first one is
alone, so that an engine that can't serve takes no more than one host.
"""

import datetime
import math
from dataclasses import dataclass

from components.cutover_mode import Cutover
from components.facts import HOSTS
from components.gpu_memory import KINDS, EngineKind, Load, engine_sum
from components.kubernetes.rolling import PLACE_SECONDS, START_SECONDS
from components.kubernetes.settings import KubernetesSettings
from components.plan import REQUEST_SECONDS
from components.waiting import Bounds
from switch.words import gib
from traffic.busiest import Busiest

POD_SECONDS = 7
"""Estimate for what a cluster takes to end a pod, free its GPU and start the next one. Three hosts took 75 s,
of which on each of them the stand-in engine took 10 to 15 s and an answer up to 6 s."""

INSIST = "CHANGEOVER_INSIST"
"""Environment variable of `pulumi up` with which a flip goes on whatever comes meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """`cutover` has sums and waits of one host; `load` is what each engine is asked to hold there."""

    settings: KubernetesSettings
    cutover: Cutover
    load: Load
    bounds: Bounds

    @property
    def turns(self) -> int:
        """How often pods are changed, some at once: the first one alone."""
        return 1 + math.ceil((self.settings.hosts - 1) / self.settings.at_once)

    def seconds(self, to: EngineKind) -> float:
        """What a flip to this engine is expected to take."""
        return self.turns * (POD_SECONDS + self.cutover.waits[to].expected)

    @property
    def worst(self) -> int:
        """What it takes at most where every pod passes its gate: no pod is waited for any longer."""
        return self.turns * (PLACE_SECONDS + self.bounds.load + START_SECONDS)

    @property
    def parallel(self) -> dict[EngineKind, int]:
        """How many requests each engine works on at a time on one host."""
        return {kind: engine_sum(kind, self.load).requests for kind in KINDS}

    @property
    def lines(self) -> list[str]:
        """For a reader, a line each; the same whichever engine serves."""
        hosts, at_once, left = self.settings.hosts, self.settings.at_once, self.settings.left
        parallel, cutover = self.parallel, self.cutover
        needs = ", ".join(f"{gib(engine_sum(kind, self.load).host)} {kind}" for kind in KINDS)
        there = self.load.host_memory
        ram = f"{needs}, {'hostMemoryGiB not set' if there is None else f'{gib(there)} there'}"
        return [
            f"{HOSTS}{hosts}; a flip takes {at_once} of them away at a time, the first one alone",
            *(f"  {kind}: {words}" for kind, words in cutover.sums.items()),
            f"  RAM of each: {ram}",
            *(
                f"at a time, {kind}: {hosts * parallel[kind]} requests, and on each host "
                f"{cutover.capacity[kind]}"
                for kind in KINDS
            ),
            f"in a flip {_go(left)} on serving, and nobody waits as long as at most "
            f"{left * min(parallel.values())} requests come at a time",
            *(self._time_line(kind) for kind in KINDS),
            f"a flip takes at most {minutes(self.worst)} where each new pod passes its gate: "
            f"{self.turns} times {self.worst // self.turns} s: {REQUEST_SECONDS} s for the longest answer "
            f"+ {self.bounds.load} s loadSeconds "
            f"+ {PLACE_SECONDS + START_SECONDS - REQUEST_SECONDS} s for the cluster",
        ]

    def _time_line(self, to: EngineKind) -> str:
        wait = self.cutover.waits[to]
        return (
            f"time of a flip to {to}: {minutes(self.seconds(to))} = {self.turns} times "
            f"{POD_SECONDS + wait.expected:.0f} s: {POD_SECONDS} s for the cluster (estimate), and "
            f"{wait.expected_words}"
        )


def minutes(seconds: float) -> str:
    """A time as one says it, rounded up."""
    whole = math.ceil(seconds / 60)
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{whole} min"


def _go(hosts: int) -> str:
    return f"{hosts} hosts go" if hosts > 1 else "1 host goes"


@dataclass(frozen=True)
class Places:
    """How many requests an engine works on at a time on one host."""

    engine: str
    requests: int


@dataclass(frozen=True)
class Obstacle:
    """Why a change must not begin now, and what to do: sentences, the reason without its full stop."""

    reason: str
    remedy: str

    @property
    def text(self) -> str:
        """For whoever types `pulumi up`."""
        return f"{self.reason}. Nothing was changed. {self.remedy}"


def refused(
    busiest: Busiest | None, settings: KubernetesSettings, before: Places, after: Places
) -> Obstacle | None:
    """Why a flip must not begin now; None: it may.

    `before` is what serves, and `after` what is to serve. While both do, what is left may be the smaller one.
    """
    least = min(before, after, key=lambda places: places.requests)
    left = settings.left * least.requests
    if busiest is None or busiest.requests <= left:
        return None
    at = datetime.datetime.fromtimestamp(busiest.at, datetime.UTC)
    reason = (
        f"in the busiest minute of the last hour ({at:%H:%M} UTC) there were {busiest.requests:.1f} requests "
        f"at a time, and in a flip {_go(settings.left)} on serving, which can work on {left} "
        f"({least.requests} each, {least.engine})"
    )
    said = list[str]()
    if busiest.requests > (afterwards := settings.hosts * after.requests):
        said.append(
            f"With {after.engine} all {settings.hosts} hosts can work on {afterwards}: "
            "too few afterwards, too."
        )
    fewer = [
        each
        for each in range(1, settings.at_once)
        if busiest.requests <= (settings.hosts - each) * least.requests
    ]
    if fewer:
        said.append(f"Let fewer be away at once: pulumi config set atOnce {max(fewer)}.")
    more = math.ceil(busiest.requests / least.requests) + settings.at_once
    said.append(
        f"Wait for a quieter hour, or add hosts: pulumi config set hosts {more}. To flip all the same, while "
        f"requests wait: {INSIST}=1 pulumi up"
    )
    return Obstacle(reason, " ".join(said))
