"""What the switch tells the proxies: whether requests wait, and else where they go. One file, read by all."""

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from switch.plan import load

if TYPE_CHECKING:
    from switch.machine import State

FILE = "route.json"
ROOM = 16 * 1024
"""Bytes that are kept for the next route, at least; one takes one or two thousand."""


@dataclass(frozen=True)
class Route:
    """Where the proxies are to go. `number` grows by one with every other change of it."""

    number: int
    held_since: float | None
    """Seconds since the epoch; while it is there, requests wait."""
    engine: str | None
    """The name of the only engine that may be asked for clients."""
    container: str | None
    gateway: str | None
    """The gateway's container; None: the proxies ask the engine themselves."""
    also: list[str]
    """Former names of the model, which are still answered."""
    routing: str
    """TOML."""
    given_up: list[str] = field(default_factory=list)
    """Engines by name, and gateways by container, from which nothing comes any more: what is there ends."""
    release: int = 0
    """How often what serves had changed by then; 0 in one of a version that did not count it."""


def given_up(state: "State") -> list[str]:
    """Names of engines, and containers of gateways, in whose present run nothing can end any more. Pure."""
    active, change = state.active, state.transaction
    known = (active and active.plan, change and change.plan, change and change.old_plan)
    plans = [plan for plan in known if plan]
    hang = {container for container, ending in state.terminating.items() if ending.hangs}
    names = {plan.engine.name for plan in plans if plan.engine.container in hang}
    names |= {plan.gateway_container for plan in plans} & hang
    if active and not active.gated_at:
        names.add(active.plan.engine.name)
    return sorted(names)


def route(state: "State", number: int, first: float) -> Route:
    """The route that a state means. Pure.

    Requests wait from `first` on where it names nothing that proxies could ask: nothing was committed yet,
    or only what a version without proxies made. After a damage that left nothing else known, they go on with
    what they were told, until a change begins.
    """
    active, change, damage = state.active, state.transaction, state.damage
    begun = change is not None and change.phase not in ("checking", "failed")
    if active is None and damage and damage.route and not begun:
        return dataclasses.replace(damage.route, number=number)
    if active is None or not active.plan.routing:
        return Route(number, first, None, None, None, [], "", release=state.releases)
    engine, also = active.plan.engine, sorted(state.also)
    gateway = active.plan.gateway_container or None
    name, where, lost = engine.name, engine.container, given_up(state)
    return Route(number, state.held, name, where, gateway, also, active.plan.routing, lost, state.releases)


class RouteFile:
    """`folder`/route.json. Not safe for several threads. `clock` gives seconds since the epoch.

    The room for the next one is taken while there is some, and given back for nothing else: a disk that has
    filled up in the meantime must not be what keeps requests waiting.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.file, self._next, self._clock = folder / FILE, folder / "route.next", clock
        self._there = self._read()
        self._laid_out: Route | None = None

    def number(self, state: "State") -> int | None:
        """The number of the route in the file, if that is what the state means; otherwise None."""
        return self._there.number if self._there and self._there == self._wanted(state) else None

    @property
    def there(self) -> Route | None:
        """What the file says; None where there is none that is readable."""
        return self._there

    @property
    def held_since(self) -> float | None:
        """Since when requests wait, as the file says it."""
        return self._there.held_since if self._there else None

    def lay_out(self, state: "State") -> None:
        """Writes the route that a state means to a second file, for `publish`. Raises OSError where the disk
        is full."""
        wanted = self._wanted(state)
        if wanted == self._there:
            self._laid_out = None
            return
        raw = json.dumps(dataclasses.asdict(wanted), indent=1).encode() + b"\n"
        if not self._next.exists() or self._next.stat().st_size < len(raw):
            self._take_room(max(ROOM, 2 * len(raw)))
        with self._next.open("r+b") as out:
            out.write(raw.ljust(self._next.stat().st_size))  # blanks at the end are JSON as well
            out.flush()
            os.fsync(out.fileno())
        self._laid_out = wanted

    def publish(self) -> None:
        """Puts what was laid out in the place of the file. That takes no room on the disk. Raises OSError."""
        if self._laid_out is None:
            return
        self._next.replace(self.file)
        self._there, self._laid_out = self._laid_out, None
        with suppress(OSError):
            self._take_room(ROOM)

    def _wanted(self, state: "State") -> Route:
        there = self._there
        since = self._clock() if self.held_since is None else self.held_since
        number = there.number if there else 0
        same = route(state, number, since)
        return same if same == there else dataclasses.replace(same, number=number + 1)

    def _read(self) -> Route | None:
        try:
            there: Route = load(Route, json.loads(self.file.read_text()), str(self.file), strict=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            print(f"{self.file} is not readable ({error}); it is written anew", flush=True)
            return None
        return there

    def _take_room(self, size: int) -> None:
        try:
            with self._next.open("wb") as out:
                os.fchmod(out.fileno(), 0o644)  # the proxies are another user
                out.write(b" " * size)
                out.flush()
                os.fsync(out.fileno())
        except OSError:
            self._next.unlink(missing_ok=True)
            raise
