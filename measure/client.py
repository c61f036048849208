"""What asks in a measurement, wherever it runs: as a level of users, or as real traffic did.

`python3 -m measure.client` reads plans as lines of JSON on stdin, `do` the name of a function of these, and
writes a line of JSON for each to stdout, until stdin ends. It needs aiohttp, and of the project only
`measure.levels`.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import aiohttp

from measure.levels import judged

PATH, KIND = "/v1/chat/completions", {"Content-Type": "application/json"}


def session(patience: float | None = None) -> aiohttp.ClientSession:
    """A session with a connection for each request and a time-out of `patience` seconds; None: without."""
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=patience))


PIECE = "The grass is green. "
"""A prompt is as many of these as it takes."""


def prompt(number: int, pieces: int) -> str:
    """A prompt that begins as no other does, so that no engine has a part of it in its cache, and is as long
    as every other."""
    return f"{number:012d} {PIECE * pieces}"


async def ask(
    client: aiohttp.ClientSession, plan: Mapping[str, Any], number: int, pieces: int, tokens: int
) -> dict[str, Any]:
    """One request for so many tokens at most, as `measure.levels` calls it `Asked`. The plan says of whom:
    `url`, `model`, perhaps an API `key`, and perhaps the `patience` in seconds."""
    headers = {**KIND, **({"Authorization": f"Bearer {plan['key']}"} if plan.get("key") else {})}
    raw = json.dumps(
        {
            "model": plan["model"],
            "messages": [{"role": "user", "content": prompt(number, pieces)}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    events, problem, began = list[tuple[float, str]](), "", time.monotonic()
    try:
        async with client.post(f"{plan['url']}{PATH}", data=raw, headers=headers) as answer:
            if answer.status != 200:
                problem = f"HTTP {answer.status}"
            async for line in answer.content:
                if line.startswith(b"data:"):
                    said = line.removeprefix(b"data:").strip().decode(errors="replace")
                    events.append((time.monotonic(), said))
    except (aiohttp.ClientError, TimeoutError) as error:
        problem = f"cut: {type(error).__name__}"
    ended = time.monotonic()
    try:
        found = judged(events, tokens)
    except (ValueError, TypeError, AttributeError) as error:
        found = {**judged([], tokens), "problem": f"no OpenAI event: {type(error).__name__}"}
    return {**found, "began": began, "ended": ended, "problem": problem or found["problem"]}


async def level(plan: Mapping[str, Any]) -> dict[str, Any]:
    """`n` users who each ask `each` times, one time after another, for `tokens` tokens, with prompts of so
    many `pieces`; what would begin later than after `seconds` isn't asked. `run` is another number each time.
    """
    until = time.monotonic() + plan["seconds"]

    async def user(client: aiohttp.ClientSession, number: int) -> list[dict[str, Any]]:
        asked = list[dict[str, Any]]()
        while len(asked) < plan["each"] and (not asked or time.monotonic() < until):
            number_of = (plan["run"] * 1000 + number) * 100 + len(asked)
            asked.append(await ask(client, plan, number_of, plan["pieces"], plan["tokens"]))
        return asked

    async with session(plan.get("patience")) as client:
        every = await asyncio.gather(*(user(client, number) for number in range(plan["n"])))
    return {"asked": [one for asked in every for one in asked]}


async def replay(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What was `asked` over again: of each request after how many seconds it comes, its prompt's pieces and
    its tokens, whatever became of those before it. `run` is another number each time."""

    async def one(client: aiohttp.ClientSession, number: int) -> dict[str, Any]:
        after, pieces, tokens = plan["asked"][number]
        await asyncio.sleep(after)
        return await ask(client, plan, plan["run"] * 100_000 + number, pieces, tokens)

    async with session(plan.get("patience")) as client:
        every = await asyncio.gather(*(one(client, number) for number in range(len(plan["asked"]))))
    return {"asked": list(every)}


DOES: dict[str, Callable[[Mapping[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
    "level": level,
    "replay": replay,
}


def here(plan: Mapping[str, Any]) -> Any:
    """Asks from this process."""
    return asyncio.run(DOES[plan["do"]](plan))


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(here(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
