"""A client that hangs up ends the work in the engine within a second, whatever it was waiting for."""

import contextlib
import json
import socket
import ssl
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded

from proxy.protocols import COMPLETIONS, MESSAGES, RESPONSES
from proxy.waiting import WORD
from tests.conformance.asking import CHAT, Engine, body, read_until, request, sent, within
from tests.conformance.conftest import Recorded
from tests.support.recording_engine import STREAM_HEADERS, Record, Script
from tests.support.way import DOMAIN, Way, any_certificate, eventually

pytestmark = pytest.mark.engine

EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
EVENT_SECONDS = 0.05
"""Between two events of a slow engine."""
SLOW = {
    "streamed, before the first byte": Script(
        headers=STREAM_HEADERS, parts=((30, EVENT),), framing="chunked"
    ),
    "streamed, after it": Script(
        headers=STREAM_HEADERS, parts=((0, EVENT), *(((EVENT_SECONDS, EVENT),) * 600)), framing="chunked"
    ),
    "streamed, a silent engine": Script(
        headers=STREAM_HEADERS, parts=((0, EVENT), (30, EVENT)), framing="chunked"
    ),
    "not streamed": Script(parts=((30, b"{}"),)),
    "not streamed, half of it there": Script(parts=((0, b"{"), (30, b"}"))),
}


def last(engine: Engine) -> Record | None:
    return next(iter(engine.records()), None)


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
def test_who_hangs_up_ends_the_work(served: Recorded, name: str, half: bool) -> None:
    query = served.engine.tell(SLOW[name])
    before = len(served.way.access_log())
    with sent(served.way.port, request(CHAT + query, body(stream=name.startswith("streamed")))) as client:
        time.sleep(1)
        served.engine.record()
        hang_up(client, half=half)
        if half:
            time.sleep(1.2)
        assert within(1, lambda: last(served.engine)) < 2
    eventually(lambda: len(served.way.access_log()) > before)
    line = served.way.access_log()[-1]
    assert line["hung_up"] and line["tokens"] in (None, "events")


def test_so_it_does_in_each_other_protocol(served: Recorded) -> None:
    asks = [
        (path, name)
        for path in (COMPLETIONS, RESPONSES, MESSAGES)
        for name in ("streamed, after it", "not streamed")
    ]
    with contextlib.ExitStack() as clients:
        for path, name in asks:
            raw = body(stream=name.startswith("streamed"), max_output_tokens=16)
            clients.enter_context(sent(served.way.port, request(path + served.engine.tell(SLOW[name]), raw)))
        eventually(lambda: len(served.engine.records()) == len(asks))
        time.sleep(1)
    for number in range(len(asks)):
        assert within(1, lambda number=number: served.engine.records()[number]) < 3
    eventually(lambda: sum(line["hung_up"] for line in served.way.access_log()[-len(asks) :]) == len(asks))
    lines = served.way.access_log()[-len(asks) :]
    assert sorted(line["endpoint"] for line in lines) == sorted(path for path, _ in asks)


def test_what_was_seen_of_an_answer_that_was_broken_off_is_counted(served: Recorded) -> None:
    before, began, seen = len(served.way.access_log()), time.monotonic(), b""
    query = served.engine.tell(SLOW["streamed, after it"])
    with sent(served.way.port, request(CHAT + query, body(stream=True))) as client:
        while seen.count(EVENT) < 8:
            part = client.recv(65536)
            assert part, seen
            seen += part
    eventually(lambda: len(served.way.access_log()) > before)
    line, most = served.way.access_log()[-1], (time.monotonic() - began) / EVENT_SECONDS + 1
    assert line["hung_up"] and line["tokens"] == "events" and line["prompt_tokens"] is None
    assert 8 <= line["completion_tokens"] <= most, (line, most)


@pytest.fixture(
    scope="module",
    params=[True, pytest.param(False, marks=pytest.mark.long)],
    ids=["tensorzero", "no gateway"],
)
def tls(request: pytest.FixtureRequest) -> Iterator[tuple[Way, Engine]]:
    with Way(gateway=request.param, tls=True, kinds=("vllm",)) as way:
        engine = Engine(way, "vllm")
        way.start()
        yield way, engine


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("name", SLOW)
def test_over_tls_and_http_2_as_well(tls: tuple[Way, Engine], name: str, version: str) -> None:
    way, engine = tls
    engine.forget()
    command = [
        *(
            "curl",
            "--silent",
            "--insecure",
            version,
            "--connect-to",
            f"edge.test:{way.port}:127.0.0.1:{way.port}",
        ),
        *(
            "--header",
            "Content-Type: application/json",
            "--data",
            body(stream=name.startswith("streamed")).decode(),
        ),
        *("--max-time", "1.5", "--write-out", "\n%{http_version}"),
        f"https://edge.test:{way.port}{CHAT}{engine.tell(SLOW[name])}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 28, done.stderr  # out of time
    if name.startswith("streamed, a"):
        assert done.stdout.rpartition("\n")[2] == ("2" if version == "--http2" else "1.1")
    assert within(1, lambda: last(engine)) < 2.5


class Http2:
    """A client of one connection, which lives on when one of its requests is given up."""

    def __init__(self, port: int) -> None:
        self._line = tls_line(port, "h2")
        self._protocol = H2Connection()
        self._protocol.initiate_connection()
        self._said = defaultdict[int, bytes](bytes)
        self._ended = set[int]()

    def __enter__(self) -> "Http2":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def ask(self, path: str, body: bytes) -> int:
        """The number of the stream on which it is asked."""
        number = self._protocol.get_next_available_stream_id()
        head = {":method": "POST", ":path": path, ":scheme": "https", ":authority": DOMAIN}
        self._protocol.send_headers(number, [*head.items(), ("content-type", "application/json")])
        self._protocol.send_data(number, body, end_stream=True)
        self._send()
        return number

    def give_up(self, number: int) -> None:
        self._protocol.reset_stream(number, ErrorCodes.CANCEL)
        self._send()

    def hears(self, number: int, text: bytes) -> None:
        """Returns once this has come on the stream."""
        while text not in self._said[number]:
            self._listen()

    def answer(self, number: int) -> bytes:
        """The body of the answer on this stream, once it has ended."""
        while number not in self._ended:
            self._listen()
        return self._said[number]

    def _listen(self) -> None:
        raw = self._line.recv(2**16)
        assert raw, "the edge has hung up"
        for event in self._protocol.receive_data(raw):
            if isinstance(event, DataReceived):
                self._said[event.stream_id] += event.data
            if isinstance(event, StreamEnded):
                self._ended.add(event.stream_id)
        self._send()

    def _send(self) -> None:
        self._line.sendall(self._protocol.data_to_send())


def tls_line(port: int, protocol: str = "http/1.1") -> ssl.SSLSocket:
    context = any_certificate()
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), timeout=30), server_hostname=DOMAIN
    )


@contextlib.contextmanager
def asked_by_tls(port: int, path: str, body: bytes) -> Iterator[ssl.SSLSocket]:
    """A connection of HTTP/1.1 on which this was asked."""
    with tls_line(port) as line:
        line.sendall(request(path, body, host=DOMAIN))
        yield line


def hang_up(client: socket.socket, *, half: bool) -> None:
    """Closes it, or only the side on which is sent: what is answered would still be read."""
    if half:
        client.shutdown(socket.SHUT_WR)
    else:
        client.close()


@pytest.mark.parametrize("name", SLOW)
def test_a_request_that_is_given_up_alone_ends_alone(tls: tuple[Way, Engine], name: str) -> None:
    way, engine = tls
    engine.forget()
    with Http2(way.port) as client:
        other = client.ask(CHAT + engine.tell(Script(parts=((4, b"{}"),))), body())
        eventually(lambda: len(engine.records()) == 1)
        number = client.ask(CHAT + engine.tell(SLOW[name]), body(stream=name.startswith("streamed")))
        eventually(lambda: len(engine.records()) == 2)
        time.sleep(0.5)
        client.give_up(number)
        assert within(1, lambda: engine.records()[1]) < 2
        assert client.answer(other) == b"{}"


def held(way: Way) -> int:
    """How many requests wait in the proxy."""
    return int(way.status("proxy-1")["held"])


STREAM_AND_HALF = [(stream, half) for stream in (False, True) for half in (False, True)]


def test_who_hangs_up_while_held_never_reaches_an_engine(served: Recorded) -> None:
    way = served.way
    way.route(held=True)
    try:
        with contextlib.ExitStack() as stack:
            clients = [
                (stack.enter_context(sent(way.port, request(CHAT, body(stream=stream)))), half)
                for stream, half in STREAM_AND_HALF
            ]
            eventually(lambda: held(way) == len(clients))
            while clients:
                client, half = clients.pop()
                hang_up(client, half=half)
                eventually(lambda: held(way) == len(clients), 1)
    finally:
        way.route()
    time.sleep(0.3)
    assert served.engine.records() == []
    lines = way.access_log()[-len(STREAM_AND_HALF) :]
    assert [line["hung_up"] for line in lines] == [True] * len(STREAM_AND_HALF)


def test_who_hangs_up_after_a_word_never_reaches_the_engine(tls: tuple[Way, Engine]) -> None:
    """A stream that is held for long has begun, with a comment; and it ends alone on its connection."""
    way, engine = tls
    engine.forget()
    way.route(held=True)
    try:
        with Http2(way.port) as client, contextlib.ExitStack() as stack:
            whole, streamed, stays = [client.ask(CHAT, body(stream=each)) for each in (False, True, True)]
            lines = [
                (stack.enter_context(asked_by_tls(way.port, CHAT, body(stream=True))), half)
                for half in (False, True)
            ]
            eventually(lambda: held(way) == 5)
            for number in (streamed, stays):
                client.hears(number, WORD)
            for line, _ in lines:
                read_until(line, WORD)
            client.give_up(whole)
            eventually(lambda: held(way) == 4, 1)
            client.give_up(streamed)
            eventually(lambda: held(way) == 3, 1)
            while lines:
                line, half = lines.pop()
                hang_up(line, half=half)
                eventually(lambda: held(way) == 1 + len(lines), 1)
            way.route()
            answer = client.answer(stays)
    finally:
        way.route()
    assert answer.startswith(WORD) and answer.endswith(b"data: [DONE]\n\n")
    assert len(engine.records()) == 1


def test_who_hangs_up_in_the_queue_never_reaches_the_engine() -> None:
    with Way(kinds=("vllm",), at_a_time=2, tls=True) as way:
        engine = Engine(way, "vllm")
        way.start()
        path = CHAT + engine.tell(Script(parts=((6, json.dumps({"usage": None}).encode()),)))
        with (
            asked_by_tls(way.port, path, body()) as first,
            Http2(way.port) as client,
            contextlib.ExitStack() as stack,
        ):
            second = client.ask(path, body())
            eventually(lambda: len(engine.records()) == 2)
            lines = [
                (stack.enter_context(asked_by_tls(way.port, path, body(stream=stream))), half)
                for stream, half in STREAM_AND_HALF
            ]
            numbers = [client.ask(path, body(stream=stream)) for stream in (False, True)]
            eventually(lambda: held(way) == len(lines) + len(numbers))
            for number in numbers:
                client.give_up(number)
            for line, half in lines:
                hang_up(line, half=half)
            eventually(lambda: held(way) == 0, 1)
            assert first.recv(100).startswith(b"HTTP/1.1 200")
            assert json.loads(client.answer(second)) == {"usage": None}
        assert len(engine.records()) == 2
