"""`python3 -m proxy.traffic SINCE [URL]`: the access log's requests since then, short, to be added up
elsewhere.

It writes lines of JSON, as gzip, one after another as it reads them: it runs beside the proxy, in the memory
that this has. SINCE is in seconds since the epoch. What a request said is in no log, and so not here. The log
has only what has ended; with the proxy's URL, what has not ended yet is there too, as if it ended now.
"""

import datetime
import gzip
import json
import os
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from proxy.usage import FOLDER, lines, whole_since

FIELDS = (
    *("ended", "total_ms", "held_ms", "first_ms", "status", "engine", "tenant"),
    *("prompt_tokens", "completion_tokens", "stream", "hung_up", "cut"),
)
"""Of a request's line, in this order; `ended` is in seconds since the epoch, the others are as in the log."""
OPEN_PATH = "/open"
"""Of the proxy's inner port, where it says what has not ended."""
OPEN_SECONDS = 10
POLITE = 10
"""More of `nice` than the proxy has, which goes first."""


def short(log: Iterable[str], since: float, whole: float) -> Iterator[list[Any] | dict[str, Any]]:
    """A list of FIELDS for each request that ended at or after `since`. The last is an object: from when on
    the log is known in full (`since`, seconds since the epoch, None where it is empty), which is not before
    `whole`, and how many lines are `unreadable`."""
    first: float | None = None
    unreadable = 0
    for line in log:
        try:
            said = json.loads(line)
            ended = datetime.datetime.fromisoformat(said["time"]).timestamp()
            found = [round(ended, 3), *(said[name] for name in FIELDS[1:])]
        except (ValueError, KeyError, TypeError):
            unreadable += 1
            continue
        first = ended if first is None else min(first, ended)
        if ended >= since:
            yield found
    yield {"since": None if first is None else max(first, whole), "unreadable": unreadable}


def open_lines(url: str) -> list[str]:
    """The proxy's lines of what has not ended. Raises OSError where it does not say them."""
    with urllib.request.urlopen(f"{url}{OPEN_PATH}", timeout=OPEN_SECONDS) as answer:
        return str(answer.read().decode()).splitlines()


def main(folder: Path, since: float, url: str = "") -> None:
    os.nice(POLITE)
    now = open_lines(url) if url else []  # before the log: what ends meanwhile counts twice, and not never
    with gzip.open(sys.stdout.buffer, "wt", compresslevel=3, encoding="utf-8") as out:
        for each in short(chain(lines(folder), now), since, whole_since(folder)):
            out.write(json.dumps(each, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(FOLDER, float(sys.argv[1]), *sys.argv[2:])
