"""The switch's files, as they are now."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

LOOK_SECONDS = 0.02
UNREAD = (0, 0)


class LiveFiles:
    """The files of a folder, each with what takes its bytes whenever it has changed."""

    def __init__(self, folder: Path, takers: Mapping[str, Callable[[bytes], None]]) -> None:
        self._folder, self._takers = folder, takers
        self._seen: dict[str, tuple[int, int]] = {}

    def look(self) -> None:
        """Takes what has changed. What can't be used changes nothing."""
        for name, take in self._takers.items():
            file = self._folder / name
            try:
                at = file.stat()
                mark = (at.st_ino, at.st_mtime_ns)
                if self._seen.get(name) == mark:
                    continue
                raw = file.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:  # too many files are open, say: it is tried again, and said once
                if self._seen.get(name) != UNREAD:
                    print(f"{name} can't be read: {error!r}", file=sys.stderr, flush=True)
                self._seen[name] = UNREAD
                continue
            self._seen[name] = mark
            try:
                take(raw)
            except Exception as error:  # whatever it is: who stops looking never ends a hold
                print(f"{name} can't be used: {error!r}", file=sys.stderr, flush=True)

    async def watch(self) -> None:
        """Looks at the files again and again, without end."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()
