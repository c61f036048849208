"""A test double of an engine that keeps every request to the byte, and answers as it was told before.

It stands where an engine would where a test compares what was sent with what arrived. Nothing depends on
the body being JSON: which answer a request gets is said by its query string, `?answer=<id>`, and what that
answer is was posted to `/script` before. It needs nothing but Python's standard library.

    POST /script         tells an answer; the body is what `script` makes, and an id that is empty means
                         requests without `answer` in their query. `?answer=echo` gets what it asked with.
    GET /recorded        {"recorded": [...]}, oldest first; `?since=N` gives those whose number is above N
    DELETE /recorded     forgets them, so that large bodies don't fill the memory; numbers go on. `?give`
                         gives them once more.
    GET /health          200

Everything else is recorded. If nothing else was told, a request gets a valid answer of its path's protocol
(completions, responses, messages and its `count_tokens`, embeddings; a chat anywhere else); a stream of five
pieces if its body is JSON with `"stream": true`, of chat and completions with one more with the usage only if
it asks for `stream_options.include_usage`; the models at `GET /v1/models`; 404 for any other GET.

It is as strict as an engine: a body that is shorter than announced, or both a length and chunks, is a 400;
silent connections are closed after `--idle` seconds; and a client that closes its side, or only its half, has
hung up: its answer ends there.
"""

import argparse
import asyncio
import base64
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http.client import responses as REASONS
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

HEAD_BYTES = 1 << 16
PIECES = ("one", " two", " three", " four", " five")
USAGE = {"prompt_tokens": 7, "completion_tokens": len(PIECES), "total_tokens": 7 + len(PIECES)}
JSON_HEADERS: Headers = (("Content-Type", "application/json"),)
STREAM_HEADERS: Headers = (("Content-Type", "text/event-stream; charset=utf-8"),)
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/(\d)\.(\d)")


@dataclass(frozen=True, kw_only=True)
class Script:
    """An answer. `parts` are (seconds to wait, bytes); the head goes with the first, which may be empty.

    With `status` None the engine hangs up without a word, after all the seconds. `framing` is `chunked` (each
    part is a chunk), `length`, or `close` (the end of the connection is the end of the body). With `cut` the
    connection breaks off after the last part: the last chunk is missing, or the announced length is one more.
    `then` is for the next request with the same id; the last one stays.
    """

    status: int | None = 200
    headers: Headers = JSON_HEADERS
    parts: tuple[tuple[float, bytes], ...] = ()
    framing: str = "length"
    cut: bool = False
    then: "Script | None" = None

    def as_json(self) -> Json:
        """What `from_json` reads: bytes are base64."""
        return {
            "status": self.status,
            "headers": [list(header) for header in self.headers],
            "parts": [[delay, base64.b64encode(part).decode()] for delay, part in self.parts],
            "framing": self.framing,
            "cut": self.cut,
            "then": self.then.as_json() if self.then else None,
        }

    @classmethod
    def from_json(cls, value: Json) -> "Script":
        """Raises KeyError, TypeError or ValueError if it isn't one."""
        if value["framing"] not in ("chunked", "length", "close"):
            raise ValueError(f"framing {value['framing']!r}")
        return cls(
            status=value["status"],
            headers=tuple((name, text) for name, text in value["headers"]),
            parts=tuple((delay, base64.b64decode(part, validate=True)) for delay, part in value["parts"]),
            framing=value["framing"],
            cut=value["cut"],
            then=cls.from_json(value["then"]) if value["then"] else None,
        )


def script(name: str, answer: Script) -> bytes:
    """The body for `POST /script`: the answer to `?answer=<name>`, or to requests without if it is empty."""
    return json.dumps({"id": name, **answer.as_json()}).encode()


@dataclass(kw_only=True)
class Record:
    """One request, and what became of it. `path` has the query; headers are as they came.

    `refused` says what was wrong with it as HTTP. `ended` is whether all of the answer was written, and
    `sent` how many bytes of its body were. `hung_up_after_seconds` counts from when the request was whole, or
    from its head if the client went before that.
    """

    number: int
    connection: int
    """Counts connections, so that a test sees whether one was used again."""
    method: str
    path: str
    headers: Headers
    body: bytes
    at: float
    """Seconds since the epoch."""
    refused: str | None = None
    status: int | None = None
    sent: int = 0
    ended: bool = False
    hung_up_after_seconds: float | None = None

    def as_json(self) -> Json:
        """What `from_json` reads: the body is base64."""
        return {**vars(self), "body": base64.b64encode(self.body).decode()}

    @classmethod
    def from_json(cls, value: Json) -> "Record":
        headers = tuple((name, text) for name, text in value["headers"])
        return cls(**{**value, "headers": headers, "body": base64.b64decode(value["body"])})


def recorded(answer: bytes) -> list[Record]:
    """The records in an answer of `GET /recorded`."""
    return [Record.from_json(value) for value in json.loads(answer)["recorded"]]


class BadRequest(Exception):
    """A request that is not HTTP as an engine takes it; the connection ends with it."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class RecordingEngine:
    """What all connections share. `model` is the engine's own name for its model, which every answer says."""

    def __init__(self, *, model: str = "tiny", idle_seconds: float = 5.0) -> None:
        self.model = model
        self.idle_seconds = idle_seconds
        self.records: list[Record] = []
        self.scripts: dict[str, Script] = {}
        self._numbers = 0
        self._connections = 0

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Serve until the server is closed."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Connection(self), host, port, backlog=1024)

    def connection(self) -> int:
        self._connections += 1
        return self._connections

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def control(self, method: str, path: str, body: bytes) -> Script | None:
        """The answer to what a test asks of the engine itself; None for what clients ask."""
        url = urlsplit(path)
        if (method, url.path) == ("GET", "/health"):
            return _json(200, {})
        if (method, url.path) == ("GET", "/recorded"):
            since = int(parse_qs(url.query).get("since", ["0"])[0])
            return _json(200, {"recorded": [r.as_json() for r in self.records if r.number > since]})
        if (method, url.path) == ("DELETE", "/recorded"):
            given = [r.as_json() for r in self.records] if url.query == "give" else []
            self.records.clear()
            return _json(200, {"recorded": given})
        if (method, url.path) == ("POST", "/script"):
            try:
                value = json.loads(body)
                self.scripts[value["id"]] = Script.from_json(value)
            except (KeyError, TypeError, ValueError) as error:
                return _json(400, {"error": {"message": f"not a script: {error!r}"}})
            return _json(200, {})
        return None

    def answer(self, record: Record) -> Script:
        """The answer to a client: the one that was told, or else the default."""
        url = urlsplit(record.path)
        name = parse_qs(url.query).get("answer", [""])[0]
        if name == "echo":
            return Script(parts=((0.0, record.body),))
        if told := self.scripts.get(name):
            self.scripts[name] = told.then or told
            return told
        if name:
            return _json(500, {"error": {"message": f"no script {name!r} was posted"}})
        if record.method == "GET":
            models = {"object": "list", "data": [{"id": self.model, "object": "model"}]}
            if url.path == "/v1/models":
                return _json(200, models)
            return _json(404, {"error": {"message": "Not Found", "type": "NotFoundError", "code": 404}})
        return self._default(url.path, record.body)

    def _default(self, path: str, body: bytes) -> Script:
        try:
            asked = json.loads(body, parse_int=str, parse_float=str)  # a number may have a megabyte of digits
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            asked = {}
        if path == "/v1/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}
            usage = {"prompt_tokens": 7, "total_tokens": 7}
            return _json(200, {"object": "list", "model": self.model, "data": [vector], "usage": usage})
        if path == "/v1/messages/count_tokens":
            return _json(200, {"input_tokens": USAGE["prompt_tokens"]})
        if path in ("/v1/responses", "/v1/messages"):
            whole, events = self._response() if path == "/v1/responses" else self._message()
            if asked.get("stream") is not True:
                return _json(200, whole)
            said = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            parts = tuple((0.0, each.encode()) for each in said)
            return Script(headers=STREAM_HEADERS, framing="chunked", parts=parts)
        chat = path != "/v1/completions"
        if asked.get("stream") is True:
            options = asked.get("stream_options")
            usage_too = isinstance(options, dict) and options.get("include_usage") is True
            return Script(headers=STREAM_HEADERS, framing="chunked", parts=self._stream(usage_too, chat))
        message = {"role": "assistant", "content": "".join(PIECES)}
        text: Json = {"message": message} if chat else {"text": "".join(PIECES)}
        choice = {"index": 0, **text, "finish_reason": "stop"}
        kind = "chat.completion" if chat else "text_completion"
        return _json(200, self._completion(kind, [choice]) | {"usage": USAGE})

    def _response(self) -> tuple[Json, list[Json]]:
        text = {"type": "output_text", "text": "".join(PIECES), "annotations": []}
        item = {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [text],
        }
        used = dict(zip(("input_tokens", "output_tokens", "total_tokens"), USAGE.values(), strict=True))
        begun: Json = {"id": "resp_1", "object": "response", "created_at": int(time.time())}
        begun |= {"model": self.model, "status": "in_progress", "output": [], "usage": None}
        whole = {**begun, "status": "completed", "output": [item], "usage": used}
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        events: list[Json] = [
            {"type": "response.created", "response": begun},
            *({"type": "response.output_text.delta", **place, "delta": piece} for piece in PIECES),
            {"type": "response.completed", "response": whole},
        ]
        return whole, [{**event, "sequence_number": n} for n, event in enumerate(events)]

    def _message(self) -> tuple[Json, list[Json]]:
        given, used, _ = USAGE.values()
        begun: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model}
        begun |= {"content": [], "stop_reason": None, "usage": {"input_tokens": given, "output_tokens": 0}}
        usage = {"input_tokens": given, "output_tokens": used}
        content = [{"type": "text", "text": "".join(PIECES)}]
        whole = {**begun, "content": content, "stop_reason": "end_turn", "usage": usage}
        deltas = [{"type": "text_delta", "text": piece} for piece in PIECES]
        return whole, [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
            {"type": "message_stop"},
        ]

    def _stream(self, usage_too: bool, chat: bool = True) -> tuple[tuple[float, bytes], ...]:
        chunks, kind = [], "chat.completion.chunk" if chat else "text_completion"
        for number, piece in enumerate(PIECES, start=1):
            end = "stop" if number == len(PIECES) else None
            text: Json = {"delta": {"role": "assistant", "content": piece}} if chat else {"text": piece}
            chunks.append(self._completion(kind, [{"index": 0, **text, "finish_reason": end}]))
        if usage_too:
            chunks.append(self._completion(kind, []) | {"usage": USAGE})
        events = [*map(json.dumps, chunks), "[DONE]"]
        return tuple((0.0, f"data: {event}\n\n".encode()) for event in events)

    def _completion(self, kind: str, choices: list[Json]) -> Json:
        created = int(time.time())
        return {
            "id": "chatcmpl-1",
            "object": kind,
            "created": created,
            "model": self.model,
            "choices": choices,
        }


def _json(status: int, value: Json) -> Script:
    return Script(status=status, parts=((0.0, json.dumps(value).encode()),))


@dataclass
class _Head:
    method: str
    path: str
    version: tuple[int, int]
    headers: Headers

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def one(self, name: str) -> str | None:
        values = self.values(name)
        return ", ".join(values) if values else None

    @property
    def last(self) -> bool:
        """Whether the connection ends with this request."""
        connection = (self.one("connection") or "").lower()
        return "close" in connection or (self.version == (1, 0) and "keep-alive" not in connection)


class Connection(asyncio.StreamReaderProtocol):
    """One connection, with its requests one after another."""

    def __init__(self, engine: RecordingEngine) -> None:
        super().__init__(asyncio.StreamReader(limit=HEAD_BYTES), self._serve)
        self._engine = engine
        self._number = engine.connection()
        self._gone = asyncio.Event()

    def eof_received(self) -> bool:
        super().eof_received()
        self._gone.set()
        return True  # what is refused is still answered

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; whether another may follow."""
        body = bytearray()
        head: _Head | None = None
        began = time.monotonic()
        try:
            head = await self._head(reader)
            if head is None:
                return False
            began = time.monotonic()
            length = _checked(head)
            if head.one("expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async for piece in _body(reader, length):
                body += piece
        except (BadRequest, ConnectionError) as error:
            why = str(error) if isinstance(error, BadRequest) else "the client hung up within the body"
            status = error.status if isinstance(error, BadRequest) else 400
            if head is not None:
                record = self._keep(head, body)
                record.refused = why
                if self._gone.is_set():
                    record.hung_up_after_seconds = time.monotonic() - began
            await _write(writer, _json(status, {"error": {"message": why}}), close=True)
            return False
        control = self._engine.control(head.method, head.path, bytes(body))
        if control is not None:
            await _write(writer, control, close=head.last)
            return not head.last
        record = self._keep(head, body)
        return await self._answer(writer, self._engine.answer(record), record, close=head.last)

    def _keep(self, head: _Head, body: bytearray) -> Record:
        record = Record(
            number=self._engine.number(),
            connection=self._number,
            method=head.method,
            path=head.path,
            headers=head.headers,
            body=bytes(body),
            at=time.time(),
        )
        self._engine.records.append(record)
        return record

    async def _answer(
        self, writer: asyncio.StreamWriter, answer: Script, record: Record, *, close: bool
    ) -> bool:
        """Answer until the end or until the client hangs up; whether another request may follow."""
        began = time.monotonic()
        answering = asyncio.create_task(_write(writer, answer, close=close, record=record))
        leaving = asyncio.create_task(self._gone.wait())
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not answering.done():
            answering.cancel()
        try:
            await answering
        except (asyncio.CancelledError, ConnectionError):
            record.hung_up_after_seconds = time.monotonic() - began
            return False
        record.ended = True
        return not (close or answer.cut or answer.status is None or answer.framing == "close")

    async def _head(self, reader: asyncio.StreamReader) -> _Head | None:
        """The next request's head; None if there is none."""
        try:
            async with asyncio.timeout(self._engine.idle_seconds):
                raw = await reader.readuntil(b"\r\n\r\n")
        except (TimeoutError, asyncio.IncompleteReadError):
            return None
        except asyncio.LimitOverrunError as error:
            raise BadRequest(431, "the head is too large") from error
        first, *lines = raw[:-4].split(b"\r\n")
        matched = REQUEST_LINE.fullmatch(first)
        if matched is None:
            raise BadRequest(400, f"no request line: {first!r}")
        headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not NAME.fullmatch(name) or re.search(rb"[\0\r\n]", value):
                raise BadRequest(400, f"no header: {line!r}")
            headers.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
        method, path, major, minor = matched.groups()
        version = (int(major), int(minor))
        if version not in ((1, 0), (1, 1)):
            raise BadRequest(505, "HTTP/1.0 or HTTP/1.1")
        return _Head(method.decode(), path.decode("latin-1"), version, tuple(headers))


def _checked(head: _Head) -> int | None:
    """How long the body is, in bytes; None if it comes in chunks."""
    if head.version == (1, 1) and len(head.values("host")) != 1:
        raise BadRequest(400, "exactly one Host")
    expect = head.one("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise BadRequest(417, f"Expect: {expect}")
    encoding, lengths = head.one("transfer-encoding"), head.values("content-length")
    if encoding is None:
        if not lengths:
            return 0
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]+", lengths[0]):
            raise BadRequest(400, f"Content-Length: {', '.join(lengths)}")
        return int(lengths[0])
    if lengths:
        raise BadRequest(400, "both Content-Length and Transfer-Encoding")
    if encoding.lower() != "chunked" or head.version == (1, 0):
        raise BadRequest(501, f"Transfer-Encoding: {encoding}")
    return None


async def _body(reader: asyncio.StreamReader, length: int | None) -> AsyncIterator[bytes]:
    """The body in pieces as they come, so that the part of one that is not whole is kept too."""
    if length is not None:
        async for piece in _exactly(reader, length):
            yield piece
        return
    while True:
        line = await _line(reader)
        size = re.fullmatch(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?", line)
        if size is None:
            raise BadRequest(400, f"no size of a chunk: {line!r}")
        left = int(size[1], 16)
        if left == 0:
            break
        async for piece in _exactly(reader, left):
            yield piece
        if await _line(reader) != b"":
            raise BadRequest(400, "a chunk is longer than its size")
    while await _line(reader) != b"":
        pass  # trailers


async def _exactly(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    left = length
    while left:
        piece = await reader.read(min(left, 1 << 20))
        if not piece:
            raise BadRequest(400, f"the body ends {left} bytes early")
        left -= len(piece)
        yield piece


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n"))[:-2]
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise BadRequest(400, "the body ends within its chunks") from error


async def _write(
    writer: asyncio.StreamWriter, answer: Script, *, close: bool, record: Record | None = None
) -> None:
    """Write an answer as its script says; `record` learns how far it came."""
    if answer.status is None:
        await asyncio.sleep(sum(delay for delay, _ in answer.parts))
        return
    lines = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Told')}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if answer.framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    elif answer.framing == "length":
        lines.append(f"Content-Length: {sum(len(part) for _, part in answer.parts) + answer.cut}")
    if close or answer.framing == "close":
        lines.append("Connection: close")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    for delay, part in answer.parts:
        await asyncio.sleep(delay)
        writer.write(head + (_chunk(part) if answer.framing == "chunked" and part else part))
        head = b""
        if record is not None:
            record.status = answer.status
            record.sent += len(part)
        await writer.drain()
    writer.write(head + (b"0\r\n\r\n" if answer.framing == "chunked" and not answer.cut else b""))
    if record is not None:
        record.status = answer.status
    await writer.drain()


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


def main(argv: Sequence[str]) -> None:
    """Serve until the process ends."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=8000)
    arguments.add_argument("--model", default="tiny")
    arguments.add_argument(
        "--idle", type=float, default=5.0, help="seconds that an idle connection stays open"
    )
    options = arguments.parse_args(argv)
    sys.setrecursionlimit(6_000)  # for bodies of 5,000 levels

    async def serve() -> None:
        engine = RecordingEngine(model=options.model, idle_seconds=options.idle)
        async with await engine.listen("0.0.0.0", options.port) as server:
            port = server.sockets[0].getsockname()[1]
            print(f"recording engine: listening on {port}", flush=True)
            await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1:])
