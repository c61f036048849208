"""The proxy as it serves, in this process, between clients that send bytes and engines that are told."""

import asyncio
import contextlib
import gc
import hashlib
import json
import logging
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from proxy import bodies, http, inner
from proxy.elsewhere import LARGE_BYTES
from proxy.live import LOOK_SECONDS
from proxy.reading import read
from proxy.records import Books, RequestRecord
from proxy.server import ProxyServer
from switch import observe
from tests.support.project import free_port
from tests.support.recording_engine import JSON_HEADERS, STREAM_HEADERS, RecordingEngine, Script
from traffic.load import LoggedRequest
from traffic.log import requests

CHAT = "/v1/chat/completions"
NAME = "vllm-00000001"
BODY = b'{"model":"tiny"}'

READ = """import sys, pathlib, proxy.traffic as t
t.main(pathlib.Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:])"""
"""As `python3 -m proxy.traffic`, in another folder."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The access log and aiohttp's are not the tests' business."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@dataclass
class Bench:
    """A proxy, and the engine behind it, which records where it was not replaced."""

    proxy: ProxyServer
    engine: RecordingEngine
    live: Path
    outer: int
    inner: int
    port: int
    number: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    model: str = "tiny"
    kind: str = "vllm"

    def write(self, name: str, content: str) -> None:
        new = self.live / "new"
        new.write_text(content)
        new.replace(self.live / name)
        self.proxy.live.look()

    def keys(self, document: dict[str, Any]) -> None:
        self.write("keys.json", json.dumps(document))

    def route(self, gateway: int | None = None, **changed: Any) -> None:
        self.number += 1
        limits = {"hold_seconds": 20, "first_token_seconds": 10, "answer_seconds": 20, "request_bytes": 2**24}
        lines = [
            f'[models."{self.model}"]',
            f'engines = ["{NAME}"]',
            f"aliases = {list(self.aliases)}",
            f"[engines.{NAME}]",
            f'kind = "{self.kind}"',
            f'model = "{self.model}"',
        ]
        lines += [f"port = {self.port}", "at_a_time = 4"]
        if gateway:
            lines += ["[gateway]", 'kind = "tensorzero"', f"port = {gateway}"]
        lines += ["[limits]", *(f"{key} = {value}" for key, value in (limits | self.limits).items())]
        lines += ["[browsers]", f"origins = {list(self.origins)}"]
        said = {
            "number": self.number,
            "held_since": None,
            "engine": NAME,
            "container": "127.0.0.1",
            "gateway": "127.0.0.1" if gateway else None,
            "also": ["old"],
            "routing": "\n".join(lines),
        }
        self.write("route.json", json.dumps(said | changed))

    def tell(self, answer: Script) -> str:
        self.engine.scripts["told"] = answer
        return f"{CHAT}?answer=told"

    async def ask(self, raw: bytes, port: int | None = None) -> bytes:
        """What comes until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.outer)
        writer.write(raw)
        try:
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()


def request(path: str = CHAT, body: bytes = BODY, *lines: str, method: str = "POST") -> bytes:
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: test",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def run(
    story: Callable[[Bench], Awaitable[None]], folder: Path, serve: Serve | None = None, **limits: int
) -> None:
    async def go() -> None:
        async with bench(folder, serve, limits) as made:
            await story(made)

    asyncio.run(go())


@contextlib.asynccontextmanager
async def bench(folder: Path, serve: Serve | None, limits: dict[str, int]) -> AsyncIterator[Bench]:
    engine, port, outer, inside = RecordingEngine(), free_port(), free_port(), free_port()
    behind = await (
        asyncio.start_server(serve, "127.0.0.1", port) if serve else engine.listen("127.0.0.1", port)
    )
    proxy = ProxyServer(folder, None, inner_port=inside)
    made = Bench(proxy, engine, folder, outer, inside, port, limits=limits)
    made.keys({"open": True, "keys": {}})
    made.route()
    async with listening(proxy, outer, inside, behind):
        yield made


@contextlib.asynccontextmanager
async def listening(
    proxy: ProxyServer, outer: int, inside: int, *engines: asyncio.Server
) -> AsyncIterator[None]:
    """The proxy at these ports, before engines that end with it."""
    runners = [await http.listen(proxy.inner, inside), await http.listen(proxy.outer, outer)]
    try:
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
        await proxy.close()
        for engine in engines:
            engine.close()
        await asyncio.sleep(0.01)  # a transport that was closed is gone at the loop's next turn


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_engines_redirect_is_given_on_and_not_followed(tmp_path: Path, status: int) -> None:
    async def story(bench: Bench) -> None:
        path = bench.tell(Script(status=status, headers=(*JSON_HEADERS, ("Location", "/v1/elsewhere"))))
        answer = await bench.ask(request(path))
        assert (
            answer.startswith(f"HTTP/1.1 {status} ".encode()) and b"\r\nLocation: /v1/elsewhere\r\n" in answer
        )
        assert [record.path for record in bench.engine.records] == [path]

    run(story, tmp_path)


def test_a_long_query_and_large_headers_go_through_in_both_directions(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        told = Script(
            headers=(*JSON_HEADERS, ("X-Long", "y" * 30_000), *((f"X-{each}", "z") for each in range(300))),
            parts=((0, b"{}"),),
        )
        path = f"{bench.tell(told)}&x={'x' * 30_000}"
        lines = ["Cookie: " + "c" * 100_000, *(f"X-{each}: z" for each in range(300))]
        answer = await bench.ask(request(path, BODY, *lines))
        assert answer.startswith(b"HTTP/1.1 200 ") and b"y" * 30_000 in answer and b"X-299: z" in answer
        assert [record.path for record in bench.engine.records] == [path]

    run(story, tmp_path)


def test_a_request_that_is_no_http_is_in_no_log_and_what_is_our_own_mistake_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster, where no edge takes it apart before. A key and a prompt would be in it."""
    chunked = "Transfer-Encoding: chunked"
    wrong = (
        request(CHAT, BODY, "Authorization: Bearer sk-\x01secret"),
        request(CHAT, b"3\r\na secret prompt", chunked).replace(b"Content-Length", b"X-Length"),
        request(f"{CHAT}?x=secret-\xff"),
    )

    def fails(*_: Any) -> None:
        raise RuntimeError("our own mistake")

    async def story(bench: Bench) -> None:
        logging.disable(logging.NOTSET)
        for raw in wrong:
            assert (await bench.ask(raw)).startswith(b"HTTP/1.0 400 ")
        assert not bench.engine.records
        monkeypatch.setattr(bench.proxy, "_models", fails)
        assert (await bench.ask(request("/v1/models", b"", method="GET"))).startswith(b"HTTP/1.1 500 ")
        page = (await bench.proxy._metrics()).decode()
        assert 'endpoint="/v1/models",engine="-",status="500"' in page, "it fails for its client, too"

    run(story, tmp_path)
    assert "our own mistake" in caplog.text and "secret" not in caplog.text


def test_a_header_in_several_lines_arrives_whole(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        lines = ("anthropic-beta: a", "Anthropic-Beta: b,c", "Accept: text/plain")
        await bench.ask(request("/v1/messages", BODY, *lines))
        (record,) = bench.engine.records
        said = {name.lower(): value for name, value in record.headers}
        assert (said["anthropic-beta"], said["accept"]) == ("a, b,c", "text/plain")

    run(story, tmp_path)


KEY = "sk-größe"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


def test_a_key_of_any_bytes_is_known_or_not_and_no_more(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.keys({"open": False, "keys": {DIGEST: "acme"}})
        for sent, status in ((KEY.encode().decode("latin-1"), 200), (KEY, 401), ("\xff", 401)):
            answer = await bench.ask(request(CHAT, BODY, f"Authorization: Bearer {sent}"))
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (sent, answer)

    run(story, tmp_path)


@pytest.mark.parametrize("wrong", [{"ü": "acme"}, {DIGEST: ["acme"]}, {DIGEST: 7}, {DIGEST: None}])
def test_keys_that_were_edited_into_nonsense_change_nothing(tmp_path: Path, wrong: dict[str, Any]) -> None:
    async def story(bench: Bench) -> None:
        bench.keys({"open": False, "keys": {DIGEST: "acme"}})
        bench.keys({"open": False, "keys": wrong})
        key = KEY.encode().decode("latin-1")
        answer = await bench.ask(request(CHAT, BODY, f"Authorization: Bearer {key}"))
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert not bench.proxy.admission.running

    run(story, tmp_path)


def test_a_route_that_can_not_be_used_is_followed_by_one_that_can(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        watching = asyncio.create_task(bench.proxy.live.watch())
        for wrong in ("[models.tiny]\nengines = []", "[[models]]", "models = 7", "["):
            bench.route(routing=wrong)
        gc.collect()  # else what the tests before have left is collected at the recursion's limit, and fails
        bench.write("route.json", "[" * 100_000)
        await asyncio.sleep(3 * LOOK_SECONDS)
        bench.route()
        assert bench.proxy.admission.route.number == bench.number
        assert not watching.done()
        watching.cancel()

    run(story, tmp_path)


def test_a_file_that_could_not_be_read_is_read_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(
                Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError(24, "Too many open files"))
            )
            bench.route()
        assert bench.proxy.status()["applied"] == bench.number - 1
        bench.proxy.live.look()
        assert bench.proxy.status()["applied"] == bench.number

    run(story, tmp_path)


async def gateway(ask: Callable[[Bench, str], Awaitable[bytes]], bench: Bench) -> asyncio.Server:
    """One that does with the id of each question what `ask` does, and answers what that gives."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        (header,) = json.loads(await reader.readexactly(length))["tensorzero::extra_headers"]
        with contextlib.suppress(ConnectionError):
            writer.write(await ask(bench, header["value"]))
        writer.close()

    port = free_port()
    made = await asyncio.start_server(serve, "127.0.0.1", port)
    bench.route(port)
    return made


async def decide(bench: Bench, number: str) -> bytes:
    """As a gateway that routes to the engine which serves."""
    return await bench.ask(request(f"/{NAME}{CHAT}", b"{}", f"x-changeover-id: {number}"), bench.inner)


def test_a_gateway_decides_and_hears_the_end(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        heard = list[bytes]()

        async def ask(bench: Bench, number: str) -> bytes:
            heard.append(await decide(bench, number))
            return heard[-1]

        async with await gateway(ask, bench):
            assert (await bench.ask(request())).startswith(b"HTTP/1.1 200 ")
            await until(lambda: not bench.proxy.status()["running"] and not bench.proxy.exchanges.asking)
        assert b'"completion_tokens": 5' in heard[0]

    run(story, tmp_path)


def test_an_engine_that_does_not_serve_is_refused_to_a_gateway_that_asks_for_it(tmp_path: Path) -> None:
    """It falls back on the other one, with the same id."""

    async def story(bench: Bench) -> None:
        heard = list[bytes]()

        async def ask(bench: Bench, number: str) -> bytes:
            other = request(f"/ollama-00000002{CHAT}", b"{}", f"x-changeover-id: {number}")
            heard.append(await bench.ask(other, bench.inner))
            heard.append(await decide(bench, number))
            return heard[-1]

        async with await gateway(ask, bench):
            assert (await bench.ask(request())).startswith(b"HTTP/1.1 200 ")
            await until(lambda: not bench.proxy.status()["running"] and not bench.proxy.exchanges.asking)
        assert heard[0].startswith(b"HTTP/1.1 503 ") and b"not gated" in heard[0]
        assert heard[1].startswith(b"HTTP/1.1 200 ")
        assert len(bench.engine.records) == 1

    run(story, tmp_path)


def test_a_gateway_that_has_just_asked_for_a_client_who_hangs_up_is_answered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in one turn of the event loop: else the gateway would wait until its own limits."""

    async def story(bench: Bench) -> None:
        proxy, clients, heard = bench.proxy, list[asyncio.Task[Any] | None](), list[bytes]()
        real = proxy.exchanges.ask

        async def seen(*arguments: Any) -> Any:
            clients.append(asyncio.current_task())
            return await real(*arguments)

        async def ask(bench: Bench, number: str) -> bytes:
            (client,) = clients
            assert client
            proxy.exchanges.open[number].chosen.add_done_callback(lambda _: client.cancel())
            heard.append(await decide(bench, number))
            return heard[-1]

        monkeypatch.setattr(proxy.exchanges, "ask", seen)
        async with await gateway(ask, bench):
            assert await bench.ask(request()) == b""
            await until(lambda: heard and not proxy.exchanges.asking and not proxy.admission.running)
        assert heard[0].startswith(b"HTTP/1.1 503 ")

    run(story, tmp_path)


def test_a_gateway_that_says_nothing_is_asked_again_until_there_is_no_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner, "GATEWAY_SECONDS", 0.5)

    async def story(bench: Bench) -> None:
        end, asked = asyncio.Event(), list[asyncio.Task[Any] | None]()

        async def ask(bench: Bench, number: str) -> bytes:
            asked.append(asyncio.current_task())
            await end.wait()
            return b""

        async with await gateway(ask, bench):
            assert (await bench.ask(request())).startswith(b"HTTP/1.1 503 ")
            await until(lambda: not bench.proxy.status()["running"] and not bench.proxy.exchanges.asking)
            assert len(asked) > 1
            end.set()
            await asyncio.wait([each for each in asked if each])

    run(story, tmp_path, hold_seconds=2)


def test_a_question_that_is_lost_behind_the_gateway_is_asked_again_and_the_late_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway had sent it to a proxy that was just going, and waits as long as its time-outs are."""
    monkeypatch.setattr(inner, "GATEWAY_AGAIN_SECONDS", 0.2)

    async def story(bench: Bench) -> None:
        late, asked, heard = asyncio.Event(), list[str](), list[bytes]()

        async def ask(bench: Bench, number: str) -> bytes:
            asked.append(number)
            if number == asked[0]:
                await late.wait()
            heard.append(await decide(bench, number))
            return heard[-1]

        async with await gateway(ask, bench):
            began = time.monotonic()
            answer = await bench.ask(request())
            assert (
                answer.startswith(b"HTTP/1.1 200 ") and time.monotonic() - began < inner.GATEWAY_SECONDS / 2
            )
            assert len(set(asked)) == len(asked) > 1
            await until(lambda: not bench.proxy.exchanges.asking and not bench.proxy.exchanges.open)
            late.set()
            await until(lambda: len(heard) == len(asked))
        refused = [each for each in heard if each.startswith(b"HTTP/1.1 503 ")]
        good = [each for each in heard if each.startswith(b"HTTP/1.1 200 ")]
        assert refused and len(good) == 1 == len(heard) - len(refused)

    run(story, tmp_path)


async def slowly(bench: Bench, raw: bytes, pause: float) -> int:
    """How many bytes come, 20,000 at a time."""
    client, loop = socket.socket(), asyncio.get_running_loop()
    with client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**17)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", bench.outer))
        await loop.sock_sendall(client, raw)
        seen = 0
        with contextlib.suppress(ConnectionError):
            while part := await loop.sock_recv(client, 20_000):
                seen += len(part)
                await asyncio.sleep(pause)
        return seen


def test_a_request_during_which_an_engine_has_ended_is_left_to_no_other_proxy(tmp_path: Path) -> None:
    """That one would not know of it, and might ask a third time."""
    asked = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if len(asked) > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        else:
            made[0].route(held_since=1.0)
        writer.close()

    made = list[Bench]()

    async def story(bench: Bench) -> None:
        made.append(bench)
        one = asyncio.create_task(bench.ask(request()))
        await until(lambda: bench.proxy.admission.waiting)
        ending = asyncio.create_task(bench.proxy.drain())
        await asyncio.sleep(0.2)
        assert not one.done() and not ending.done()
        bench.route()
        assert (await one).startswith(b"HTTP/1.1 200 ") and len(asked) == 2
        await ending

    run(story, tmp_path, serve)


def test_a_client_that_takes_a_large_answer_slowly_gets_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "GONE_SECONDS", 1)

    async def story(bench: Bench) -> None:
        path = bench.tell(Script(parts=((0, b"x" * 8_000_000),)))
        assert await slowly(bench, request(path), 0.01) > 8_000_000

    run(story, tmp_path)


def test_a_request_has_not_ended_before_all_of_its_answer_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is told to end goes when the last one has: what it still had to send would be lost."""
    left = list[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        while not (transports and transports[0].get_write_buffer_size()):
            writer.write(b"data: " + b"x" * 10_000 + b"\n\n")
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    transports = list[asyncio.Transport]()

    async def story(bench: Bench) -> None:
        real = bench.proxy._carry

        async def seen(ask: Any, *arguments: Any) -> Any:
            transports.append(ask.request.transport)
            answer = await real(ask, *arguments)
            left.append(transports[0].get_write_buffer_size())
            return answer

        monkeypatch.setattr(bench.proxy, "_carry", seen)
        await slowly(bench, request(CHAT, b'{"model":"tiny","stream":true}'), 0.005)
        assert left == [0]

    run(story, tmp_path, serve)


def test_bodies_that_take_too_much_together_are_refused_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "HELD_BYTES", 100_000)
    raw = b'{"model":"tiny","x":"' + b"x" * 60_000 + b'"}'

    async def story(bench: Bench) -> None:
        bench.route(held_since=1.0)
        first = asyncio.create_task(bench.ask(request(CHAT, raw)))
        await until(lambda: bench.proxy.admission.waiting == 1)
        second = await bench.ask(request(CHAT, raw))
        assert second.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in second
        bench.route()
        assert (await first).startswith(b"HTTP/1.1 200 ")
        assert (await bench.ask(request(CHAT, raw))).startswith(b"HTTP/1.1 200 ")

    run(story, tmp_path)


def test_the_bodies_of_requests_that_are_at_an_engine_are_there_once(tmp_path: Path) -> None:
    """aiohttp makes a second copy of an `io.BytesIO`: 256 MiB of bodies would take as much again."""
    raw, there, end = b'{"model":"tiny","x":"' + b"z1" * 1_000_000 + b'"}', list[int](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, left = await reader.readuntil(b"\r\n\r\n"), len(raw)
        assert b"\r\ncontent-length: %d\r\n" % left in head.lower()
        while left:
            left -= len(await reader.read(2**16))
        there.append(left)
        await end.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    async def story(bench: Bench) -> None:
        asked = request(CHAT, raw)
        tracemalloc.start()
        try:
            asks = [asyncio.create_task(bench.ask(asked)) for _ in range(4)]
            await until(lambda: len(there) == 4)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            end.set()
        assert all([(await each).endswith(b"ok") for each in asks])
        # one more is what was last sent to the process that reads, and some is the rest of it all
        assert 4 * len(raw) < taken < 7 * len(raw)

    run(story, tmp_path, serve)


def test_a_probe_is_not_queued_behind_a_crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(inner, "ENGINE_PORT", bench.port)
        path = bench.tell(Script(parts=((1, b"{}"),)))
        crowd = [asyncio.create_task(bench.ask(request(path))) for _ in range(12)]
        await until(lambda: bench.proxy.admission.waiting == 8)
        answer = await bench.ask(request(f"/localhost{CHAT}", BODY), bench.inner)
        assert answer.startswith(b"HTTP/1.1 200 ") and bench.proxy.admission.waiting == 8
        assert all([(await each).startswith(b"HTTP/1.1 200 ") for each in crowd])

    run(story, tmp_path)


def test_an_ask_without_an_id_may_be_as_large_as_a_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an upgrade the edge from before there were proxies sends whole prompts this way."""

    async def story(bench: Bench) -> None:
        monkeypatch.setattr(inner, "ENGINE_PORT", bench.port)
        raw = b"x" * 3_000_000
        answer = await bench.ask(request(f"/localhost{CHAT}?a=%20b", raw), bench.inner)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        (record,) = bench.engine.records
        assert (record.path, record.body) == (f"{CHAT}?a=%20b", raw)

    run(story, tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        f"/engine.example.com{CHAT}",
        f"/127.0.0.1{CHAT}",
        f"/user%40localhost{CHAT}",
        f"/localhost:1{CHAT}",
        f"/[::1]{CHAT}",
        "/localhost",
        "/",
    ],
)
def test_an_ask_without_an_id_goes_nowhere_but_to_a_name_on_the_own_network(
    tmp_path: Path, path: str
) -> None:
    async def story(bench: Bench) -> None:
        answer = await bench.ask(request(path, b"{}"), bench.inner)
        assert answer.startswith(b"HTTP/1.1 404 "), answer
        assert not bench.engine.records

    run(story, tmp_path)


def test_a_path_is_carried_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(inner, "ENGINE_PORT", bench.port)
        path = "/v1/x%20HTTP/1.1%0d%0aHost:%20y"
        await bench.ask(request(f"/localhost{path}", b"{}"), bench.inner)
        assert [record.path for record in bench.engine.records] == [path]

    run(story, tmp_path)


def test_an_id_of_a_proxy_that_can_not_be_found_is_refused(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        answer = await bench.ask(
            request(f"/{NAME}{CHAT}", b"{}", "x-changeover-id: 192.0.2.1.0a"), bench.inner
        )
        assert answer.startswith(b"HTTP/1.1 404 "), answer

    run(story, tmp_path)


def test_a_scrape_is_told_all_or_what_it_names(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        await bench.ask(request("/v1/models", b"", method="GET"))
        every = await bench.ask(request("/metrics", b"", method="GET"), bench.inner)
        named = await bench.ask(request(observe.METRICS, b"", method="GET"), bench.inner)
        assert b"\nchangeover_request_seconds_bucket{" in every and b"\nchangeover_waiting 0" in every
        assert b"\nchangeover_requests_total{" in named
        assert b"changeover_request_seconds" not in named and b"changeover_waiting" not in named

    run(story, tmp_path)


def test_what_has_not_ended_is_read_with_the_log_as_if_it_ended_now(
    tmp_path: Path,
) -> None:
    """A request at an engine, and one that waits for one."""

    async def story(bench: Bench) -> None:
        def read_out() -> list[LoggedRequest]:
            words = [sys.executable, "-c", READ, str(tmp_path), "0", f"http://127.0.0.1:{bench.inner}"]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, cwd=ROOT)
            return requests(done.stdout)[0]

        path = bench.tell(
            Script(headers=STREAM_HEADERS, parts=((0, b"data: 1\n\n"), (30, b"")), framing="close")
        )
        asking = [asyncio.create_task(bench.ask(request(path)))]
        await until(lambda: any(record.first for record in bench.proxy._open))
        bench.route(held_since=1.0)
        asking.append(asyncio.create_task(bench.ask(request())))
        await until(lambda: bench.proxy.status()["held"])
        await asyncio.sleep(0.1)
        runs, waits = sorted(await asyncio.to_thread(read_out), key=lambda each: each.engine, reverse=True)
        assert runs.engine == NAME and runs.total > waits.total >= 0.1 and runs.held < 0.1
        assert waits.engine == "-" and waits.held == pytest.approx(waits.total, abs=0.01)
        assert abs(time.time() - runs.ended) < 10
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await until(lambda: not bench.proxy._open)
        assert await asyncio.to_thread(read_out) == []

    run(story, tmp_path)


def test_what_is_counted_has_few_names_whatever_is_asked(tmp_path: Path) -> None:
    """Else anybody without a key could fill the memory, since a counter is kept for each."""

    async def story(bench: Bench) -> None:
        for open_ in (False, True):
            bench.keys({"open": open_, "keys": {}})
            for path in ("/v1/modelsx", "/v1/models/a", "/v1/models/b", "/v1/other"):
                await bench.ask(request(path, b"", method="GET"))
        page = (await bench.proxy._metrics()).decode()
        assert "modelsx" not in page and "/v1/models/a" not in page
        bench.route(routing="", engine=None, held_since=1.0)
        asking = asyncio.create_task(bench.ask(request(CHAT, b'{"model":"a prompt by mistake"}')))
        await until(lambda: bench.proxy.status()["held"])
        bench.route()
        assert (await asking).startswith(b"HTTP/1.1 404 ")
        assert {record.model for record in entered} <= {"-", "tiny"}

    entered = list[RequestRecord]()

    def enter(self: Books, record: RequestRecord, now: float) -> None:
        entered.append(record)
        real(self, record, now)

    real = Books.enter
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Books, "enter", enter)
        run(story, tmp_path)


def test_an_engine_that_serves_no_more_and_ends_holds_up_nobody_at_the_one_that_does(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        path = bench.tell(Script(status=None, parts=((0.3, b""),), then=Script(parts=((0, b"{}"),))))
        asking = asyncio.create_task(bench.ask(request(path)))
        await until(lambda: bench.engine.records)
        bench.route()
        async with asyncio.timeout(2):
            assert (await asking).startswith(b"HTTP/1.1 200 ")

    run(story, tmp_path)


def test_what_is_read_in_the_event_loop_holds_up_nobody_for_long() -> None:
    """The slowest of all bodies is one of nothing but brackets: 50 ms on a quiet machine, and minutes if it
    took the square of its length."""
    half = (LARGE_BYTES - 30) // 2
    raw = b'{"model":"tiny","x":' + b"[" * half + b"]" * half + b"}"
    began = time.process_time()
    read(raw)
    assert len(raw) < LARGE_BYTES and time.process_time() - began < 1


def hangs_first(begins: bytes) -> tuple[Serve, list[asyncio.StreamWriter]]:
    """An engine that gives the first request no more than `begins`, and answers every other."""
    seen: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(writer)
        if len(seen) == 1:
            writer.write(begins)
            with contextlib.suppress(ConnectionError):
                await reader.read()
                await reader.read()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    return serve, seen


@pytest.mark.parametrize("given_up", [NAME, "another"])
def test_what_was_at_an_engine_that_is_given_up_is_asked_again_once_there_is_one(
    tmp_path: Path, given_up: str
) -> None:
    serve, seen = hangs_first(b"")

    async def story(bench: Bench) -> None:
        asking = asyncio.create_task(bench.ask(request()))
        await until(lambda: len(seen) == 1)
        bench.route(held_since=1.0, given_up=[given_up])
        if given_up == "another":
            await asyncio.sleep(0.3)
            assert bench.proxy.status()["running"] == {NAME: 1}
            asking.cancel()
            return
        await until(lambda: not bench.proxy.status()["running"])
        assert len(seen) == 1 and bench.proxy.status()["held"] == 1
        bench.route(held_since=1.0, given_up=[NAME])  # it is counted once for each time
        count = bench.proxy.books.registry.get_sample_value("changeover_given_up_total", {"what": NAME})
        assert count == 1
        bench.route()
        assert (await asking).endswith(b"ok") and len(seen) == 2

    run(story, tmp_path, serve)


def test_a_stream_that_an_engine_had_begun_is_broken_off_when_that_is_given_up(tmp_path: Path) -> None:
    event = b"data: {}\n\n"
    serve, _ = hangs_first(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event)

    async def story(bench: Bench) -> None:
        asking = asyncio.create_task(bench.ask(request()))
        await until(lambda: bench.proxy.status()["silent"])
        bench.route(held_since=1.0, given_up=[NAME])
        said = b""
        with contextlib.suppress(ConnectionError):
            said = await asking
        assert b"0\r\n\r\n" not in said, "only a broken connection says that something is missing"
        await until(lambda: not bench.proxy.status()["running"])

    run(story, tmp_path, serve)


def test_a_gateway_that_is_given_up_is_not_waited_for(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        asked = asyncio.Event()

        async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            with contextlib.suppress(ConnectionError):
                await reader.read()
                await reader.read()
            writer.close()

        port = free_port()
        async with await asyncio.start_server(hangs, "127.0.0.1", port):
            bench.route(port)
            asking = asyncio.create_task(bench.ask(request()))
            await asked.wait()
            bench.route(port, held_since=1.0, given_up=["127.0.0.1"])
            await until(lambda: not bench.proxy.status()["running"])
            assert bench.proxy.status()["held"] == 1
            bench.route()
            assert b" 200 " in (await asking).splitlines()[0]

    run(story, tmp_path)


def test_the_status_says_whose_requests_are_at_the_engine_and_whose_wait(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        path = bench.tell(Script(parts=((0.5, b"{}"),)))
        asks = [asyncio.create_task(bench.ask(request(path, BODY, "X-Tenant-ID: alice"))) for _ in range(5)]
        await until(lambda: bench.proxy.admission.waiting == 1)
        assert (bench.proxy.status()["tenants"], bench.proxy.status()["waiting"]) == (
            {"alice": 4},
            {"alice": 1},
        )
        bench.route(held_since=1.0)
        asks.append(asyncio.create_task(bench.ask(request(path, BODY, "X-Tenant-ID: bob"))))
        await until(lambda: bench.proxy.status()["tenants"] == {})
        assert bench.proxy.status()["waiting"] == {"alice": 1, "bob": 1}
        bench.route()
        assert all([(await each).startswith(b"HTTP/1.1 200 ") for each in asks])
        assert (bench.proxy.status()["tenants"], bench.proxy.status()["waiting"]) == ({}, {})

    run(story, tmp_path)


@pytest.mark.parametrize("asked", ["true", "1", "false"])
def test_the_log_says_streamed_where_the_engine_streams_however_that_was_asked_for(
    tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = list[RequestRecord]()
    monkeypatch.setattr(Books, "enter", lambda self, record, now: entered.append(record))

    async def story(bench: Bench) -> None:
        headers = STREAM_HEADERS if asked != "false" else Script().headers
        path = bench.tell(Script(headers=headers, parts=((0, b"data: [DONE]\n\n"),), framing="chunked"))
        await bench.ask(request(path, f'{{"model":"tiny","stream":{asked}}}'.encode()))
        assert [record.stream for record in entered] == [asked != "false"]

    run(story, tmp_path)


def test_the_status_says_how_long_ago_an_engine_gave_something(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        assert bench.proxy.status()["silent"] == {}
        await bench.ask(request())
        silent = bench.proxy.status()["silent"]
        assert isinstance(silent, dict) and list(silent) == [NAME] and silent[NAME] < 10
        await asyncio.sleep(0.3)
        assert bench.proxy.admission.silent()[NAME] > silent[NAME]

    run(story, tmp_path)
