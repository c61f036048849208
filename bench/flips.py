"""What is told of flips: one record each, and the table over many of them. Pure."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from tests.support.load import Outcome, bad

Record = dict[str, Any]

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
) -> Record:
    """One flip as plain data. `began` and `ended` are its own, on the clock of `outcomes`; seconds.
    Whole answers in `texts` say what the streamed ones must be.

    `requests` holds [begin, end, streamed, problem, aborted] of each, counted from the flip's begin; `gap` is
    the longest time between two answers while it lasted.
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


def inside(flip: Record) -> list[list[Any]]:
    """The requests that were under way at some moment of the flip."""
    return [each for each in flip["requests"] if each[1] > 0 and each[0] < flip["length"]]


def answered(request: list[Any]) -> bool:
    """Whether it has its whole answer: neither was anything lost nor did its client hang up."""
    return not (request[3] or request[4])


def summary(way: str, flips: Sequence[Record]) -> list[object]:
    """The table's row of these flips. Lost at most is 3/N: what N requests that nobody has aborted, and of
    which none was lost, allow at 95 %."""
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


def _median(flips: Sequence[Record], key: str) -> float | str:
    values = [flip[key] for flip in flips if flip.get(key) is not None]
    return statistics.median(values) if values else "-"


def _percentiles(values: Sequence[float]) -> tuple[str, str]:
    """p50 and p99 in seconds."""
    if len(values) < 2:
        return "-", "-"
    cuts = statistics.quantiles(values, n=100)
    return f"{cuts[49]:.2f}", f"{cuts[98]:.2f}"
