"""What may end, and what is lost by it: what had bytes of its answer is cut, and nothing else."""

import contextlib
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.protocols import STREAMED
from proxy.waiting import WORD
from tests.conformance.asking import CHAT, Answer, Engine, ask, body, read_all, read_until, request, sent
from tests.support import fast_engine
from tests.support.load import LoadGenerator, Outcome, bad
from tests.support.project import address_of, docker
from tests.support.recording_engine import STREAM_HEADERS, Script
from tests.support.way import Way, eventually

pytestmark = pytest.mark.engine

FAST = Path(fast_engine.__file__)
GATEWAYS = [
    pytest.param(True, id="tensorzero"),
    pytest.param(False, id="no gateway", marks=pytest.mark.long),
]
KILLS = 12
"""With the gateway, and as many without."""


@pytest.fixture(scope="module", params=GATEWAYS)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """With test engines that write 100 tokens a second, of which `vllm` serves."""
    with Way(gateway=request.param) as way:
        way.start_engine("vllm", FAST, FAST_TOKENS="0.01")
        way.start_engine("ollama", FAST, FAST_TOKENS="0.01")
        way.start()
        yield way


def load_on(way: Way, clients: int = 8) -> LoadGenerator:
    return LoadGenerator(f"{way.url}/v1", way.name, clients=clients)


def newest(way: Way) -> str:
    return f"proxy-{way.proxies}"


def lost_otherwise(load: LoadGenerator) -> list[Outcome]:
    """What was lost although no byte of its answer had come."""
    return [each for each in bad(load.outcomes) if not (each.streamed and each.cut)]


def test_a_proxy_that_is_killed_loses_what_had_bytes_of_its_answer_and_nothing_else(way: Way) -> None:
    made, cut = random.Random(12), list[int]()
    with load_on(way) as load:
        load.wait_for_answers(16)
        for number in range(KILLS):
            time.sleep(made.random() * 0.9)
            way.kill(newest(way))
            load.wait_for_answers(10)
            cut.append(sum(each.cut for each in load.outcomes))
            if number % 6 == 5:  # Docker doubles its wait before each restart
                docker("restart", "--time", "30", way.container(newest(way)))
                load.wait_for_answers(10)
    lost = bad(load.outcomes)
    assert not lost_otherwise(load), load.summary()
    assert len(lost) <= KILLS * 8 and len(load.outcomes) > KILLS * 10
    assert len(set(cut)) > KILLS // 2, f"most kills have to meet a stream: {cut}"


def test_a_proxy_that_is_killed_in_a_hold_loses_streams_that_had_a_word_and_nothing_else(way: Way) -> None:
    way.route(held=True)
    try:
        with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
            raw = request(CHAT, body(stream=True), "Connection: close")
            streams = [stack.enter_context(sent(way.port, raw)) for _ in range(2)]
            whole = [pool.submit(ask, way.port, "POST", CHAT, body(max_tokens=1)) for _ in range(2)]
            eventually(lambda: way.status(newest(way)).get("held") == 4)
            for client in streams:
                read_until(client, WORD)
            young = stack.enter_context(sent(way.port, raw))
            eventually(lambda: way.status(newest(way)).get("held") == 5)
            way.kill(newest(way))
            for client in streams:
                assert not read_all(client).endswith(b"0\r\n\r\n"), "only its end says that it was cut"
            eventually(lambda: way.status(newest(way)).get("held") == 3)
            way.route()
            assert [each.result().status for each in whole] == [200, 200]
            assert read_all(young).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    finally:
        way.route()


LARGE = body(x="z1" * 2**20, max_tokens=1)
"""2 MiB, of which the edge has no copy."""


def test_a_proxy_that_is_killed_has_large_requests_and_their_clients_are_told_to_try_again(way: Way) -> None:
    """One that waits, and one that is still being sent, by a client that reads nothing before it has."""
    way.route(held=True)
    try:
        raw = request(CHAT, LARGE, "Connection: close")
        with ThreadPoolExecutor(2) as pool, sent(way.port, raw[: len(LARGE) // 2]) as client:
            small = pool.submit(ask, way.port, "POST", CHAT, body(max_tokens=1))
            large = pool.submit(ask, way.port, "POST", CHAT, LARGE)
            eventually(lambda: way.status(newest(way)).get("held") == 2)
            way.kill(newest(way))
            with contextlib.suppress(ConnectionError):
                client.sendall(raw[len(LARGE) // 2 :])
            said, answer = read_all(client), large.result()
            assert said.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in said, said[:300]
            assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
            assert "retry-after" in answer.headers
            eventually(lambda: way.status(newest(way)).get("held") == 1)
            way.route()
            assert small.result().status == 200
            assert ask(way.port, "POST", CHAT, LARGE).status == 200
    finally:
        way.route()


def test_a_proxy_that_is_replaced_answers_large_requests_itself(way: Way) -> None:
    """Also one that is still being sent when it is told to end."""
    way.route(held=True)
    try:
        raw, old = request(CHAT, LARGE, "Connection: close"), newest(way)
        with ThreadPoolExecutor(2) as pool, sent(way.port, raw[: len(LARGE) // 2]) as client:
            large = pool.submit(ask, way.port, "POST", CHAT, LARGE)
            eventually(lambda: way.status(old).get("held") == 1)
            way.start_proxy()
            stopping = pool.submit(docker, "stop", "--time", "60", way.container(old))
            eventually(lambda: way.status(old).get("draining"))
            client.sendall(raw[len(LARGE) // 2 :])
            eventually(lambda: way.status(old).get("held") == 2)
            way.route()
            assert large.result().status == 200
            assert read_all(client).startswith(b"HTTP/1.1 200 ")
            stopping.result()
            docker("rm", way.container(old))
    finally:
        way.route()


def test_a_proxy_that_takes_over_cuts_nobody(way: Way) -> None:
    with load_on(way, 16) as load:
        for _ in range(2):
            load.wait_for_answers(16)
            old = newest(way)
            way.start_proxy()
            docker("stop", "--time", "60", way.container(old))
            docker("rm", way.container(old))
            load.wait_for_answers(32)
    assert not load.bad, load.summary()


def test_two_proxies_answer_for_one_another(way: Way) -> None:
    """The gateway asks either of them, and the one that has the request is told."""
    old = newest(way)
    new = way.start_proxy()
    with load_on(way, 16) as load:
        load.wait_for_answers(200)
    assert not load.bad, load.summary()
    assert all(len(way.access_log(name)) > 20 for name in (old, new))
    docker("rm", "-f", way.container(old))


def test_a_gateway_that_is_killed_in_the_middle_of_streams_cuts_nobody(way: Way) -> None:
    if not way.gateway:
        pytest.skip("there is none")
    with load_on(way, 16) as load:
        for _ in range(3):
            load.wait_for_answers(16)
            name = way.container(f"gateway-{way.gateways}")
            docker("kill", name)
            time.sleep(0.7)
            docker("start", name)
            load.wait_for_answers(32)
    assert not load.bad, load.summary()


def test_a_change_of_the_engine_and_of_the_gateway_cuts_nobody(way: Way) -> None:
    with load_on(way, 16) as load:
        for engine in ("ollama", "vllm"):
            load.wait_for_answers(16)
            old = f"gateway-{way.gateways}"
            way.start_gateway(engine)
            way.route(engine)
            if way.gateway:
                docker("stop", "--time", "60", way.container(old))
            load.wait_for_answers(16)
    assert not load.bad, load.summary()
    assert {line["engine"] for line in way.access_log(newest(way))} == {s.name for s in way.specs.values()}


def test_a_hold_ends_for_everybody_at_once_and_nobody_is_dropped(way: Way) -> None:
    way.route(held=True)
    raw = body(max_tokens=1)
    with ThreadPoolExecutor(300) as pool:
        asks = [pool.submit(ask, way.port, "POST", CHAT, raw) for _ in range(300)]
        eventually(lambda: way.status(newest(way)).get("held") == 300)
        assert way.status(newest(way))["running"] == {}
        began = time.monotonic()
        way.route()
        assert {each.result().status for each in asks} == {200}
    assert time.monotonic() - began < 20


@pytest.fixture(params=GATEWAYS)
def recorded(request: pytest.FixtureRequest) -> Iterator[tuple[Way, Engine]]:
    with Way(gateway=request.param, kinds=("vllm",), at_a_time=len(STREAMED)) as way:
        engine = Engine(way, "vllm")
        way.start()
        yield way, engine


def chat(way: Way, query: str, stream: bool = False) -> Answer:
    return ask(way.port, "POST", CHAT + query, body(stream=stream))


GOOD = Script(parts=((0, b'{"usage": null}'),))


def each_path(way: Way, engine: Engine, told: Script, stream: bool) -> dict[str, tuple[Answer, int]]:
    """What a request for each of `STREAMED`, all at once, is answered, and how often its engine was asked."""
    engine.forget()
    queries = {path: engine.tell(told) for path in STREAMED}
    with ThreadPoolExecutor(len(queries)) as pool:
        asks = {
            path: pool.submit(ask, way.port, "POST", path + query, body(stream=stream))
            for path, query in queries.items()
        }
    came = [record.path.partition("?")[0] for record in engine.records()]
    return {path: (each.result(), came.count(path)) for path, each in asks.items()}


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_at_an_engine_that_ended_is_asked_again_once(
    recorded: tuple[Way, Engine], stream: bool
) -> None:
    way, engine = recorded
    gone = Script(status=None, parts=((0.1, b""),))
    half = Script(parts=((0, b"{"),), cut=True)
    headless = Script(headers=STREAM_HEADERS, parts=((0, b""),), framing="chunked", cut=True)
    for ended in (gone, headless if stream else half):
        for path, (answer, asked) in each_path(way, engine, replace(ended, then=GOOD), stream).items():
            assert (path, answer.status, answer.body, asked) == (path, 200, GOOD.parts[0][1], 2)
        for path, (answer, asked) in each_path(way, engine, ended, stream).items():
            assert (path, answer.status, asked) == (path, 502, 2)
            assert answer.headers["x-should-retry"] == "false"


def test_a_stream_that_breaks_off_is_cut_for_the_client_too(recorded: tuple[Way, Engine]) -> None:
    way, engine = recorded
    told = Script(
        headers=STREAM_HEADERS,
        parts=((0, b"data: {}\n\n"), (0.2, b"data: {}\n\n")),
        framing="chunked",
        cut=True,
    )
    for path, (answer, asked) in each_path(way, engine, told, True).items():
        assert (path, answer.cut, answer.status, asked) == (path, True, 200, 1)
    lines = way.access_log()[-len(STREAMED) :]
    assert {line["endpoint"] for line in lines if line["cut"]} == set(STREAMED)


def test_an_engine_that_is_not_there_yet_is_waited_for(recorded: tuple[Way, Engine]) -> None:
    way, engine = recorded
    docker("stop", "--time", "0", way.container("vllm"))
    with ThreadPoolExecutor(8) as pool:
        asks = [pool.submit(chat, way, "") for _ in range(8)]
        time.sleep(2)
        way.route(held=True)
        docker("start", way.container("vllm"))
        engine.ready()
        way.route()
        assert [each.result().status for each in asks] == [200] * 8


def test_no_more_are_at_the_engine_than_it_works_on_and_the_rest_follows_in_order(
    recorded: tuple[Way, Engine],
) -> None:
    way, engine = recorded
    query = engine.tell(Script(parts=((0.25, b"{}"),)))
    way.route(held=True)
    with ThreadPoolExecutor(24) as pool:
        asks = []
        for number in range(24):
            asks.append(pool.submit(ask, way.port, "POST", CHAT + query, body(x=number)))
            eventually(lambda: way.status("proxy-1").get("held") == len(asks))
        way.route()
        most = 0
        while not all(each.done() for each in asks):
            most = max(most, sum(not each.ended for each in engine.records()))
            time.sleep(0.02)
    records = engine.records()
    assert most == 4 and len(records) == 24
    # those that are let in one after the other may overtake one another on their way
    came = [json.loads(record.body)["x"] for record in records]
    assert all(abs(number - at) < 4 for at, number in enumerate(came)), came


def test_an_engine_that_gives_no_first_byte_in_time_is_a_504_and_is_left() -> None:
    with Way(kinds=("vllm",), first_token_seconds=1) as way:
        engine = Engine(way, "vllm")
        way.start()
        answer = chat(way, engine.tell(Script(parts=((30, b"{}"),))))
        assert (answer.status, answer.error["code"]) == (504, "timeout")
        eventually(lambda: engine.records()[0].hung_up_after_seconds is not None, 2)
        assert len(engine.records()) == 1


def test_an_ask_that_no_client_waits_for_is_not_carried(recorded: tuple[Way, Engine]) -> None:
    """Neither one with an id that is not there, nor one for an engine that does not serve."""
    way, engine = recorded
    inner = f"http://{way.container('proxy-1')}:8001"
    script = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "r = u.Request(sys.argv[1], b'{}', {'x-changeover-id': sys.argv[2]} if sys.argv[2] else {})\n"
        "try: print(u.urlopen(r).status)\n"
        "except e.HTTPError as error: print(error.code)"
    )

    def inside(path: str, number: str) -> str:
        return docker("exec", way.container("proxy-1"), "python3", "-c", script, inner + path, number).strip()

    name = way.specs["vllm"].name
    address = address_of(way.container("proxy-1"))
    assert inside(f"/{name}{CHAT}", f"{address}.0123") == "503"
    assert inside(f"/{name}{CHAT}", "192.0.2.1.0123") == "404"  # never to an address that is no proxy's
    assert engine.records() == []
    assert inside(f"/{name}{CHAT}", "") == "200"  # an operator's, or the switch's
    assert engine.record().body == b"{}"


def test_a_client_that_reads_nothing_has_its_answer_as_long_as_it_is_there(
    recorded: tuple[Way, Engine],
) -> None:
    way, engine = recorded
    event = b"data: " + b"x" * 100_000 + b"\n\n"
    told = Script(headers=STREAM_HEADERS, parts=((0.0, event),) * 200, framing="chunked")
    raw = request(CHAT + engine.tell(told), body(stream=True), "Connection: close")
    with sent(way.port, raw) as client:
        time.sleep(3)
        assert chat(way, "").status == 200  # nobody else is held up
        seen = 0
        while part := client.recv(1 << 20):
            seen += part.count(b"data: ")
    assert seen == 200
