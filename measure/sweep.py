"""Asks an engine with a growing number of users, in whichever way the caller gives."""

import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from measure.levels import LEVELS, row
from measure.meter import Meter

FEW, MORE = 2, 6
"""Pieces of the two prompts by which it is measured what a piece costs."""

AskPlan = Callable[[Mapping[str, Any]], Any]
"""Does what the function of `measure.client` does that a plan names as `do`."""


def new_runs() -> Iterator[int]:
    """Numbers of runs, others each time: an engine may still have the prompts of an earlier sweep in its
    cache."""
    return itertools.count(random.randrange(10**6))


class Metering(Protocol):
    """A context manager around what is measured; `found` is afterwards what `measure.meter.summary` says."""

    found: dict[str, float]

    def __enter__(self) -> object: ...

    def __exit__(self, *raised: Any) -> None: ...


@dataclass
class Sweep:
    """What is asked for at every level: `tokens` of an answer, a prompt of about `prompt` tokens, and `each`
    answers for each user, but `least` of a level and none that begins later than after `seconds`.
    """

    ask: AskPlan
    model: str
    levels: Sequence[int] = LEVELS
    tokens: int = 64
    prompt: int = 128
    each: int = 2
    least: int = 8
    seconds: float = 60
    key: str = ""
    patience: float | None = None
    """Seconds after which an answer that is not whole is given up; None: it is waited for."""
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    keep: Callable[[Mapping[str, Any]], None] = lambda level: None
    """Is given each level as soon as it is there."""
    meter: Callable[[], Metering] = Meter
    pieces: int = 0
    """Of a prompt. Measured once, so that every engine gets the same text."""
    empty: float = 0
    """Tokens of a prompt without pieces, and of a piece; measured once."""
    piece: float = 1
    runs: Iterator[int] = field(default_factory=new_runs)

    def _level(self, url: str, users: int, **more: Any) -> list[dict[str, Any]]:
        plan = {
            "do": "level",
            "url": url,
            "model": self.model,
            "n": users,
            "each": max(self.each, -(-self.least // users)),
            "tokens": self.tokens,
            "pieces": self.pieces,
            "seconds": self.seconds,
            "run": next(self.runs),
            "key": self.key,
            "patience": self.patience,
            **more,
        }
        return list(self.ask(plan)["asked"])

    def measure(self, url: str) -> None:
        """Finds how many pieces make a prompt. Raises SystemExit where nothing good comes of asking."""
        counts = []
        for pieces in (FEW, MORE):
            (asked,) = self._level(url, 1, each=1, tokens=1, pieces=pieces)
            if asked["problem"] and not asked["prompt"]:
                raise SystemExit(
                    f"{url} gives no answer by which prompts could be measured: {asked['problem']}"
                )
            counts.append(asked["prompt"])
        for_each = (counts[1] - counts[0]) / (MORE - FEW)
        if for_each <= 0:
            raise SystemExit(
                f"{url} does not count the tokens of prompts: a short one had {counts[0]}, a longer one "
                f"{counts[1]}"
            )
        self.empty, self.piece = counts[0] - FEW * for_each, for_each
        self.pieces = self.pieces_of(self.prompt)

    def pieces_of(self, tokens: float, whole: Callable[[float], int] = round) -> int:
        """How many pieces make a prompt of about so many tokens."""
        return max(1, whole((tokens - self.empty) / self.piece))

    def engine(
        self,
        engine: str,
        ways: Mapping[str, str],
        enough: Callable[[Sequence[Mapping[str, Any]]], bool] = lambda levels: False,
        **about: Any,
    ) -> list[dict[str, Any]]:
        """The levels of one engine, which serves now, by each of `ways` (name → address), by turns; no more
        once those that were measured are `enough`."""
        if not self.pieces:
            self.measure(next(iter(ways.values())))
        for url in ways.values():  # nothing is warm yet
            self._level(url, self.levels[0], each=1)
        found = []
        for users in self.levels:
            for way, url in ways.items():
                meter = self.meter()
                with meter:
                    asked = self._level(url, users)
                level = {"engine": engine, "way": way, **about, **row(asked, users), "gpu": meter.found}
                self.say(", ".join(filter(None, (engine, way, words(level)))))
                self.keep(level)
                found.append(level)
            if enough(found):
                break
        return found

    def again(self, url: str, asked: Sequence[tuple[float, float, int]]) -> list[dict[str, Any]]:
        """Asks as somebody did: after how many seconds, with a prompt of how many tokens at most, for how
        many. Of each request `measure.levels.Asked`."""
        plan = {
            "do": "replay",
            "url": url,
            "model": self.model,
            "key": self.key,
            "patience": self.patience,
            "run": next(self.runs),
            # never longer than it was: together with its answer it may have filled the context
            "asked": [[after, self.pieces_of(prompt, math.floor), tokens] for after, prompt, tokens in asked],
        }
        return list(self.ask(plan)["asked"])


def words(level: Mapping[str, Any]) -> str:
    """A level in one line."""
    bad = f", {level['bad']} bad: {json.dumps(level['problems'])}" if level["bad"] else ""
    if level["rate"] is None:
        return f"{level['users']} users: no good answer{bad}"
    return (
        f"{level['users']} users: {level['rate']:.1f} tokens/s, first token after {level['first_p50']:.3f} s "
        f"(p95 {level['first_p95']:.3f} s){bad}"
    )
