"""A day of traffic at full load, in which nothing may be taken for a hang; and then a hang, which must be.

Run: `python -m bench.day`. It starts a switch, a proxy, an edge, a plain gateway and a test engine on this
machine's Docker engine.

The day is shortened: the test engine works `--times` as fast as a busy T4 with a 7B model is assumed to, and
the switch's patience and the proxy's limits are as many times shorter. Only the smallest question keeps a
time-out of a second, the shortest there is. While the engine reads a prompt, it gives nobody a token, which
is worse than what either real engine does. The table is in seconds of the day, not of the clock.
"""

import argparse
import asyncio
import itertools
import json
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.stack import machine, table
from common import main_guard, say
from components.plan import REQUEST_SECONDS
from measure.client import PIECE, ask, session
from switch.plan import FIRST_TOKEN_SECONDS, Seconds
from switch.pulse import TRIES
from tests.support.switch_stack import (
    NETWORK,
    PREFIX,
    STATUS_OF_SWITCH,
    Stack,
    build_gateway,
    docker,
    wait,
)

HOURS = (4, 1, 0, 0, 0, 1, 4, 16, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 32, 16, 8)
"""Users at once in each hour of the day, who ask without a pause."""
SLOTS = 48
"""Requests that the engine works on at one time."""
READS, EVERY = 800, 1.0
"""Tokens of a prompt that it reads a second, and seconds between two events of an answer."""
ANSWER = 25
"""Events of an answer."""
PROMPTS = (*(9 * (1000,)), 7500)
"""Tokens of the prompts, in turn."""
HOUR = 3600
ENGINE = "vllm-2"


@dataclass
class SeenHour:
    """What was seen of one hour of the day."""

    users: int
    answers: list[dict[str, Any]] = field(default_factory=list)
    silence: float = 0
    """The longest that no byte came from the engine, in seconds of the day."""
    said: set[str] = field(default_factory=set)
    """What the switch's status said of a silence."""


class ShortenedDay:
    """The stack, whose engine works `times` as fast as a real one."""

    def __init__(self, times: int) -> None:
        self.times = times
        build_gateway()
        limits = {
            "at_a_time": SLOTS + 2,
            "first_token_seconds": FIRST_TOKEN_SECONDS / times,
            "answer_seconds": REQUEST_SECONDS / times,
            "hold_seconds": HOUR / times,
        }
        self.stack = Stack(edge=True, limits=limits)
        options = {"FAST_READS": 1 / READS / times, "FAST_SLOTS": SLOTS}
        self.stack.make_engine(
            ENGINE,
            tokens=EVERY / times,
            options=tuple(word for name, value in options.items() for word in ("-e", f"{name}={value}")),
        )
        self.tokens = Seconds.tokens / times
        code, text = self.stack.flip(
            ENGINE,
            "gateway-2",
            seconds={"answers": max(Seconds.answers / times, TRIES), "tokens": self.tokens},
        )
        assert code == 0, text
        self.began = self.stack.started(ENGINE)
        self.plan = {"url": f"http://{address('edge')}:8080", "model": "tiny"}
        self.proxy = f"http://{address('proxy-1')}:8001/status"
        self.count = itertools.count()

    async def hour(self, users: int) -> SeenHour:
        """One hour of the day, and what its last requests still take."""
        hour, until = SeenHour(users), time.monotonic() + HOUR / self.times

        async def user() -> None:
            while time.monotonic() < until:
                number = next(self.count)
                pieces = PROMPTS[number % len(PROMPTS)] // len(PIECE.split())
                hour.answers.append(await ask(client, self.plan, number, pieces, ANSWER))

        async with session() as client:
            asking = [asyncio.create_task(user()) for _ in range(users)]
            while time.monotonic() < until or not all(task.done() for task in asking):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(self.look, hour)
            await asyncio.gather(*asking)
        return hour

    def look(self, hour: SeenHour) -> None:
        """Takes in what proxy and switch say now."""
        with urllib.request.urlopen(self.proxy, timeout=30) as answer:
            silent = json.load(answer)["silent"].get(ENGINE, 0.0)
        hour.silence = max(hour.silence, silent * self.times)
        hour.said |= set(STATUS_OF_SWITCH.ask()["silent"].values())

    def is_taken_for_hung(self) -> bool:
        """Whether the switch has restarted the engine."""
        return self.stack.started(ENGINE) != self.began

    async def hang(self) -> float:
        """Stops the engine's completions while users ask. Returns after how many seconds of the day it was
        restarted."""
        began = time.monotonic()
        docker("exec", f"{PREFIX}-{ENGINE}", "touch", "/tmp/frozen")
        async with session() as client:
            asking = [asyncio.create_task(ask(client, self.plan, n, 1, ANSWER)) for n in range(8)]
            await asyncio.to_thread(wait, self.is_taken_for_hung, 10 * self.tokens, "the hang was not seen")
            after = (time.monotonic() - began) * self.times
            await asyncio.gather(*asking)
        return after


def address(name: str) -> str:
    """Of a container of the stack, by its name without the prefix."""
    return docker(
        "inspect",
        "-f",
        f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}',
        f"{PREFIX}-{name}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--times",
        type=int,
        default=48,
        help="how many times faster the day goes by (default: 48, half an hour)",
    )
    parser.add_argument("--json", type=Path, help="a file for all of the answers")
    options = parser.parse_args()
    rows, every, bad, hung = list[list[object]](), list[dict[str, Any]](), 0, 0
    try:
        day = ShortenedDay(options.times)
        for number, users in enumerate(HOURS):
            hour = asyncio.run(day.hour(users))
            every += hour.answers
            problems = [each["problem"] for each in hour.answers if each["problem"]]
            firsts = sorted(
                (each["first"] - each["began"]) * options.times for each in hour.answers if each["first"]
            )
            hung += day.is_taken_for_hung()
            bad += len(problems)
            slowest = firsts[-1] if firsts else "-"
            rows.append(
                [number, users, len(hour.answers), len(problems), slowest, hour.silence, len(hour.said)]
            )
            say(
                f"hour {number}: {users} users, {len(hour.answers)} answers, bad: {problems[:3]}, {hour.said}"
            )
        after = asyncio.run(day.hang())
    finally:
        Stack.wipe()
    if options.json:
        options.json.write_text("".join(f"{json.dumps(each)}\n" for each in every))
    print(f"\nA day of traffic, {options.times} times as fast, {machine()}; seconds of the day\n")
    header = ("hour", "users", "answers", "bad", "slowest first token", "longest silence", "silences said")
    print(table(header, rows))
    print(f"\nTaken for a hang in {hung} of {len(HOURS)} hours.")
    print(f"Then its completions stood still, and {after:.0f} s later it was restarted.")
    raise SystemExit(bool(bad or hung))


if __name__ == "__main__":
    main_guard(main)
