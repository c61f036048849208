"""How a growing number of users is asked as, by whatever asks, and the picture of it."""

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import client
from bench.levels import LEVELS, row
from bench.meter import Meter
from bench.picture import curves

FEW, MORE = 2, 6
"""Pieces of the two prompts by which it is measured what a piece costs."""

Ask = Callable[[Mapping[str, Any]], Any]
"""Does what `bench.client.level` does."""


def here(plan: Mapping[str, Any]) -> Any:
    """Asks from this process."""
    return asyncio.run(client.level(plan))


@dataclass
class Sweep:
    """What is asked for at every level: `tokens` of an answer, a prompt of about `prompt` tokens, and `each`
    answers for each user, but `least` of a level and none that begins later than after `seconds`.
    """

    ask: Ask
    model: str
    levels: Sequence[int] = LEVELS
    tokens: int = 64
    prompt: int = 128
    each: int = 2
    least: int = 8
    seconds: float = 60
    key: str = ""
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    keep: Callable[[Mapping[str, Any]], None] = lambda level: None
    """Is given each level as soon as it is there."""
    pieces: int = 0
    """Of a prompt. Measured once, so that every engine gets the same text."""
    runs: Iterator[int] = field(default_factory=itertools.count)

    def _level(self, url: str, users: int, **more: Any) -> list[dict[str, Any]]:
        plan = {
            "url": url,
            "model": self.model,
            "n": users,
            "each": max(self.each, -(-self.least // users)),
            "tokens": self.tokens,
            "pieces": self.pieces,
            "seconds": self.seconds,
            "run": next(self.runs),
            "key": self.key,
            **more,
        }
        return list(self.ask(plan)["asked"])

    def measure(self, url: str) -> None:
        """Finds how many pieces make a prompt. Raises SystemExit where nothing good comes of asking."""
        counts = []
        for pieces in (FEW, MORE):
            (asked,) = self._level(url, 1, each=1, tokens=1, pieces=pieces)
            if asked["problem"] and not asked["prompt"]:
                raise SystemExit(f"{url} gives no answer to measure a prompt by: {asked['problem']}")
            counts.append(asked["prompt"])
        for_each = (counts[1] - counts[0]) / (MORE - FEW)
        if for_each <= 0:
            raise SystemExit(f"{url} does not count its prompts: {counts[0]} tokens, and {counts[1]}")
        self.pieces = max(1, FEW + round((self.prompt - counts[0]) / for_each))

    def engine(self, engine: str, ways: Mapping[str, str], **about: Any) -> list[dict[str, Any]]:
        """The levels of one engine, which serves now, by each of `ways` (name → address), by turns."""
        if not self.pieces:
            self.measure(next(iter(ways.values())))
        for url in ways.values():  # nothing is warm yet
            self._level(url, self.levels[0], each=1)
        found = []
        for users in self.levels:
            for way, url in ways.items():
                with Meter() as meter:
                    asked = self._level(url, users)
                level = {"engine": engine, "way": way, **about, **row(asked, users), "gpu": meter.found}
                self.say(f"{engine}, {way}, {words(level)}")
                self.keep(level)
                found.append(level)
        return found


def words(level: Mapping[str, Any]) -> str:
    """A level in one line."""
    bad = f", {level['bad']} bad: {json.dumps(level['problems'])}" if level["bad"] else ""
    if level["rate"] is None:
        return f"{level['users']} users: no good answer{bad}"
    return (
        f"{level['users']} users: {level['rate']:.1f} tokens/s, first token after {level['first_p50']:.3f} s "
        f"(p95 {level['first_p95']:.3f} s){bad}"
    )


def picture(levels: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Tokens a second and the wait for the first token over users, a line for each engine and way."""
    titles = {
        "rate": "tokens a second, of all users together, over users at once",
        "first_p95": "seconds until the first token (p95), over users at once",
    }
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {title: {} for title in titles.values()}
    for level in levels:
        for key, title in titles.items():
            if level[key] is not None:
                line = panels[title].setdefault(f"{level['engine']}, {level['way']}", [])
                line.append((level["users"], level[key]))
    curves(panels, file)
