"""Which of several engines a request is sent to, where each is in a pod of its own. Pure.

A pod is known by its address. What is full, or has just ended, is not chosen. A conversation stays with the
pod that has computed it before, whose cache still has its prefix, unless that one has more to do than its
part. A proxy remembers only what it has sent itself. So a conversation that it does not know goes where
another proxy has most likely sent it: to the first pod that has no more to do than its part, in an order that
is the conversation's own and the same at every proxy. Any other request goes to the pod that has the least to
do.

The bound is that of "consistent hashing with bounded loads" (https://arxiv.org/abs/1608.01350). Without one,
who was sent to a full engine keeps it full, while others do nothing (PrimeIntellect-ai/prime-rl#3255).
"""

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.route import RoutedEngine

FULLER = 1.25
"""A pod that has more than so many times its part of all requests, rounded up, is the fuller one. Others have
the same (brpc, liblb)."""

REMEMBERED = 10_000
"""Conversations whose pod is remembered, those that were heard of last: about 2 MB."""

GONE_SECONDS = 1.0
"""So long a pod is not chosen after its engine has ended under a request: until it says so itself."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """An engine that may be asked. `engine.name` is that of its content, which all pods of a pool have, and
    `engine.host` its own address. `elsewhere` requests of other proxies are there, as far as is known."""

    engine: RoutedEngine
    elsewhere: int = 0

    @property
    def host(self) -> str:
        return self.engine.host


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The pods that are ready now. `preferred` is the name of the engine that is to serve; while a `flip` is
    under way pods with another one serve as well."""

    pods: tuple[Pod, ...] = ()
    preferred: str = ""
    flip: bool = False

    def of(self, pods: Iterable[Pod]) -> list[Pod]:
        """Those of `pods` that may be chosen.

        In a flip what has room decides and not the name: else the first pod that has the new engine would get
        everybody. Without one the name decides, as long as there is a pod of that name.
        """
        found = list(pods)
        return found if self.flip else [pod for pod in found if pod.engine.name == self.preferred] or found


class Pods:
    """What is at each pod, and which conversation is whose. `running` counts this proxy's requests by
    address, also at pods that are chosen no more."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.running: Counter[str] = Counter()
        self._homes: OrderedDict[bytes, str] = OrderedDict()
        self._gone: dict[str, float] = {}
        self._picked = 0

    def change(self, fleet: Fleet) -> None:
        """From now on these are the pods."""
        self.fleet = fleet

    def pick(self, conversation: bytes, now: float) -> RoutedEngine | None:
        """Where the next request is sent, and counted from now on; None: no pod has room for it.

        An empty `conversation` is none that comes again. `now` is a time of the clock of `gone`.
        """
        there = self.fleet.of(pod for pod in self.fleet.pods if self._gone.get(pod.host, now) <= now)
        free = [pod for pod in there if self._load(pod) < pod.engine.at_a_time]
        if not free:
            return None
        home = self._homes.get(conversation)
        chosen = next((pod for pod in free if pod.host == home and not self._fuller(pod, there)), None)
        if chosen is None and conversation:
            order = sorted(free, key=lambda pod: _rank(conversation, pod.host))
            chosen = next((pod for pod in order if not self._fuller(pod, there)), None)
        if chosen is None:
            self._picked += 1
            key = conversation or str(self._picked).encode()
            chosen = min(free, key=lambda pod: (self._load(pod) / pod.engine.at_a_time, _rank(key, pod.host)))
        self.running[chosen.host] += 1
        if conversation:
            self._homes[conversation] = chosen.host
            self._homes.move_to_end(conversation)
            if len(self._homes) > REMEMBERED:
                self._homes.popitem(last=False)
        return chosen.engine

    def left(self, host: str) -> None:
        """A request at this pod has ended."""
        self.running[host] -= 1
        if not self.running[host]:
            del self.running[host]

    def gone(self, host: str, now: float) -> None:
        """The engine of this pod has ended under a request, or can't be reached."""
        self._gone = {each: until for each, until in self._gone.items() if until > now}
        self._gone[host] = now + GONE_SECONDS

    def _load(self, pod: Pod) -> int:
        return self.running[pod.host] + pod.elsewhere

    def _fuller(self, pod: Pod, there: list[Pod]) -> bool:
        """Whether with one more it would have more than its part, by how many requests each works on."""
        total = 1 + sum(self._load(each) for each in there)
        places = sum(each.engine.at_a_time for each in there)
        return self._load(pod) + 1 > math.ceil(FULLER * total * pod.engine.at_a_time / places)


def _rank(conversation: bytes, host: str) -> bytes:
    """Every proxy looks for a conversation's pod in the same order, from the lowest rank on, which is another
    pod's for another conversation (rendezvous hashing): where a pod comes or goes, no more conversations move
    than it gets, or had."""
    return hashlib.blake2b(conversation + b"\0" + host.encode(), digest_size=8).digest()
