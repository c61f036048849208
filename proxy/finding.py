"""Which pods there are on a cluster, and how each of them is, from the pods themselves.

The name of a Service says which there are, those that are not ready among them. It may be late with that, by
the seconds for which DNS servers keep an answer, and that loses nothing: whether a pod may be asked is known
from the pod, several times a second. In the same question it hears how many requests this proxy has there,
and so it knows when its engine may end.
"""

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from proxy.admission import Admission
from proxy.pods import Fleet, Pod
from proxy.route import RoutedEngine

PORT, PATH = 8002, "/pod"
"""Where every pod says how it is."""

ASK_SECONDS = 0.25
ASKS_A_SECOND = 200
"""Of all pods together, at most."""
SILENT_SECONDS = 1.0
"""A pod that says nothing for so long is asked nothing more."""
LOST_SECONDS = 10.0
"""One that says nothing for so long, or whose node does, answers nothing that it was asked any more."""
LOOK_SECONDS = 1.0
"""Between two looks who there is."""


@dataclass(frozen=True)
class Wanted:
    """What is to be: the name of the Service that has all pods, the engine that is to serve, by its name, and
    whether a flip to it is under way."""

    service: str
    preferred: str
    flip: bool


def parse_wanted(raw: bytes) -> Wanted:
    """What is to be, from the file that says so. Raises ValueError, KeyError or TypeError where it can't be
    read."""
    said = json.loads(raw)
    if type(said["flip"]) is not bool:
        raise TypeError("flip must be true or false")
    return Wanted(str(said["service"]), str(said["preferred"]), said["flip"])


@dataclass(frozen=True)
class PodStatus:
    """What a pod said of itself."""

    pod: Pod
    ready: bool
    draining: bool


def parse_status(raw: bytes, host: str) -> PodStatus:
    """What the pod at the address `host` said of itself. Raises ValueError, KeyError or TypeError where it
    can't be read."""
    said: dict[str, Any] = json.loads(raw)
    its = said["engine"]
    engine = RoutedEngine(
        name=str(its["name"]),
        kind=str(its["kind"]),
        host=host,
        port=int(its["port"]),
        model=str(its["model"]),
        at_a_time=int(its["at_a_time"]),
        context=int(its["context"]),
    )
    pod = Pod(engine=engine, elsewhere=int(said["elsewhere"]))
    return PodStatus(pod, bool(said["ready"]), bool(said["draining"]))


Resolve = Callable[[str], Awaitable[set[str]]]


async def resolve(service: str) -> set[str]:
    """The addresses of all pods of a Service. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(service, PORT, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


class Finder:
    """Tells `admission` of the pods, and calls `lose` with the address of one of which nothing is heard any
    more. `name` is this proxy's own, which no other has."""

    def __init__(
        self,
        admission: Admission,
        name: str,
        lose: Callable[[str], None],
        *,
        port: int = PORT,
        resolve: Resolve = resolve,
    ) -> None:
        self._admission, self._name, self._lose = admission, name, lose
        self._port, self._resolve = port, resolve
        self._client = ClientSession(timeout=ClientTimeout(total=SILENT_SECONDS))
        self._wanted: Wanted | None = None
        self._statuses: dict[str, PodStatus] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._there: set[str] = set()

    def take(self, raw: bytes) -> None:
        """The file that says what is to be has changed."""
        self._wanted = parse_wanted(raw)
        self._tell()

    async def watch(self) -> None:
        """Looks again and again which pods there are, until it is cancelled."""
        while True:
            if self._wanted is not None:
                try:
                    self._there = await self._resolve(self._wanted.service)
                except OSError as error:  # the pods that are known go on
                    if self._there:
                        said = f"{self._wanted.service} has no addresses: {error}"
                        print(said, file=sys.stderr, flush=True)
                    self._there = set()
                for host in self._there - self._following.keys():
                    self._following[host] = asyncio.create_task(self._follow(host))
            await asyncio.sleep(LOOK_SECONDS)

    async def _follow(self, host: str) -> None:
        """Asks one pod how it is until it neither says anything nor is among those that there are."""
        loop, heard, lost = asyncio.get_running_loop(), 0.0, True
        try:
            while True:
                try:
                    status = parse_status(await self._ask(host), host)
                except (ClientError, OSError, ValueError, KeyError, TypeError):  # a time-out among them
                    if loop.time() - heard >= SILENT_SECONDS:
                        self._set(host, None)
                        if not lost and loop.time() - heard >= LOST_SECONDS:
                            lost = True
                            self._lose(host)
                        if lost and host not in self._there:
                            return
                else:
                    heard, lost = loop.time(), False
                    self._set(host, status)
                await asyncio.sleep(max(ASK_SECONDS, len(self._following) / ASKS_A_SECOND))
        finally:
            self._set(host, None)
            self._following.pop(host, None)
            self._admission.forget(host)

    async def _ask(self, host: str) -> bytes:
        pods, known = self._admission.pods, self._statuses.get(host)
        assert pods is not None
        said = {
            "proxy": self._name,
            "running": str(pods.running[host]),
            # not before it is out of the choice: from then on nothing more is sent there
            "draining": "1" if known is not None and known.draining else "0",
            "silent": f"{self._admission.silent_of(host):.1f}",
        }
        address = f"[{host}]" if ":" in host else host
        async with self._client.get(f"http://{address}:{self._port}{PATH}", params=said) as answer:
            answer.raise_for_status()
            return await answer.read()

    def _set(self, host: str, status: PodStatus | None) -> None:
        if self._statuses.get(host) == status:
            return
        if status is None:
            del self._statuses[host]
        else:
            self._statuses[host] = status
        self._tell()

    def _tell(self) -> None:
        if self._wanted is None:
            return
        ready = (
            status.pod for _, status in sorted(self._statuses.items()) if status.ready and not status.draining
        )
        self._admission.change_fleet(
            Fleet(pods=tuple(ready), preferred=self._wanted.preferred, flip=self._wanted.flip)
        )

    async def close(self) -> None:
        """Asks nobody any more."""
        for task in list(self._following.values()):
            task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        await self._client.close()
