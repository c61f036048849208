"""A client that hangs up ends the work in the engine within a second, whatever it was waiting for."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded

from proxy.protocols import COMPLETIONS, MESSAGES, RESPONSES
from tests.conformance.asking import CHAT, Engine, body, request, sent, within
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
        if half:
            client.shutdown(socket.SHUT_WR)
            time.sleep(1.2)
        else:
            client.close()
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
        context = any_certificate()
        context.set_alpn_protocols(["h2"])
        line = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._line = context.wrap_socket(line, server_hostname=DOMAIN)
        self._protocol = H2Connection()
        self._protocol.initiate_connection()

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

    def answer(self, number: int) -> bytes:
        """The body of the answer on this stream, once it has ended."""
        raw = b""
        while True:
            for event in self._protocol.receive_data(self._line.recv(2**16)):
                if isinstance(event, DataReceived) and event.stream_id == number:
                    raw += event.data
                if isinstance(event, StreamEnded) and event.stream_id == number:
                    return raw
            self._send()

    def _send(self) -> None:
        self._line.sendall(self._protocol.data_to_send())


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


def test_who_hangs_up_while_held_never_reaches_an_engine(served: Recorded) -> None:
    served.way.route(held=True)
    try:
        raw = request(CHAT, body())
        with sent(served.way.port, raw), sent(served.way.port, raw) as other:
            eventually(lambda: served.way.status("proxy-1")["held"] == 2)
            other.close()
            eventually(lambda: served.way.status("proxy-1")["held"] == 1, 1)
        eventually(lambda: served.way.status("proxy-1")["held"] == 0, 1)
    finally:
        served.way.route()
    time.sleep(0.3)
    assert served.engine.records() == []
    assert [line["hung_up"] for line in served.way.access_log()[-2:]] == [True, True]


def test_who_hangs_up_in_the_queue_never_reaches_the_engine() -> None:
    with Way(kinds=("vllm",), at_a_time=2) as way:
        engine = Engine(way, "vllm")
        way.start()
        query = engine.tell(Script(parts=((3, json.dumps({"usage": None}).encode()),)))
        raw = request(CHAT + query, body())
        with sent(way.port, raw) as first, sent(way.port, raw) as second:
            eventually(lambda: len(engine.records()) == 2)
            with sent(way.port, raw), sent(way.port, raw):
                eventually(lambda: way.status("proxy-1")["held"] == 2)
            eventually(lambda: way.status("proxy-1")["held"] == 0, 1)
            assert first.recv(100).startswith(b"HTTP/1.1 200") and second.recv(100).startswith(
                b"HTTP/1.1 200"
            )
        assert len(engine.records()) == 2
