"""What each of a number of users gets of an engine: one answer judged, and the row of a level. Pure.

Only the standard library: `measure.client` uses it in a container of its own.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LEVELS = (1, 2, 4, 8, 16, 20, 32, 40, 64)
"""The numbers of concurrent users with which a sweep asks."""

Asked = Mapping[str, Any]
"""One request: `began`, `first` and `last` event with text, and `ended`, in seconds of one clock; `tokens` of
its answer and `prompt`, as the engine's `usage` says; `problem`, empty where it is good."""

COLUMNS = (
    *("engine", "way", "users", "answers", "bad", "tokens/s", "for each user", "p5"),
    *("first token p50", "p95", "for each token", "tokens each", "GPU %", "W", "MiB"),
)
"""Of the table: seconds, but for milliseconds `for each token`. `p5` is of the rate for each user."""


def judged(events: Iterable[tuple[float, str]], limit: int) -> dict[str, Any]:
    """What a stream was: when its text came, its tokens, and what of it is not right.

    `events` are the data of its events with the time of each; `limit` is its `max_tokens`. Tokens are those
    of the engine's `usage`, since an event may have several, or none. A status code says nothing: an engine
    that is killed ends its stream with HTTP 200 and `[DONE]`, but without a `finish_reason`.
    """
    first, last, finish, usage, done = None, None, "", dict[str, Any](), False
    error = ""
    for at, data in events:
        if data == "[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            error = error or f"an error in the stream: {json.dumps(event['error'])[:200]}"
        usage = event.get("usage") or usage
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or {}
            if any(delta.get(key) for key in ("content", "reasoning_content", "reasoning")):
                first, last = at if first is None else first, at
            finish = choice.get("finish_reason") or finish
    tokens, prompt = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
    problem = error or _problem(finish, tokens, limit, done)
    if not problem and first is None:
        problem = "no text"
    return {"first": first, "last": last, "tokens": tokens, "prompt": prompt, "problem": problem}


def _problem(finish: str, tokens: int, limit: int, done: bool) -> str:
    if not done:
        return "cut: no [DONE]"
    if not finish:
        return "cut: no finish_reason"
    if finish not in ("length", "stop"):
        return f"finish_reason is {finish}"
    if (finish == "length" and tokens != limit) or not 1 <= tokens <= limit:
        return f"{tokens} tokens of {limit}, and finish_reason is {finish}"
    return ""


def row(asked: Sequence[Asked], users: int) -> dict[str, Any]:
    """The figures of one level; seconds, and tokens a second. None where no answer is good.

    `rate` is that of all users together, from the first request to the end of the last answer; `user` the
    median of what one answer gives, its wait for the first token included, and `user_p5` what all but one in
    twenty give at least; `token` the median of the time between two tokens, once they come.
    """
    good = [each for each in asked if not each["problem"]]
    problems = [str(each["problem"]) for each in asked if each["problem"]]
    found: dict[str, Any] = {"users": users, "answers": len(asked), "bad": len(problems)}
    found["problems"] = {each: problems.count(each) for each in sorted(set(problems))}
    if not good:
        return found | dict.fromkeys(
            ("seconds", "rate", "user", "user_p5", "first_p50", "first_p95", "token", "tokens", "prompt")
        )
    seconds = max(each["ended"] for each in asked) - min(each["began"] for each in asked)
    waits = [each["first"] - each["began"] for each in good]
    rates = [each["tokens"] / (each["ended"] - each["began"]) for each in good]
    between = [(each["last"] - each["first"]) / (each["tokens"] - 1) for each in good if each["tokens"] > 1]
    return found | {
        "seconds": seconds,
        "rate": sum(each["tokens"] for each in good) / seconds,
        "user": statistics.median(rates),
        "user_p5": percentile(rates, 5),
        "first_p50": percentile(waits, 50),
        "first_p95": percentile(waits, 95),
        "token": statistics.median(between) if between else None,
        "tokens": statistics.fmean(each["tokens"] for each in good),
        "prompt": statistics.median(each["prompt"] for each in good),
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile by nearest rank: the smallest of the values that at least so many percent of them don't
    exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def cells(level: Mapping[str, Any]) -> list[object]:
    """A level as a row of the table; what was not measured is a dash."""
    token = level["token"]
    gpu = level.get("gpu") or {}
    return [
        *(level[key] for key in ("engine", "way", "users", "answers", "bad")),
        # what an older version has measured has no `user_p5`
        *(_number(level.get(key), 1) for key in ("rate", "user", "user_p5")),
        *(_number(level[key], 3) for key in ("first_p50", "first_p95")),
        _number(None if token is None else token * 1000, 1),
        _number(level["tokens"], 1),
        *(_number(gpu.get(key), 0) for key in ("busy", "power", "memory")),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
