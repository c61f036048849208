"""The front of the offline gateway, before an upstream that stands in for TensorZero's package."""

import asyncio
import contextlib
import gzip
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientConnectorError, ClientPayloadError, ClientSession, web

from offline.image.gateway_front import SETTLE_S, Front, bind_address, config_files, hash_of, listen

BODY = os.urandom(12 << 20)
WAIT_S = 5.0


@dataclass
class Upstream:
    """Echoes bodies, and streams one chunk for each release."""

    seen: list[web.Request] = field(default_factory=list)
    release: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def echo(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        return web.Response(status=418, body=await request.read(), headers={"x-answer": "a"})

    async def whole(self, _: web.Request) -> web.Response:
        """Answers all that is released, at the end."""
        parts = []
        try:
            while part := await self.release.get():
                parts.append(part)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.ended.set()
        return web.Response(body=b"".join(parts))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        try:
            while chunk := await self.release.get():
                await answer.write(chunk)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.ended.set()
        return answer

    async def cut(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return answer


@dataclass
class Bench:
    """A front that serves, its upstream, and a client."""

    front: Front
    upstream: Upstream
    client: ClientSession
    url: str
    drained: asyncio.Task[None] | None = None

    async def drain(self) -> None:
        """Begin to drain, and let it take effect."""
        self.drained = asyncio.create_task(self.front.drain())
        await asyncio.sleep(4 * SETTLE_S)


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    upstream = Upstream()
    app = web.Application(client_max_size=0)
    app.router.add_post("/openai/v1/echo", upstream.echo)
    app.router.add_post("/openai/v1/whole", upstream.whole)
    app.router.add_post("/openai/v1/stream", upstream.stream)
    app.router.add_post("/openai/v1/cut", upstream.cut)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    behind = listen("127.0.0.1", 0)
    await web.SockSite(runner, behind).start()
    front = Front(f"http://127.0.0.1:{behind.getsockname()[1]}", gateway_version="1.2.3", config_hash="abc")
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    await front.start(listening)
    async with ClientSession() as client:
        at = Bench(front=front, upstream=upstream, client=client, url=url)
        try:
            yield at
        finally:
            await (at.drained or front.drain())
            await runner.cleanup()


def served(test: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a test against a front that serves."""

    async def run() -> None:
        async with asyncio.timeout(30):
            async with bench() as at:
                await test(at)

    asyncio.run(run())


def test_a_request_and_its_answer_pass_unchanged_whatever_their_size() -> None:
    async def test(at: Bench) -> None:
        path = "/openai/v1/echo?a=%2F&b="
        async with at.client.post(at.url + path, data=io.BytesIO(BODY), headers={"x-tenant": "t"}) as answer:
            assert answer.status == 418
            assert answer.headers["x-answer"] == "a"
            assert await answer.read() == BODY
        (request,) = at.upstream.seen
        assert request.headers["x-tenant"] == "t"
        assert request.headers["content-length"] == str(len(BODY))
        assert request.path_qs == "/openai/v1/echo?a=/&b="

    served(test)


def test_each_chunk_of_a_stream_arrives_before_the_next_is_made() -> None:
    async def test(at: Bench) -> None:
        async with at.client.post(at.url + "/openai/v1/stream") as answer:
            for number in range(20):
                at.upstream.release.put_nowait(f"data: {number}\n\n".encode())
                chunk = await asyncio.wait_for(answer.content.readany(), WAIT_S)
                assert chunk == f"data: {number}\n\n".encode()
            at.upstream.release.put_nowait(None)
            assert await answer.read() == b""

    served(test)


async def ask_and_leave(at: Bench, path: str, *, read: bytes) -> None:
    """Ask, read until these bytes have come, hang up, and let it take effect."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(at.url.rpartition(":")[2]))
    writer.write(f"POST /openai/v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
    if read:
        await reader.readuntil(read)
    while not at.front.in_flight:
        await asyncio.sleep(SETTLE_S)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(4 * SETTLE_S)


def test_a_stream_runs_to_its_end_after_its_client_has_gone() -> None:
    async def test(at: Bench) -> None:
        at.upstream.release.put_nowait(b"first")
        await ask_and_leave(at, "stream", read=b"first")
        for number in range(50):
            at.upstream.release.put_nowait(b"%d" % number * 100_000)
        await asyncio.sleep(4 * SETTLE_S)
        assert at.front.in_flight == 1
        assert not at.upstream.cancelled.is_set()
        at.upstream.release.put_nowait(None)
        await asyncio.wait_for(at.upstream.ended.wait(), WAIT_S)

    served(test)


def test_an_answer_is_made_to_its_end_after_its_client_has_gone() -> None:
    async def test(at: Bench) -> None:
        await ask_and_leave(at, "whole", read=b"")
        assert at.front.in_flight == 1
        assert not at.upstream.cancelled.is_set()
        at.upstream.release.put_nowait(b"late")
        at.upstream.release.put_nowait(None)
        await asyncio.wait_for(at.upstream.ended.wait(), WAIT_S)

    served(test)


@pytest.mark.parametrize("path", ["stream", "whole"])
def test_a_drain_waits_for_requests_whose_clients_have_gone(path: str) -> None:
    async def test(at: Bench) -> None:
        at.upstream.release.put_nowait(b"first")
        await ask_and_leave(at, path, read=b"first" if path == "stream" else b"")
        await at.drain()
        assert at.drained is not None and not at.drained.done()
        at.upstream.release.put_nowait(None)
        await asyncio.wait_for(at.drained, WAIT_S)
        assert at.upstream.ended.is_set()
        assert at.front.in_flight == 0

    served(test)


def test_a_client_that_goes_before_its_body_is_whole_asks_nothing() -> None:
    async def test(at: Bench) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", int(at.url.rpartition(":")[2]))
        writer.write(b"POST /openai/v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
        while not at.front.in_flight:
            await asyncio.sleep(SETTLE_S)
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(WAIT_S):
            while at.front.in_flight:
                await asyncio.sleep(SETTLE_S)
        assert at.upstream.seen == []

    served(test)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_packed_body_arrives_unpacked(chunked: bool) -> None:
    async def test(at: Bench) -> None:
        packed = gzip.compress(BODY)
        async with at.client.post(
            at.url + "/openai/v1/echo",
            data=_in_pieces(packed) if chunked else io.BytesIO(packed),
            headers={"content-encoding": "gzip"},
        ) as answer:
            assert answer.status == 418
            assert await answer.read() == BODY
        (request,) = at.upstream.seen
        assert request.headers["content-length"] == str(len(BODY))
        assert "content-encoding" not in request.headers

    served(test)


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 20):
        yield body[start : start + (1 << 20)]


@pytest.mark.parametrize("encoding", ["deflate", "GZIP", "gzip, br", "x"])
def test_an_encoding_that_the_gateway_does_not_know_is_refused(encoding: str) -> None:
    async def test(at: Bench) -> None:
        headers = {"content-encoding": encoding}
        async with at.client.post(at.url + "/openai/v1/echo", data=b"x", headers=headers) as answer:
            assert (answer.status, await answer.read()) == (415, b"")
            assert answer.headers["accept-encoding"] == "zstd,gzip,br"
        assert at.upstream.seen == []

    served(test)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"not packed", "400 Bad Request"),
        (gzip.compress(b"x" * 1000)[:20], "400 Bad Request"),
        (gzip.compress(bytes(101 << 20), 1), "length limit exceeded (413 Payload Too Large)"),
    ],
    ids=["not packed", "cut", "too large"],
)
def test_a_body_that_cannot_be_unpacked_is_a_400_as_the_gateways(packed: bytes, why: str) -> None:
    async def test(at: Bench) -> None:
        headers = {"content-encoding": "gzip"}
        async with at.client.post(at.url + "/openai/v1/echo", data=packed, headers=headers) as answer:
            assert answer.status == 400
            message = (await answer.json())["error"]["message"]
        assert message.startswith("Failed to buffer the request body: ")
        assert why in message
        assert at.upstream.seen == []

    served(test)


def test_a_drain_refuses_new_clients_and_lets_a_stream_end() -> None:
    async def test(at: Bench) -> None:
        async with at.client.post(at.url + "/openai/v1/stream") as answer:
            at.upstream.release.put_nowait(b"first")
            await answer.content.readany()
            await at.drain()
            assert at.drained is not None and not at.drained.done()
            async with ClientSession() as another:
                with pytest.raises(ClientConnectorError):
                    await another.get(at.url + "/status")
            at.upstream.release.put_nowait(b"last")
            at.upstream.release.put_nowait(None)
            assert await answer.read() == b"last"
        await asyncio.wait_for(at.drained, WAIT_S)
        assert at.front.in_flight == 0

    served(test)


def test_a_drain_closes_idle_connections_at_once() -> None:
    async def test(at: Bench) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(at.url.rpartition(":")[2]))
        writer.write(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n")
        await at.drain()
        assert at.drained is not None
        await asyncio.wait_for(at.drained, WAIT_S)
        await asyncio.wait_for(reader.read(), WAIT_S)
        writer.close()
        await writer.wait_closed()

    served(test)


def test_a_request_that_is_being_answered_ends_its_connection_when_drained() -> None:
    async def test(at: Bench) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(at.url.rpartition(":")[2]))
        writer.write(b"POST /openai/v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        at.upstream.release.put_nowait(b"first")
        await reader.readuntil(b"first")
        await at.drain()
        at.upstream.release.put_nowait(None)
        assert (await asyncio.wait_for(reader.read(), WAIT_S)).endswith(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    served(test)


def test_an_answer_that_is_cut_upstream_is_cut_for_the_client_too() -> None:
    async def test(at: Bench) -> None:
        async with at.client.post(at.url + "/openai/v1/cut") as answer:
            with pytest.raises(ClientPayloadError):
                await answer.read()

    served(test)


def test_the_status_names_version_and_configuration() -> None:
    async def test(at: Bench) -> None:
        async with at.client.get(at.url + "/status") as answer:
            assert await answer.json() == {"status": "ok", "version": "1.2.3", "config_hash": "abc"}
        async with at.client.get(at.url + "/health") as answer:
            assert answer.status == 200

    served(test)


def test_the_configuration_hash_follows_every_file_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[gateway]\n")
    one = hash_of(config_files(str(tmp_path / "*.toml")))
    (tmp_path / "b.toml").write_text("")
    two = hash_of(config_files(str(tmp_path / "*.toml")))
    assert one != two
    assert one == hash_of(config_files(str(tmp_path / "a.toml")))


def test_the_bind_address_comes_from_one_place_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORZERO_GATEWAY_BIND_ADDRESS", raising=False)
    config = tmp_path / "a.toml"
    config.write_text("[gateway]\n")
    assert bind_address(None, [config]) == ("0.0.0.0", 3000)
    assert bind_address("[::]:3001", [config]) == ("::", 3001)
    config.write_text('[gateway]\nbind_address = "0.0.0.0:3002"\n')
    assert bind_address(None, [config]) == ("0.0.0.0", 3002)
    monkeypatch.setenv("TENSORZERO_GATEWAY_BIND_ADDRESS", "0.0.0.0:3003")
    with pytest.raises(ValueError, match=r"more than once: 0\.0\.0\.0:3003, 0\.0\.0\.0:3002"):
        bind_address(None, [config])
