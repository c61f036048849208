"""The file by which the switch tells all proxies whether requests wait, and else where they go."""

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from switch.machine.route import Route
from switch.machine.state import State
from switch.machine.views import route
from switch.plan import load

FILE = "route.json"
ROOM = 16 * 1024
"""Bytes that are kept for the next route, at least; one takes one or two thousand."""


class RouteFile:
    """`folder`/route.json. Not safe for several threads. `clock` gives seconds since the epoch.

    The room for the next one is taken while there is some, and given back for nothing else: a disk that has
    filled up in the meantime must not be what keeps requests waiting.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.file, self._next, self._clock = folder / FILE, folder / "route.next", clock
        self._there = self._read()
        self._laid_out: Route | None = None

    def number(self, state: State) -> int | None:
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

    def lay_out(self, state: State) -> None:
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

    def _wanted(self, state: State) -> Route:
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
