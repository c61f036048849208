"""What `bench.flip` and `bench.compare` keep of a flip, and the table over many of them. Pure.

Nothing to run by itself. A `FlipRecord` is plain data, since it is kept as a line of JSON; durations are in
seconds.
"""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from tests.support.load import Outcome, bad

FlipRecord = dict[str, Any]

COLUMNS = (
    *("way", "flips", "sent", "aborted", "failed", "cut", "lost at most", "longest gap", "hold"),
    *(
        "p50 outside",
        "p99 outside",
        "p50 inside",
        "p99 inside",
        "total",
        "drain",
        "loading",
        "beyond",
        "ours",
    ),
)


def record(
    way: str,
    to: str,
    outcomes: Sequence[Outcome],
    *,
    texts: Sequence[Outcome],
    began: float,
    ended: float,
    **more: Any,
) -> FlipRecord:
    """One flip to the engine `to` as plain data; `way` is what the table calls it.

    `began` and `ended` are the flip's own, in seconds on the clock of `outcomes`. Whole answers in `texts`
    say what the streamed ones must be. `more` are further entries of the record.

    In the record, `requests` has [begin, end, streamed, problem, aborted] of each request, in seconds since
    the flip began, `length` is the flip's own, and `gap` the longest time between two answers in it.
    """
    lost = {(each.began, each.streamed): each.problem for each in bad(outcomes, texts)}
    requests: list[list[Any]] = [
        [
            round(each.began - began, 3),
            round(each.ended - began, 3),
            each.streamed,
            lost.get((each.began, each.streamed)),
            each.aborted,
        ]
        for each in sorted(outcomes, key=lambda each: each.began)
    ]
    good = sorted(each[1] for each in requests if answered(each))
    length = ended - began
    gaps = [b - a for a, b in itertools.pairwise(good) if b > 0 and a < length]
    return {
        "way": way,
        "to": to,
        "length": round(length, 3),
        "gap": max(gaps, default=0.0),
        "requests": requests,
        **more,
    }


def inside(flip: FlipRecord) -> list[list[Any]]:
    """Those `requests` of a flip's record that were under way at some moment of the flip."""
    return [each for each in flip["requests"] if each[1] > 0 and each[0] < flip["length"]]


def answered(request: list[Any]) -> bool:
    """Whether one of the `requests` of a record has its whole answer: nothing was lost, and its client did
    not hang up."""
    return not (request[3] or request[4])


def summary(way: str, flips: Sequence[FlipRecord]) -> list[object]:
    """The table's row of these flips, in the order of `COLUMNS`.

    `lost at most` is the upper bound, at 95 % confidence, of the share of requests that are lost: 3/N, where
    none of N requests was lost that their clients did not abort.
    """
    requests = [each for flip in flips for each in flip["requests"]]
    lost = [each for each in requests if each[3]]
    cut = sum(str(each[3]).startswith("cut") for each in lost)
    aborted = sum(each[4] for each in requests)
    among = [each for flip in flips for each in inside(flip)]
    good_in = [each[1] - each[0] for each in among if answered(each)]
    within = {id(each) for each in among}
    good_out = [each[1] - each[0] for each in requests if answered(each) and id(each) not in within]
    beyond = [flip["beyond"] for flip in flips if flip.get("beyond") is not None]
    return [
        way,
        len(flips),
        len(requests),
        aborted,
        len(lost) - cut,
        cut,
        "-" if lost else f"{300 / (len(requests) - aborted):.4f} %",
        max(flip["gap"] for flip in flips),
        _median(flips, "hold"),
        *_percentiles(good_out),
        *_percentiles(good_in),
        _median(flips, "length"),
        _median(flips, "drain"),
        _median(flips, "loading"),
        f"{statistics.median(beyond):.1f} (most {max(beyond):.1f})" if beyond else "-",
        _median(flips, "ours"),
    ]


def _median(flips: Sequence[FlipRecord], key: str) -> float | str:
    values = [flip[key] for flip in flips if flip.get(key) is not None]
    return statistics.median(values) if values else "-"


def _percentiles(values: Sequence[float]) -> tuple[str, str]:
    """The 50th and the 99th percentile, in seconds; `-` for fewer than two values."""
    if len(values) < 2:
        return "-", "-"
    cuts = statistics.quantiles(values, n=100)
    return f"{cuts[49]:.2f}", f"{cuts[98]:.2f}"
