"""The requests of the access log, as `proxy.traffic` writes them. Pure."""

import gzip
import json
from collections.abc import Sequence
from typing import Any

from proxy.traffic import FIELDS
from traffic.load import LoggedRequest


def request(line: Sequence[Any]) -> LoggedRequest:
    """A line of `proxy.traffic`."""
    said = dict(zip(FIELDS, line, strict=True))
    return LoggedRequest(
        ended=said["ended"],
        total=said["total_ms"] / 1000,
        held=said["held_ms"] / 1000,
        engine=said["engine"],
        tenant=said["tenant"],
        failed=(said["status"] or 0) >= 500,
        cut=said["cut"],
        hung_up=said["hung_up"],
        first=None if said["first_ms"] is None else said["first_ms"] / 1000,
        prompt=said["prompt_tokens"],
        completion=said["completion_tokens"],
        stream=said["stream"],
    )


def requests(raw: bytes) -> tuple[list[LoggedRequest], float | None]:
    """All that it wrote: the requests, and since when there is a log, in seconds since the epoch; None:
    there is none yet. Raises ValueError or OSError for what it did not write."""
    try:
        *lines, end = (json.loads(line) for line in gzip.decompress(raw).splitlines())
        return [request(line) for line in lines], end["since"]
    except (EOFError, TypeError, KeyError) as error:  # it was ended in the middle
        raise ValueError(f"it is no log: {error}") from None
