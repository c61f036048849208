"""How the proxy takes in bodies: as they come, within limits, and with an answer once everything is sent."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from proxy import bodies, http
from proxy.route import COPY_BYTES
from tests.parts.test_proxy_serving import CHAT, DIGEST, Bench, quiet, request, run, until

assert quiet, "a fixture that is used in this module too"

LARGE = b'{"model":"tiny","x":"' + b"x" * COPY_BYTES + b'"}'
"""A body of which the edge has no copy."""


@dataclass
class Sender:
    """A client in the middle of its request. `rest` sends what is left, and gives what comes then."""

    reader: asyncio.StreamReader
    rest: Callable[[], Coroutine[None, None, bytes]]


@contextlib.asynccontextmanager
async def sending(bench: Bench, body: bytes, *lines: str, left: int = 2) -> AsyncIterator[Sender]:
    """A client that has sent all of a request but so many bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.outer)
    raw = request(CHAT, body, *lines)
    writer.write(raw[:-left])

    async def rest() -> bytes:
        writer.write(raw[-left:])
        async with asyncio.timeout(20):
            return await reader.read()

    try:
        await writer.drain()
        yield Sender(reader, rest)
    finally:
        writer.close()


async def silent(client: Sender) -> bool:
    """Whether nothing comes for a while, not even the end."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(client.reader.read(1), 0.3)
        return False
    return True


def test_who_has_begun_first_to_send_and_still_does_gives_way_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And hears that it does only once it has sent everything: most clients read nothing before."""
    monkeypatch.setattr(bodies, "HELD_BYTES", 2 * len(LARGE))

    async def story(bench: Bench) -> None:
        async with sending(bench, LARGE) as first, sending(bench, LARGE) as second:
            await until(lambda: bench.proxy._bodies._held == 2 * len(LARGE) - 4)
            assert (await bench.ask(request())).startswith(b"HTTP/1.1 200 ")
            assert bench.proxy._bodies._held == len(LARGE) - 2
            assert (await bench.ask(request(CHAT, LARGE))).startswith(b"HTTP/1.1 200 ")
            assert await silent(first)
            refused = await first.rest()
            assert refused.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in refused
            assert (await second.rest()).startswith(b"HTTP/1.1 200 ")
        assert (bench.proxy._bodies._held, bench.proxy._bodies.wanted) == (0, 0)

    run(story, tmp_path)


@pytest.mark.parametrize(("line", "status"), [("X-Nothing: x", 401), ("Content-Encoding: gzip", 415)])
def test_who_is_refused_hears_it_once_everything_is_sent_and_nothing_of_it_is_kept(
    tmp_path: Path, line: str, status: int
) -> None:
    async def story(bench: Bench) -> None:
        lines = [line]
        if status == 401:
            bench.keys({"open": False, "keys": {DIGEST: "acme"}})
        async with sending(bench, LARGE, *lines) as client:
            assert await silent(client) and bench.proxy._bodies._held == 0
            assert (await client.rest()).startswith(b"HTTP/1.1 %d " % status)
        more = await bench.ask(request(CHAT, LARGE[:-1], *lines))
        assert more.startswith(b"HTTP/1.1 %d " % status)

    run(story, tmp_path, request_bytes=2 * len(LARGE))


def test_a_body_without_end_is_refused_all_the_same(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.keys({"open": False, "keys": {}})
        async with sending(bench, LARGE * 2) as client:
            assert (await client.reader.read(20)).startswith(b"HTTP/1.1 401 ")

    run(story, tmp_path, request_bytes=len(LARGE))


def test_small_pieces_of_a_body_take_no_more_than_one(tmp_path: Path) -> None:
    """The edge passes on what comes as it comes, and a piece of a byte would take fifty."""

    class Sent:
        def __init__(self) -> None:
            self.headers, self.content = dict[str, str](), self

        async def iter_any(self) -> AsyncIterator[bytes]:
            for _ in range(100_000):
                yield b"x"
            now.append(tracemalloc.get_traced_memory()[0])

    now = list[int]()

    async def story(bench: Bench) -> None:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            async with bench.proxy._bodies.take(cast(Any, Sent()), 2**20) as raw:
                assert raw == b"x" * 100_000
        finally:
            tracemalloc.stop()
        assert now[0] - before < 300_000

    run(story, tmp_path)


def test_a_proxy_that_ends_leaves_to_another_what_that_can_answer_and_answers_the_rest(
    tmp_path: Path,
) -> None:
    async def story(bench: Bench) -> None:
        bench.route(held_since=1.0)
        small = asyncio.create_task(bench.ask(request()))
        large = asyncio.create_task(bench.ask(request(CHAT, LARGE)))
        await until(lambda: bench.proxy.admission.waiting == 2)
        async with sending(bench, LARGE) as client:
            await until(lambda: bench.proxy._bodies.wanted == 3)
            ending = asyncio.create_task(bench.proxy.drain())
            with contextlib.suppress(ConnectionError):
                assert await small == b"", "the edge asks another proxy"
            await until(lambda: bench.proxy.admission.waiting == 1)
            rest = asyncio.create_task(client.rest())
            await until(lambda: bench.proxy.admission.waiting == 2)
            assert not ending.done()
            bench.route()
            assert (await large).startswith(b"HTTP/1.1 200 ") and (await rest).startswith(b"HTTP/1.1 200 ")
            async with asyncio.timeout(2):
                await ending

    run(story, tmp_path)


def test_a_proxy_that_ends_does_not_wait_for_ever_for_who_sends_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "GONE_SECONDS", 0.2)

    async def story(bench: Bench) -> None:
        async with sending(bench, LARGE) as client:
            await until(lambda: bench.proxy._bodies.wanted)
            async with asyncio.timeout(2):
                await bench.proxy.drain()
            assert (await client.rest()).startswith(b"HTTP/1.1 503 ")

    run(story, tmp_path)
