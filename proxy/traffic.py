"""`python3 -m proxy.traffic SINCE`: the access log's requests since then, short, to be added up elsewhere.

It writes lines of JSON, as gzip, one after another as it reads them: it runs beside the proxy, in the memory
that this has. SINCE is in seconds since the epoch. What a request said is in no log, and so not here.
"""

import datetime
import gzip
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from proxy.usage import FOLDER, lines, whole_since

FIELDS = (
    *("ended", "total_ms", "held_ms", "first_ms", "status", "engine", "tenant"),
    *("prompt_tokens", "completion_tokens", "stream", "hung_up", "cut"),
)
"""Of a request's line, in this order; `ended` is in seconds since the epoch, the others are as in the log."""
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


def main(folder: Path, since: float) -> None:
    os.nice(POLITE)
    with gzip.open(sys.stdout.buffer, "wt", compresslevel=3, encoding="utf-8") as out:
        for each in short(lines(folder), since, whole_since(folder)):
            out.write(json.dumps(each, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(FOLDER, float(sys.argv[1]))
