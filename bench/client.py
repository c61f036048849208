"""The client of the measurements: it sends requests from a container next to what is measured.

Nobody types it: `bench.ways.Client` runs `python3 -m bench.client NAME` in that container. NAME is one of the
functions below. It reads one line of JSON from stdin, the `plan` that says what to do, and writes what it has
seen as JSON to stdout. It needs aiohttp, and of the project only `measure`.
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
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from measure.client import KIND, PATH, level, session

TURNS_BEFORE = 10
"""Requests of each size on each way that don't count: nothing is warm yet."""
FAILURES = (OSError, http.client.HTTPException)
"""What may be raised where an answer does not come, or not whole."""


def body(size: int, **more: Any) -> bytes:
    """The body of a chat request of exactly `size` bytes, or the shortest if that is longer.

    Its messages are source code, of 4,000 characters each. `more` are further fields of the request.
    """
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


def _answered(way: http.client.HTTPConnection, raw: bytes, headers: Mapping[str, str] = KIND) -> bool:
    """Asks over a connection that stays open. Whether a whole answer with status 200 came."""
    try:
        way.request("POST", PATH, raw, headers)
        answer = way.getresponse()
        return bool(answer.read()) and answer.status == 200
    except FAILURES:
        way.close()
        return False


def turns(plan: Any) -> Any:
    """Asks several ways by turns, one request at a time, over connections that stay open.

    The plan has `ways` (name → host and port), `n`, how often each is asked, `bytes`, the size of a body, and
    perhaps an API `key`. Gives `seen`, which has for each way a pair [began, seconds] for each good answer,
    on the clock of `time.monotonic`, and `lost`, how many answers were not good.
    """
    raw, seen, lost = body(plan["bytes"]), {name: list[list[float]]() for name in plan["ways"]}, 0
    headers = {**KIND, **({"Authorization": f"Bearer {plan['key']}"} if "key" in plan else {})}
    open_ = {name: http.client.HTTPConnection(*place) for name, place in plan["ways"].items()}
    for turn in range(-TURNS_BEFORE, plan["n"]):
        for name, way in open_.items():
            began = time.monotonic()
            good = _answered(way, raw, headers)
            lost += not good
            if good and turn >= 0:
                seen[name].append([began, time.monotonic() - began])
    return {"seen": seen, "lost": lost}


def small(plan: Any) -> Any:
    """Sends short requests, one after another, until stdin ends.

    The plan has `place` (host and port) and `pause`, the seconds between two requests. Gives `seen`, a pair
    [began, seconds] for each good answer on the clock of `time.monotonic`, and `lost`, how many answers were
    not good.
    """
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
    """Asks for `n` streams at once at `place` (host and port).

    Each stream must have so many `events`, numbered from 0 on without a gap, and begins `apart` seconds after
    the one before it. Gives `late`, the seconds that each event took from the engine to here, and `lost`, how
    many streams were not whole.
    """
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
    """Sends `n` requests at once to `place` (host and port), each with a body of `bytes` bytes.

    Each begins `apart` seconds after the one before it. Gives `answered`, when each good answer had arrived,
    in seconds since the epoch, and `lost`, how many answers were not good.
    """
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
    """Asks as `n` users at once at `place` (host and port).

    Each asks `each` times, one request after another, for `tokens` tokens. Gives the `seconds` that all of it
    took, and `lost`, how many answers were not good or had another length.
    """
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
"""By name, what sends many requests at once."""
ONE_BY_ONE: dict[str, Callable[[Any], Any]] = {"turns": turns, "small": small}
"""By name, what sends one request after another."""


def main() -> None:
    name, plan = sys.argv[1], json.loads(sys.stdin.readline())
    done = asyncio.run(AT_ONCE[name](plan)) if name in AT_ONCE else ONE_BY_ONE[name](plan)
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main()
