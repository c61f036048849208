"""What the proxies say of themselves, asked at their inner port."""

import contextlib
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from switch.client import BROKEN, get
from switch.plan import load
from switch.shared import PROXY_PORT, PROXY_STATUS

SECONDS = 1.0
"""For an answer. A proxy that works gives it in milliseconds; one that hangs holds up the switch so long."""


@dataclass(frozen=True)
class Status:
    """What one proxy says of itself."""

    applied: int
    """Number of the route that it goes by."""
    running: dict[str, int]
    """Requests that were let through and have not ended, by the name of their engine."""
    held: int
    """Requests that wait."""
    tenants: dict[str, int]
    """Requests that run, by tenant."""
    keys: str
    """SHA-256 of the file of keys that it goes by, in hex; empty without one."""
    draining: bool
    silent: dict[str, float] = field(default_factory=dict)
    """For how many seconds nothing has come from each engine, by name, from which something came before."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Requests that wait, by tenant."""


def statuses(containers: Iterable[str], seconds: float = SECONDS) -> dict[str, Status]:
    """What each of them says within `seconds`, all asked at once. One that says nothing right is left out."""
    said: dict[str, Status] = {}

    def ask(container: str) -> None:
        with contextlib.suppress(*BROKEN, ValueError):
            said[container] = status(container, seconds)

    # not waited for by the end of the process: to look up the name of one that is gone may take longer
    threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in containers]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(said)


def last_heard(engine: str, said: Iterable[Status]) -> float:
    """How many seconds ago something came from the engine of this name to a proxy; infinite: never."""
    return min((each.silent[engine] for each in said if engine in each.silent), default=float("inf"))


def status(container: str, seconds: float) -> Status:
    """What one of them says. Raises BROKEN, or ValueError for an answer that is none."""
    said = json.loads(get(container, PROXY_PORT, PROXY_STATUS, seconds))
    answer: Status = load(Status, said, PROXY_STATUS, strict=False)
    return answer
