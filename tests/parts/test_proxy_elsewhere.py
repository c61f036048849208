"""What the proxy has another process do."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator

import pytest

from proxy import answers, reading
from proxy.answers import Usage
from proxy.elsewhere import LARGE_BYTES, Elsewhere
from proxy.reading import Unreadable

LARGE = b" " * LARGE_BYTES


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    process = Elsewhere()
    yield process
    process.close()


def process_of(_: bytes) -> int:
    """Which process does it."""
    return os.getpid()


def test_what_is_large_is_read_in_another_process_and_what_is_small_in_this(elsewhere: Elsewhere) -> None:
    async def story() -> None:
        assert await elsewhere.read(process_of, LARGE[1:]) == os.getpid()
        other = await elsewhere.read(process_of, LARGE)
        assert other != os.getpid()
        assert os.getpriority(os.PRIO_PROCESS, other) == 19, "what serves goes first"

    asyncio.run(story())


def test_who_reads_is_started_again_once_for_all_when_it_is_killed(elsewhere: Elsewhere) -> None:
    async def story() -> None:
        first = await elsewhere.read(process_of, LARGE)
        os.kill(first, signal.SIGKILL)
        readers = await asyncio.gather(*(elsewhere.read(process_of, LARGE) for _ in range(3)))
        assert len(set(readers)) == 1 and readers[0] != first

    asyncio.run(story())


def test_what_is_wrong_with_a_large_body_is_said_as_of_a_small_one(elsewhere: Elsewhere) -> None:
    async def story() -> None:
        for space in (b"", LARGE):
            with pytest.raises(Unreadable, match="'model' must be a string") as raised:
                await elsewhere.read(reading.read, b'{"model": 7}' + space)
            assert raised.value.param == "model"

    asyncio.run(story())


def test_a_large_answer_is_counted_and_named_as_a_small_one(elsewhere: Elsewhere) -> None:
    async def story() -> None:
        for count in (1, LARGE_BYTES):
            said = {"model": "new", "data": [0.25] * count, "usage": {"prompt_tokens": 3}}
            usage, raw = await elsewhere.read(answers.given_on, json.dumps(said).encode(), "new", "old")
            assert usage == Usage(prompt=3) and json.loads(raw) == {**said, "model": "old"}

    asyncio.run(story())
