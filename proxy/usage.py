"""`python3 -m proxy.usage`: what each tenant has used a day, of the access log, as one object of JSON.

It reads the files that this proxy and those before it have left in the volume, each line once.
"""

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from proxy.protocols import COUNT_TOKENS
from proxy.route import NOBODY

FOLDER = Path("/log")
LOG_FILES = 5
"""How many older files a proxy keeps, beside the one that it writes."""
KEPT_FILES = 12
"""Of all proxies that have written into the volume, the newest, when one starts."""
COUNTS = ("requests", "failed", "hung_up", "prompt_tokens", "completion_tokens", "events", "unknown")
"""Of a tenant's day. `completion_tokens` are those that engines reported; `events` are those seen of answers
that were broken off; `unknown` are answers of which no token is known, where there are any."""


def lines(folder: Path) -> Iterator[str]:
    """Of all files, the oldest first. A proxy gives its files other names when the newest is full: so all of
    them are opened before one is read, until there is none that is not open."""
    with contextlib.ExitStack() as until_read:
        files: dict[int, TextIO] = {}
        known = -1
        while known < len(files):
            known = len(files)
            for file in folder.glob("access-*"):
                with contextlib.suppress(FileNotFoundError):
                    text = until_read.enter_context(file.open(encoding="utf-8", errors="replace"))
                    files.setdefault(os.fstat(text.fileno()).st_ino, text)
        for each in sorted(files.values(), key=lambda each: os.fstat(each.fileno()).st_mtime):
            yield from each


def whole_since(folder: Path) -> float:
    """From when on no line is missing that was once written, in seconds since the epoch; 0: nothing ever was.

    A proxy that has all of its files drops its oldest, and one that starts drops the oldest of all. What
    others have kept from before that does not make up for it.
    """
    times = sorted(each.stat().st_mtime for each in folder.glob("access-*"))
    whole = times[0] if len(times) >= KEPT_FILES else 0.0
    for file in folder.glob(f"access-*.log.{LOG_FILES}"):
        with contextlib.suppress(FileNotFoundError), file.open(encoding="utf-8", errors="replace") as text:
            whole = max(whole, next(filter(None, map(_ended, text)), 0.0))
    return whole


def _ended(line: str) -> float:
    """When a line's request ended, in seconds since the epoch; 0 where it can't be read."""
    try:
        return datetime.datetime.fromisoformat(json.loads(line)["time"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return 0.0


def summed(log: Iterable[str], whole: float = 0) -> dict[str, Any]:
    """`days`: day (UTC) → tenant → count by name. `since` is from when on no request is missing: the first
    one's time, which is not before `whole` (seconds since the epoch). `unreadable` says how many lines are
    none: a kill may cut one short."""
    days: dict[str, dict[str, dict[str, int]]] = {}
    since, unreadable = "", 0
    for line in log:
        try:
            said = json.loads(line)
            at, tenant = str(said["time"]), str(said["tenant"])
            counts = days.setdefault(at[:10], {}).setdefault(tenant, dict.fromkeys(COUNTS, 0))
            _count(counts, said)
        except (ValueError, KeyError, TypeError):
            unreadable += 1
            continue
        since = min(since or at, at)
    begins = datetime.datetime.fromtimestamp(whole, datetime.UTC).isoformat(timespec="milliseconds")
    return {"since": since and max(since, begins), "unreadable": unreadable, "days": days}


def _count(counts: dict[str, int], said: dict[str, Any]) -> None:
    status, tokens = said["status"], said["completion_tokens"]
    counts["requests"] += 1
    counts["failed"] += status is not None and status >= 400
    counts["hung_up"] += bool(said["hung_up"])
    counts["prompt_tokens"] += said["prompt_tokens"] or 0
    if said["tokens"] == "events":
        counts["events"] += tokens
    elif tokens is not None:
        counts["completion_tokens"] += tokens
    elif status == 200 and said["engine"] != NOBODY and said["endpoint"] != COUNT_TOKENS:
        counts["unknown"] += said["prompt_tokens"] is None  # an embedding has no others


if __name__ == "__main__":
    json.dump(summed(lines(FOLDER), whole_since(FOLDER)), sys.stdout)
