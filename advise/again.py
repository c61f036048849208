"""An excerpt of the real traffic, to be replayed: lengths and times, and nothing of what was said."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from traffic.load import LoggedRequest


@dataclass(frozen=True)
class Excerpt:
    """`asked`: of each request after how many seconds it came, and the tokens of its prompt and its answer.
    Times in seconds since the epoch."""

    begins: float
    ends: float
    asked: tuple[tuple[float, int, int], ...]


def busiest(requests: Sequence[LoggedRequest], seconds: float, most_tokens: int) -> Excerpt | None:
    """The `seconds` in which the most tokens were asked for, of those whose tokens are known; None where
    there is none. What had more than `most_tokens` in all keeps its answer and has a shorter prompt."""
    known = sorted(
        (each.began, each.prompt, each.completion)
        for each in requests
        if each.prompt is not None and each.completion and not each.failed
    )
    if not known:
        return None
    times = [began for began, *_ in known]
    sums = [0]
    for _, prompt, completion in known:
        sums.append(sums[-1] + prompt + completion)
    ends = [bisect.bisect_left(times, began + seconds) for began in times]
    first = max(range(len(known)), key=lambda at: (sums[ends[at]] - sums[at], -at))
    begins = times[first]
    asked = []
    for began, prompt, completion in known[first : ends[first]]:
        answer = min(completion, most_tokens - 1)
        asked.append((began - begins, max(1, min(prompt, most_tokens - answer)), answer))
    return Excerpt(begins, begins + seconds, tuple(asked))
