"""What asks in a measurement: one function for each kind, run by name in a container beside what is measured.

`python3 -m bench.client NAME` reads what to do as one line of JSON on stdin, and writes what it has seen as
JSON to stdout. It needs aiohttp, and of the project only `measure`.
"""

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from measure.client import KIND, PATH, level, session

TURNS_BEFORE = 10
"""Requests of each size on each way that don't count: nothing is warm yet."""
FAILURES = (OSError, http.client.HTTPException)


def body(size: int, **more: Any) -> bytes:
    """A chat of exactly so many bytes, or the shortest: source code in messages of 4,000 characters."""
    source = Path(argparse.__file__).read_text()
    parts = [source[at : at + 4000] for at in range(0, len(source), 4000)]
    ask = {"model": "tiny", "max_tokens": 1, "temperature": 0, **more, "messages": []}
    first = json.dumps({"role": "user", "content": "Hi."})
    messages, length = [first], len(json.dumps(ask)) + len(first)
    for part in itertools.cycle(parts):
        said = json.dumps({"role": ("user", "assistant")[len(messages) % 2], "content": part})
        if length + len(said) + 2 > size:
            break
        messages.append(said)
        length += len(said) + 2
    raw = json.dumps(ask).removesuffix("]}") + ", ".join(messages) + "]}"
    return raw.ljust(size).encode()


def _answered(way: http.client.HTTPConnection, raw: bytes) -> bool:
    """Asks over a connection that stays open, and whether a good answer came."""
    try:
        way.request("POST", PATH, raw, KIND)
        answer = way.getresponse()
        return bool(answer.read()) and answer.status == 200
    except FAILURES:
        way.close()
        return False


def turns(plan: Any) -> Any:
    """Asks `ways` (name → host and port) by turns, over connections that stay open, `n` times each, with
    `bytes` of body. Gives `seen`, [began, seconds] of each answer by way on the clock of `time.monotonic`,
    and how many were `lost`."""
    raw, seen, lost = body(plan["bytes"]), {name: list[list[float]]() for name in plan["ways"]}, 0
    open_ = {name: http.client.HTTPConnection(*place) for name, place in plan["ways"].items()}
    for turn in range(-TURNS_BEFORE, plan["n"]):
        for name, way in open_.items():
            began = time.monotonic()
            good = _answered(way, raw)
            lost += not good
            if good and turn >= 0:
                seen[name].append([began, time.monotonic() - began])
    return {"seen": seen, "lost": lost}


def small(plan: Any) -> Any:
    """Asks for something small again and again at `place`, `pause` seconds in between, until stdin ends."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    raw, seen, lost = body(0), list[list[float]](), 0
    way = http.client.HTTPConnection(*plan["place"])
    while not ended.is_set():
        began = time.monotonic()
        good = _answered(way, raw)
        lost += not good
        if good:
            seen.append([began, time.monotonic() - began])
        time.sleep(plan["pause"])
    return {"seen": seen, "lost": lost}


async def streams(plan: Any) -> Any:
    """`n` streams at once from `place`, each of which must have `events`, numbered from 0 on without a gap.
    Gives the seconds that each event was on its way, and how many streams were `lost`."""
    raw = body(0, stream=True)
    url = f"http://{plan['place'][0]}:{plan['place'][1]}{PATH}"
    said = re.compile(rb'"n": ?(\d+), ?"sent": ?([\d.]+)')

    async def one(number: int) -> list[float] | None:
        await asyncio.sleep(number * plan["apart"])
        late, rest, ended = list[float](), b"", False
        try:
            async with client.post(url, data=raw, headers=KIND) as answer:
                async for chunk in answer.content.iter_any():
                    now = time.time()
                    *events, rest = (rest + chunk).split(b"\n\n")
                    for event in events:
                        if found := said.search(event):
                            if int(found.group(1)) != len(late):
                                return None
                            late.append(now - float(found.group(2)))
                        ended = ended or event == b"data: [DONE]"
        except aiohttp.ClientError:
            return None
        return late if ended and not rest and len(late) == plan["events"] else None

    async with session() as client:
        every = await asyncio.gather(*(one(number) for number in range(plan["n"])))
    whole = [late for late in every if late is not None]
    return {"late": [each for late in whole for each in late], "lost": len(every) - len(whole)}


async def crowd(plan: Any) -> Any:
    """`n` requests of `bytes` at once to `place`. Gives when each was `answered`, in seconds since the epoch,
    and how many were `lost`."""
    raw = body(plan["bytes"])
    url = f"http://{plan['place'][0]}:{plan['place'][1]}{PATH}"

    async def one(number: int) -> float | None:
        await asyncio.sleep(number * plan["apart"])
        with contextlib.suppress(aiohttp.ClientError):
            async with client.post(url, data=raw, headers=KIND) as answer:
                if await answer.read() and answer.status == 200:
                    return time.time()
        return None

    async with session() as client:
        every = await asyncio.gather(*(one(number) for number in range(plan["n"])))
    answered = [each for each in every if each is not None]
    return {"answered": answered, "lost": len(every) - len(answered)}


async def users(plan: Any) -> Any:
    """`n` users at `place` who each ask `each` times, one time after another, for `tokens` tokens. Gives the
    `seconds` that all of it took, and how many answers were `lost` or had another length."""
    raw = body(0, max_tokens=plan["tokens"])
    url = f"http://{plan['place'][0]}:{plan['place'][1]}{PATH}"

    async def one() -> int:
        good = 0
        for _ in range(plan["each"]):
            with contextlib.suppress(aiohttp.ClientError, ValueError, KeyError, TypeError):
                async with client.post(url, data=raw, headers=KIND) as answer:
                    said = await answer.json(content_type=None)
                    good += said["usage"]["completion_tokens"] == plan["tokens"]
        return good

    async with session() as client:
        began = time.monotonic()
        good = sum(await asyncio.gather(*(one() for _ in range(plan["n"]))))
        seconds = time.monotonic() - began
    return {"seconds": seconds, "lost": plan["n"] * plan["each"] - good}


AT_ONCE: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "streams": streams,
    "crowd": crowd,
    "users": users,
    "level": level,
}
ONE_BY_ONE: dict[str, Callable[[Any], Any]] = {"turns": turns, "small": small}


def main() -> None:
    name, plan = sys.argv[1], json.loads(sys.stdin.readline())
    done = asyncio.run(AT_ONCE[name](plan)) if name in AT_ONCE else ONE_BY_ONE[name](plan)
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main()
