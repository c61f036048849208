"""Many or large requests at once, in proxies and an edge with the product's own limits."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.gpu_memory import EDGE_FILES, EDGE_RAM, PROXY_RAM
from proxy.route import COPY_BYTES
from tests.conformance.asking import CHAT, Engine, ask, body, read_all, request, sent
from tests.support.project import address_of
from tests.support.recording_engine import STREAM_HEADERS, Script
from tests.support.way import Way, eventually

pytestmark = pytest.mark.engine

LARGE = body(x="z1" * (15 * 2**19))
"""15 MiB: nearly as large as one may be if nothing else is set."""
HELD, UPLOADS, MANY = 20, 40, 80
"""Held, which is more than the proxy keeps; on their way; and so many that edge and proxy together have no
room for them."""


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Way, Engine]]:
    with Way(kinds=("vllm",), hold_seconds=100) as way:
        engine = Engine(way, "vllm")
        way.start()
        yield way, engine


@pytest.fixture
def way(made: tuple[Way, Engine]) -> Iterator[Way]:
    """Nothing in it has ended when the test has."""
    way, engine = made
    yield way
    engine.forget()
    assert [way.starts(name) for name in ("edge", "proxy-1")] == [(0, False)] * 2


@pytest.mark.long
def test_of_more_than_can_be_held_the_rest_is_refused_for_now_and_nothing_ends(way: Way) -> None:
    way.route(held=True)
    try:
        with ThreadPoolExecutor(HELD) as pool:
            asks = [pool.submit(ask, way.port, "POST", CHAT, LARGE) for _ in range(HELD)]

            def all_are_there() -> bool:
                return sum(each.done() for each in asks) + int(way.status("proxy-1")["held"]) == HELD

            eventually(all_are_there, 90, "what is not held is refused")
            way.route()
            answers = [each.result() for each in asks]
    finally:
        way.route()
    refused = [answer for answer in answers if answer.status != 200]
    assert 0 < len(refused) <= 5, [answer.status for answer in answers]
    assert {(answer.status, "retry-after" in answer.headers) for answer in refused} == {(503, True)}


@pytest.mark.long
def test_many_slow_uploads_leave_the_edge_its_memory_and_others_their_answers(way: Way) -> None:
    """Nobody needs a key to begin one, and a client that goes in the middle leaves nothing behind."""
    raw = request(CHAT, LARGE)
    with contextlib.ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(sent(way.port, raw[:-8]))
        began = time.monotonic()
        assert ask(way.port, "POST", CHAT, body()).status == 200 and time.monotonic() - began < 5
        assert ask(way.port, "POST", CHAT, LARGE).status == 200, "who takes longer gives way"
        assert way.most_memory("edge") < EDGE_RAM // 4
        assert way.most_memory("proxy-1") < PROXY_RAM * 3 // 4
    eventually(lambda: sum(line["hung_up"] for line in way.access_log()) == MANY)
    assert {ask(way.port, "POST", CHAT, LARGE).status for _ in range(2)} == {200}


@pytest.mark.long
def test_many_slow_uploads_end_nothing_and_hold_up_no_stream(way: Way, made: tuple[Way, Engine]) -> None:
    event = b"data: {}\n\n"
    told = Script(headers=STREAM_HEADERS, parts=((0.1, event),) * 300, framing="chunked")
    query = made[1].tell(told)
    raw = request(CHAT, LARGE, "Connection: close")
    with contextlib.ExitStack() as stack:
        stream = request(CHAT + query, body(stream=True), "Connection: close")
        reading = stack.enter_context(sent(way.port, stream))
        clients = [stack.enter_context(sent(way.port, raw[:-8])) for _ in range(UPLOADS)]
        began = time.monotonic()
        assert ask(way.port, "POST", CHAT, body()).status == 200 and time.monotonic() - began < 5
        for client in clients:
            client.sendall(raw[-8:])
        with ThreadPoolExecutor(UPLOADS) as pool:
            answers = list(pool.map(read_all, clients))
        assert {answer.split(b" ", 2)[1] for answer in answers} <= {b"200", b"503"}
        assert sum(answer.startswith(b"HTTP/1.1 200") for answer in answers) > 5
        assert read_all(reading).count(event) == 300


def test_of_more_requests_than_the_edge_takes_the_rest_waits_and_what_was_there_goes_on(
    way: Way, made: tuple[Way, Engine]
) -> None:
    event = b"data: {}\n\n"
    told = Script(headers=STREAM_HEADERS, parts=((0.1, event),) * 200, framing="chunked")
    query = made[1].tell(told)
    room = EDGE_FILES // 2
    with contextlib.ExitStack() as stack:
        stream = request(CHAT + query, body(stream=True), "Connection: close")
        reading = stack.enter_context(sent(way.port, stream))
        way.route(held=True)
        try:
            raw = request(CHAT, body(), "Connection: close")
            edge = address_of(way.container("edge"))  # Docker's forwarder has a limit of its own
            clients = [stack.enter_context(sent(8080, raw, host=edge)) for _ in range(room + 300)]
            eventually(lambda: room - 400 < int(way.status("proxy-1")["held"]), 60, "most are held")
            time.sleep(2)
            assert int(way.status("proxy-1")["held"]) <= room
        finally:
            way.route()
        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(read_all, clients))
        refused = [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200")]
        assert len(refused) <= room // 10 and all(b"\r\nRetry-After: " in answer for answer in refused), (
            refused[:3]
        )
        assert read_all(reading).count(event) == 200
    assert ask(way.port, "POST", CHAT, body()).status == 200


def test_as_many_clients_as_there_may_be_that_stop_in_the_middle_of_a_body_end_nothing(way: Way) -> None:
    raw = request(CHAT, body(x="z" * (COPY_BYTES - 2000)), "Connection: close")
    edge = address_of(way.container("edge"))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(sent(8080, raw[:-8], host=edge)) for _ in range(EDGE_FILES - 100)]
        assert ask(way.port, "POST", CHAT, body()).status == 200
        for client in clients[:50]:
            client.sendall(raw[-8:])
        assert {read_all(client).split(b" ", 2)[1] for client in clients[:50]} == {b"200"}
