"""The recording engine: it keeps what came to the byte, answers as told, and knows when a client hung up."""

import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from switch.protocols import PROTOCOLS, Said
from tests.support import recording_engine
from tests.support.recording_engine import PIECES, USAGE, Record, RecordingEngine, Script, recorded, script

WAIT_S = 5.0
PATH = "/v1/chat/completions"


@dataclass
class Client:
    """A client that writes and reads bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send these bytes and read one answer; its headers have small letters."""
        self.writer.write(raw)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.read()
        return int(first.split()[1]), headers, body

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Bench:
    """A recording engine that serves."""

    engine: RecordingEngine
    port: int

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield client
        finally:
            await client.leave()

    async def ask(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        async with self.client() as client:
            return await client.ask(raw)

    async def post(self, body: bytes, path: str = PATH) -> tuple[int, dict[str, str], bytes]:
        return await self.ask(request(body, path))

    async def tell(self, name: str, answer: Script) -> None:
        status, _, text = await self.post(script(name, answer), "/script")
        assert status == 200, text

    async def recorded(self, since: int = 0) -> list[Record]:
        status, _, body = await self.ask(f"GET /recorded?since={since} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert status == 200
        return recorded(body)

    async def hung_up(self) -> Record:
        """The only record, once its client has hung up."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found = await self.recorded()
                if found and found[0].hung_up_after_seconds is not None:
                    return found[0]
                await asyncio.sleep(0.02)


def request(body: bytes, path: str = PATH, *headers: bytes) -> bytes:
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: x", *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


def served(test: Callable[[Bench], Awaitable[None]], idle_seconds: float = 5.0) -> None:
    """Run a test against an engine that serves."""

    async def run() -> None:
        engine = RecordingEngine(model="tiny", idle_seconds=idle_seconds)
        async with asyncio.timeout(30), await engine.listen("127.0.0.1", 0) as server:
            await test(Bench(engine=engine, port=server.sockets[0].getsockname()[1]))

    asyncio.run(run())


def test_a_request_is_kept_to_the_byte() -> None:
    async def test(at: Bench) -> None:
        body = bytes(range(256)) * 40_000
        path = PATH + "?a=%2F&b=&%7e"
        headers = (b"X-Odd-CASE:  two  spaces\t", b"x-twice: 1", b"X-Twice: 2", b"x-latin: \xe9", b"x-empty:")
        status, _, _ = await at.ask(request(body, path, *headers))
        assert status == 200
        (record,) = await at.recorded()
        assert (record.method, record.path, record.body) == ("POST", path, body)
        assert record.headers == (
            ("Host", "x"),
            ("X-Odd-CASE", "two  spaces"),
            ("x-twice", "1"),
            ("X-Twice", "2"),
            ("x-latin", "\xe9"),
            ("x-empty", ""),
            ("Content-Length", str(len(body))),
        )
        assert (record.status, record.ended, record.refused) == (200, True, None)
        assert record.hung_up_after_seconds is None

    served(test)


def test_a_body_in_chunks_is_put_together() -> None:
    async def test(at: Bench) -> None:
        head = b"POST /v1/x HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
        raw = head + b"5\r\nhello\r\n00B;a=b\r\n, \r\n\0world \r\n0\r\nx-trailer: 1\r\n\r\n"
        assert (await at.ask(raw))[0] == 200
        assert [record.body for record in await at.recorded()] == [b"hello, \r\n\0world "]

    served(test)


def test_records_are_given_since_a_number_and_forgotten() -> None:
    async def test(at: Bench) -> None:
        for number in range(3):
            await at.post(b"%d" % number)
        assert [(record.number, record.body) for record in await at.recorded(1)] == [(2, b"1"), (3, b"2")]
        assert (await at.ask(b"DELETE /recorded HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 200
        assert await at.recorded() == []
        await at.post(b"3")
        assert [record.number for record in await at.recorded()] == [4]
        _, _, given = await at.ask(b"DELETE /recorded?give HTTP/1.1\r\nhost: x\r\n\r\n")
        assert [record.body for record in recorded(given)] == [b"3"]
        assert await at.recorded() == []

    served(test)


def test_a_request_can_be_answered_with_its_own_body() -> None:
    async def test(at: Bench) -> None:
        status, _, body = await at.post(b"\0 \xff", f"{PATH}?answer=echo")
        assert (status, body) == (200, b"\0 \xff")
        assert [record.body for record in await at.recorded()] == [b"\0 \xff"]

    served(test)


def test_an_empty_and_an_unreadable_body_get_a_completion() -> None:
    async def test(at: Bench) -> None:
        for body in (b"", b"\xff\0", b"[" * 100_000, b"[]", b'{"stream": 1}'):
            status, headers, text = await at.post(body)
            answer = json.loads(text)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert answer["choices"][0]["message"]["content"] == "".join(PIECES)
            assert answer["choices"][0]["finish_reason"] == "stop"
            assert (answer["model"], answer["usage"]) == ("tiny", USAGE)

    served(test)


@pytest.mark.parametrize(
    ("options", "usage"),
    [
        ("", False),
        (',"stream_options":null', False),
        (',"stream_options":{}', False),
        (',"stream_options":{"include_usage":false}', False),
        (',"stream_options":{"include_usage":true}', True),
    ],
)
def test_a_stream_has_its_usage_only_if_it_was_asked_for(options: str, usage: bool) -> None:
    async def test(at: Bench) -> None:
        status, headers, text = await at.post(f'{{"stream":true{options}}}'.encode())
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        events = text.decode().removesuffix("\n\n").split("\n\n")
        assert events.pop() == "data: [DONE]"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        if usage:
            last = chunks.pop()
            assert (last["choices"], last["usage"]) == ([], USAGE)
        assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == list(PIECES)
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
        assert not any("usage" in chunk for chunk in chunks)

    served(test)


def test_models_and_embeddings_are_answered_and_what_is_not_there_is_not() -> None:
    async def test(at: Bench) -> None:
        models = json.loads((await at.ask(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"))[2])
        assert [model["id"] for model in models["data"]] == ["tiny"]
        vector = json.loads((await at.post(b"{}", "/v1/embeddings"))[2])
        assert vector["data"][0]["embedding"] == [0.25, 0.5]
        assert (await at.ask(b"GET /v1/files HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 404
        assert [record.path for record in await at.recorded()] == [
            "/v1/models",
            "/v1/embeddings",
            "/v1/files",
        ]

    served(test)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_an_answer_is_as_told(framing: str) -> None:
    async def test(at: Bench) -> None:
        answer = Script(
            status=429,
            headers=(("X-Odd-CASE", "a"), ("x-twice", "1"), ("x-twice", "2"), ("content-type", "x/y")),
            parts=((0.0, b""), (0.05, b"\xff\0\r\n"), (0.0, b"{")),
            framing=framing,
        )
        await at.tell("a&b", answer)
        async with at.client() as client:
            status, headers, body = await client.ask(request(b"not JSON", PATH + "?answer=a%26b"))
            assert (status, body) == (429, b"\xff\0\r\n{")
            assert headers["content-type"] == "x/y"
            assert ("transfer-encoding" in headers) == (framing == "chunked")
            if framing != "close":
                assert (await client.ask(request(b"")))[0] == 200
        first = (await at.recorded())[0]
        assert (first.status, first.sent, first.ended) == (429, 5, True)

    served(test)


def test_an_answer_waits_as_told() -> None:
    async def test(at: Bench) -> None:
        await at.tell("slow", Script(parts=((0.3, b"a"), (0.3, b"b")), framing="chunked"))
        async with at.client() as client:
            loop = asyncio.get_running_loop()
            began = loop.time()
            client.writer.write(request(b"", PATH + "?answer=slow"))
            await client.reader.readuntil(b"1\r\na\r\n")
            assert 0.25 < loop.time() - began < 0.55
            await client.reader.readuntil(b"1\r\nb\r\n0\r\n\r\n")
            assert loop.time() - began > 0.55

    served(test)


def test_what_has_no_answer_in_its_query_can_be_told_one_too() -> None:
    async def test(at: Bench) -> None:
        await at.tell("", Script(status=503))
        assert (await at.post(b"{}"))[0] == 503
        assert (await at.post(b"{}", PATH + "?x=1"))[0] == 503

    served(test)


def test_answers_come_in_turn_and_the_last_one_stays() -> None:
    async def test(at: Bench) -> None:
        last = Script(status=200, parts=((0.0, b"well"),))
        await at.tell("turns", Script(status=500, then=Script(status=503, then=last)))
        statuses = [(await at.post(b"", PATH + "?answer=turns"))[0] for _ in range(4)]
        assert statuses == [500, 503, 200, 200]

    served(test)


@pytest.mark.parametrize(
    ("framing", "seen"),
    [("chunked", b"4\r\nhalf\r\n"), ("length", b"half"), ("close", b"half")],
)
def test_a_cut_answer_ends_before_its_end(framing: str, seen: bytes) -> None:
    async def test(at: Bench) -> None:
        await at.tell("cut", Script(parts=((0.0, b"half"),), framing=framing, cut=True))
        async with at.client() as client:
            client.writer.write(request(b"", PATH + "?answer=cut"))
            head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
            assert body == seen
            assert (b"Content-Length: 5" in head) == (framing == "length")

    served(test)


def test_an_engine_that_dies_says_nothing() -> None:
    async def test(at: Bench) -> None:
        await at.tell("dies", Script(status=None, parts=((0.1, b""),)))
        async with at.client() as client:
            client.writer.write(request(b"x", PATH + "?answer=dies"))
            assert await client.reader.read() == b""
        (record,) = await at.recorded()
        assert (record.status, record.body, record.hung_up_after_seconds) == (None, b"x", None)

    served(test)


def test_an_answer_that_nobody_told_and_a_script_that_is_none_are_said_so() -> None:
    async def test(at: Bench) -> None:
        assert (await at.post(b"", PATH + "?answer=nobody"))[0] == 500
        for wrong in (b"", b"[]", b"{}", b'{"id":"a"}', script("a", Script(framing="pigeon"))):
            assert (await at.post(wrong, "/script"))[0] == 400

    served(test)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("first", [60.0, 0.0])
def test_who_hangs_up_is_noticed_at_once(first: float, framing: str, half: bool) -> None:
    """Before the first byte, which takes a minute, and after it; the whole connection closed, or half."""

    async def test(at: Bench) -> None:
        await at.tell("long", Script(parts=((first, b"first"), (60.0, b"last")), framing=framing))
        async with at.client() as client:
            client.writer.write(request(b"", PATH + "?answer=long"))
            if not first:
                await client.reader.readuntil(b"first")
            await asyncio.sleep(0.3)
            if half:
                client.writer.write_eof()
                await client.reader.read()  # its connection is closed
            else:
                await client.leave()
            record = await at.hung_up()
        assert record.hung_up_after_seconds is not None
        assert 0.25 < record.hung_up_after_seconds < 1
        assert not record.ended
        assert (record.status, record.sent) == ((None, 0) if first else (200, 5))

    served(test)


def test_who_reads_nothing_and_hangs_up_is_noticed_too() -> None:
    async def test(at: Bench) -> None:
        await at.tell("large", Script(parts=((0.0, bytes(30 << 20)),) * 2, framing="chunked"))
        async with at.client() as client:
            client.writer.write(request(b"", PATH + "?answer=large"))
            await asyncio.sleep(0.3)
            client.writer.transport.abort()
            assert not (await at.hung_up()).ended

    served(test)


@pytest.mark.parametrize(
    ("headers", "sent", "status", "kept"),
    [
        (b"host: x\r\ncontent-length: 9", b"half", 400, b"half"),
        (b"host: x\r\ntransfer-encoding: chunked", b"9\r\nhalf", 400, b"half"),
        (b"host: x\r\ntransfer-encoding: chunked", b"4\r\nhalf\r\n", 400, b"half"),
        (b"host: x\r\ntransfer-encoding: chunked", b"3\r\nhalf\r\n", 400, b"hal"),
        (b"host: x\r\ntransfer-encoding: chunked", b"x\r\n", 400, b""),
        (b"host: x\r\ntransfer-encoding: gzip, chunked", b"", 501, b""),
        (b"host: x\r\ncontent-length: 0\r\ntransfer-encoding: chunked", b"0\r\n\r\n", 400, b""),
        (b"host: x\r\ncontent-length: 1\r\ncontent-length: 2", b"ab", 400, b""),
        (b"host: x\r\ncontent-length: +1", b"a", 400, b""),
        (b"content-length: 0", b"", 400, b""),
        (b"host: x\r\nhost: y\r\ncontent-length: 0", b"", 400, b""),
        (b"host: x\r\nexpect: magic\r\ncontent-length: 0", b"", 417, b""),
    ],
)
def test_what_is_not_quite_http_is_refused_and_kept(
    headers: bytes, sent: bytes, status: int, kept: bytes
) -> None:
    async def test(at: Bench) -> None:
        async with at.client() as client:
            client.writer.write(b"POST /v1/x HTTP/1.1\r\n" + headers + b"\r\n\r\n" + sent)
            client.writer.write_eof()
            assert (await client.reader.read()).startswith(b"HTTP/1.1 %d " % status)
        (record,) = await at.recorded()
        assert record.refused
        assert record.body == kept

    served(test)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /v1/x\r\n\r\n", 400),
        (b"POST /v1/x HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"POST /v1/x HTTP/1.1\r\nhost : x\r\n\r\n", 400),
        (b"POST /v1/x HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n", 400),
        (b"POST /v1/x HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_has_no_head_is_refused(raw: bytes, status: int) -> None:
    async def test(at: Bench) -> None:
        async with at.client() as client:
            client.writer.write(raw)
            assert (await client.reader.read()).startswith(b"HTTP/1.1 %d " % status)
        assert await at.recorded() == []

    served(test)


def test_a_client_that_dies_within_its_body_is_kept() -> None:
    async def test(at: Bench) -> None:
        async with at.client() as client:
            client.writer.write(b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
            await asyncio.sleep(0.2)
            await client.leave()
            record = await at.hung_up()
        assert (record.body, record.status) == (b"half", None)
        assert record.refused

    served(test)


def test_a_client_that_expects_to_go_on_is_told_to() -> None:
    async def test(at: Bench) -> None:
        async with at.client() as client:
            head = request(b"body", PATH, b"Expect: 100-Continue").removesuffix(b"body")
            client.writer.write(head)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert (await client.ask(b"body"))[0] == 200

    served(test)


def test_a_connection_serves_many_and_ends_when_it_is_told_or_silent() -> None:
    async def test(at: Bench) -> None:
        async with at.client() as client:
            for _ in range(3):
                assert (await client.ask(request(b"")))[0] == 200
            assert (await asyncio.wait_for(client.reader.read(), WAIT_S)) == b""
        async with at.client() as client:
            _, headers, _ = await client.ask(request(b"", PATH, b"Connection: close"))
            assert headers["connection"] == "close"
            assert await client.reader.read() == b""
        assert [record.connection for record in await at.recorded()] == [1, 1, 1, 2]

    served(test, idle_seconds=0.2)


def test_it_is_one_file_that_runs_without_anything_else(tmp_path: Path) -> None:
    alone = tmp_path / "engine.py"
    alone.write_bytes(Path(recording_engine.__file__).read_bytes())
    deep = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"y":1' + b"0" * 5000 + b',"stream":true}'
    with subprocess.Popen(
        [sys.executable, "-I", "-S", alone, "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(" ")[2])
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{PATH}", data=deep, timeout=WAIT_S
            ) as answer:
                assert answer.read().endswith(b"data: [DONE]\n\n")
        finally:
            process.terminate()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_gets_a_good_answer_of_its_own(name: str) -> None:
    protocol = PROTOCOLS[name]

    async def test(at: Bench) -> None:
        asked = [protocol.ask("tiny", "hi", max_tokens=8, stream=stream) for stream in (False, True)]
        whole, stream = [(await at.post(json.dumps(each).encode(), protocol.path))[2] for each in asked]
        heard = Said()
        for line in stream.decode().splitlines():
            if line.startswith("data: "):
                assert not heard.ended
                protocol.hear(heard, line.removeprefix("data: "))
        for said in (protocol.read(json.loads(whole)), heard):
            assert said.ended and said.finish and said.model == "tiny" and said.content == "".join(PIECES)
            assert (said.given, said.tokens, said.total) == tuple(USAGE.values())

    served(test)
