"""What a client sends is what the engine gets, and its answer is what the client gets: in bytes."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.protocols import COMPLETIONS, COUNT_TOKENS, ENGINES, MESSAGES, RESPONSES, STREAMED
from tests.conformance.asking import CHAT, body, read_all, request, sent
from tests.conformance.conftest import Recorded
from tests.conformance.generate import cases, edited, for_ollama
from tests.support.recording_engine import JSON_HEADERS, STREAM_HEADERS, Script
from tests.support.way import CONTEXT, eventually

pytestmark = pytest.mark.engine


ECHOED = 2**16
"""Bodies up to this size are the engine's answer, too: so what comes back is as odd as what is sent."""


@pytest.mark.parametrize("path", ENGINES)
def test_every_request_that_is_one_arrives_in_its_own_bytes_and_nothing_else_does(
    served: Recorded, path: str
) -> None:
    wrong = []
    for case in cases(served.way.name, path):
        served.engine.forget()
        carried, echoed = case.expected == "carried", len(case.body) <= ECHOED
        query = served.engine.tell(Script(parts=((0, case.body),))) if carried and echoed else ""
        answer = served.post(case.body, f"{path}{query}")
        arrived = [each.body for each in served.engine.records()]
        if carried:
            added = for_ollama(case, path, CONTEXT) if served.engine is served.ollama else []
            good = answer.status == 200 and arrived == [edited(case.body, added)]
            good = good and (not echoed or answer.body == case.body)
        elif path in (MESSAGES, COUNT_TOKENS):
            good = (
                answer.status in (400, 404) and set(answer.anthropic) == {"type", "message"} and not arrived
            )
        else:
            good = answer.status in (400, 404) and answer.error["param"] == case.field and not arrived
        if not good:
            wrong.append((case.name, answer.status, answer.body[:200], [each[:200] for each in arrived]))
    assert not wrong, (len(wrong), wrong[:5])


@pytest.mark.parametrize("path", ENGINES)
def test_of_every_request_under_another_name_only_that_is_changed(served: Recorded, path: str) -> None:
    served.way.route(also=["old"])
    try:
        wrong = []
        for case in cases("old", path):
            if case.model_at is None:
                continue
            served.engine.forget()
            added = for_ollama(case, path, CONTEXT) if served.engine is served.ollama else []
            answer = served.post(case.body, path)
            arrived = [each.body for each in served.engine.records()]
            if answer.status != 200 or arrived != [edited(case.body, [*added, (*case.model_at, b'"tiny"')])]:
                wrong.append((case.name, answer.status, [each[:200] for each in arrived]))
        assert not wrong, (len(wrong), wrong[:5])
    finally:
        served.way.route()


def test_generated_cases_are_many_and_of_both_kinds() -> None:
    found = [case.expected for case in cases("tiny")]
    assert found.count("carried") >= 300 and found.count("refused") >= 50


def test_todays_limit_reaches_an_engine_that_does_not_know_it(served: Recorded) -> None:
    raw = b'{"model":"tiny","max_completion_tokens":64.0}'
    assert served.post(raw).status == 200
    added = b'"max_tokens":64.0,' if served.engine is served.ollama else b""
    assert served.engine.record().body == raw.replace(b"{", b"{" + added, 1)


def test_the_query_goes_on_and_so_do_the_headers_of_the_table_only(served: Recorded) -> None:
    query = served.engine.tell(Script(parts=((0, b"{}"),)))
    served.post(
        body(),
        f"{CHAT}{query}&x=%20y&x=+z",
        Authorization="Bearer a-key",
        Cookie="a=b",
        X_Tenant_ID="acme",
        Api_Key="a-key",
        X_Api_Key="a-key",
        tensorzero_otlp_traces_extra_header_x="y",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        User_Agent="a client",
        X_Other="other",
        Accept="text/event-stream",
    )
    record = served.engine.record()
    assert record.path == f"{CHAT}{query}&x=%20y&x=+z"
    headers = {name.lower(): value for name, value in record.headers}
    assert headers.pop("host") and headers.pop("content-length") == str(len(body()))
    assert headers.pop("connection", "close") == "close"
    assert headers == {
        "content-type": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "user-agent": "a client",
        "accept": "text/event-stream",
    }


def test_a_long_query_and_large_headers_are_no_reason_to_refuse(served: Recorded) -> None:
    path = f"{CHAT}?x={'x' * 20_000}"
    assert served.post(body(), path, Cookie="c" * 20_000, User_Agent="a" * 20_000).status == 200
    record = served.engine.record()
    assert record.path == path
    assert ("user-agent", "a" * 20_000) in [(name.lower(), value) for name, value in record.headers]


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_a_trailing_slash_does_no_harm(served: Recorded, slashes: str) -> None:
    for path in ENGINES:
        assert served.post(body(), path + slashes).status == 200
    assert [record.path for record in served.engine.records()] == list(ENGINES)
    assert served.ask("GET", f"/v1/models{slashes}").status == 200


def test_embeddings_go_to_the_engine_too(served: Recorded) -> None:
    raw = b'{"input": ["x"], "model": "tiny", "dimensions": 7.0}'
    answer = served.post(raw, "/v1/embeddings")
    assert json.loads(answer.body)["data"][0]["embedding"] == [0.25, 0.5]
    assert (served.engine.record().path, served.engine.record().body) == ("/v1/embeddings", raw)


ERRORS = (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504, 529)
BODIES = {
    "an object": b'{"id": 1.0, "model":"tiny", "id": 2}\n',
    "an engine's error": b'{"error":{"message":"The model `tiny` is odd","code":400}}',
    "another shape": b'{"detail": "There was an error"}',
    "text": b"Internal Server Error",
    "bytes": bytes(range(256)),
    "nothing": b"",
    "megabytes": b'{"choices": "' + b"x" * 5_000_000 + b'"}',
}


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("name", BODIES)
def test_an_answer_comes_back_in_its_own_bytes(served: Recorded, name: str, framing: str) -> None:
    raw = BODIES[name]
    half = len(raw) // 2
    headers = (*JSON_HEADERS, ("X-Request-Id", "7"), ("Server", "an engine"))
    for status in (200, 400) if framing == "length" else (200,):
        told = Script(
            status=status, headers=headers, parts=((0, raw[:half]), (0.02, raw[half:])), framing=framing
        )
        for path, answer in served.each(told, ENGINES, body()).items():
            assert (path, answer.status, answer.body == raw, answer.cut) == (path, status, True, False)
            assert answer.headers["x-request-id"] == "7"


@pytest.mark.parametrize("status", ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_engines_error_is_that_error_and_it_is_asked_once(
    served: Recorded, status: int, stream: bool
) -> None:
    raw = json.dumps({"error": {"message": f"told {status}", "code": status}}).encode()
    told = Script(status=status, headers=(*JSON_HEADERS, ("Retry-After", "7")), parts=((0, raw),))
    for path, answer in served.each(told, ENGINES, body(stream=stream)).items():
        assert (path, answer.status, answer.body) == (path, status, raw)
        assert answer.headers["retry-after"] == "7" and "x-should-retry" not in answer.headers
    time.sleep(0.3)
    assert sorted(record.path.partition("?")[0] for record in served.engine.records()) == sorted(ENGINES)
    assert not (served.ollama if served.engine is served.vllm else served.vllm).records()


def event(content: str, end: bytes = b"\n\n") -> bytes:
    said = {"model": "tiny", "choices": [{"delta": {"content": content}}]}
    return b"data: " + json.dumps(said, ensure_ascii=False).encode() + end


STREAMS = {
    "plain": [event("a"), event("b"), b"data: [DONE]\n\n"],
    "in pieces": [bytes([each]) for each in event("größe 🙂") + b"data: [DONE]\n\n"],
    "in one piece": [b"".join(event(str(n)) for n in range(500)) + b"data: [DONE]\n\n"],
    "lines of another system": [event("a", b"\r\n\r\n"), b"data: [DONE]\r\n\r\n"],
    "comments and fields": [b": hello\n\n", b"event: x\nid: 7\nretry: 3\ndata: {}\ndata: {}\n\n", event("a")],
    "no JSON": [b"data: {\n\n", b"data: \xff\n\n", b"data:\n\n"],
    "an error in it": [event("a"), b'data: {"error": {"message": "EngineCore"}}\n\n', b"data: [DONE]\n\n"],
    "no end": [event("a"), b"data: {"],
    "huge events": [event("x" * 700_000), event("y" * 700_000)],
    "blank lines": [b"\n\n\n", event("a"), b"\n\n"],
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_stream_comes_back_in_its_own_bytes(served: Recorded, name: str, wants_usage: bool) -> None:
    parts = tuple((0.001, part) for part in STREAMS[name])
    told = Script(headers=STREAM_HEADERS, parts=parts, framing="chunked")
    fields = {"stream_options": {"include_usage": True}} if wants_usage else {}
    for path, answer in served.each(told, STREAMED, body(stream=True, **fields)).items():
        assert (path, answer.status, answer.cut) == (path, 200, False)
        assert answer.body == b"".join(STREAMS[name])
        assert answer.headers["content-type"] == STREAM_HEADERS[0][1]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "fields", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}]
)
def test_the_usage_that_a_client_did_not_ask_for_is_counted_and_not_given(
    served: Recorded, fields: dict[str, object], path: str
) -> None:
    plain = served.post(body(stream=True, **fields), path)
    assert json.loads(served.engine.record().body)["stream_options"] == {"include_usage": True}
    wanted = served.post(body(stream=True, stream_options={"include_usage": True}), path)
    assert b'"usage"' not in plain.body and plain.body.endswith(b"data: [DONE]\n\n")
    assert plain.body.count(b"data:") == wanted.body.count(b"data:") - 1

    def counted() -> list[tuple[object, ...]]:
        lines = served.way.access_log()[-2:]
        return [(line["prompt_tokens"], line["completion_tokens"], line["tokens"]) for line in lines]

    eventually(lambda: counted() == [(7, 5, "reported")] * 2, 10, "both are in the log")


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_the_usage_that_a_protocol_says_anyway_is_counted_and_given(served: Recorded, path: str) -> None:
    raw = body(stream=True, max_output_tokens=16)
    answer = served.post(raw, path)
    assert served.engine.record().body == raw and b'"usage": {' in answer.body
    eventually(lambda: served.way.access_log()[-1]["endpoint"] == path)
    line = served.way.access_log()[-1]
    assert (line["prompt_tokens"], line["completion_tokens"], line["tokens"]) == (7, 5, "reported")


def test_events_come_when_the_engine_makes_them(served: Recorded) -> None:
    parts = tuple((0.2, event(str(number))) for number in range(5))
    query = served.engine.tell(Script(headers=STREAM_HEADERS, parts=parts, framing="chunked"))

    def times(path: str) -> list[float]:
        found, seen = list[float](), b""
        with sent(served.way.port, request(path + query, body(stream=True), "Connection: close")) as client:
            while part := client.recv(65536):
                seen += part
                while len(found) < seen.count(b"data:"):
                    found.append(time.monotonic())
        return found

    with ThreadPoolExecutor(len(STREAMED)) as pool:
        for path, came in zip(STREAMED, pool.map(times, STREAMED), strict=True):
            assert len(came) == 5 and 0.6 < came[-1] - came[0] < 1.5, (path, came)


def test_bodies_in_chunks_and_those_that_are_announced_first_arrive_whole(served: Recorded) -> None:
    raw = body(x="y1" * 50_000)
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(raw[at : at + 777]), raw[at : at + 777]) for at in range(0, len(raw), 777)
    )
    in_chunks = request(CHAT, b"", "Transfer-Encoding: chunked", "Connection: close") + chunks + b"0\r\n\r\n"
    with sent(served.way.port, in_chunks) as client:
        assert read_all(client).startswith(b"HTTP/1.1 200")
    head = request(CHAT, b"", f"Content-Length: {len(raw)}", "Expect: 100-continue", "Connection: close")
    with sent(served.way.port, head) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        client.sendall(raw)
        assert read_all(client).startswith(b"HTTP/1.1 200")
    assert [record.body for record in served.engine.records()] == [raw, raw]


def test_who_sends_slowly_is_waited_for_and_holds_up_nobody(served: Recorded) -> None:
    raw = request(CHAT, body(x="slow"), "Connection: close")
    with sent(served.way.port, raw[:-5]) as client:
        for byte in raw[-5:]:
            began = time.monotonic()
            assert served.post(body()).status == 200
            assert time.monotonic() - began < 1
            client.sendall(bytes([byte]))
        assert read_all(client).startswith(b"HTTP/1.1 200")


def test_many_large_requests_at_once_arrive_whole_or_are_refused_for_now(served: Recorded) -> None:
    bodies = [body(x=f"{number}" + "z1" * 4_500_000) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(served.post, bodies))
    good = [raw for raw, answer in zip(bodies, answers, strict=True) if answer.status == 200]
    assert len(good) == 12
    assert sorted(record.body for record in served.engine.records()) == sorted(good)


SAYS_ITS_MODEL = {CHAT: 5, COMPLETIONS: 5, RESPONSES: 2, MESSAGES: 1}
"""How often a stream of the recording engine does."""


def test_a_name_of_before_is_still_answered_in_both_directions(served: Recorded) -> None:
    served.way.route(also=["old"])
    error = b'{"type":"error","error":{"message":"The model `tiny` does not exist."}}'
    told = served.engine.tell(Script(status=404, parts=((0, error),)))
    limits = {"max_tokens": 3, "max_output_tokens": 3}
    raw = json.dumps({"model": "old", "x": {"model": "old"}, **limits}).encode()
    try:
        for path in ENGINES:
            served.engine.forget()
            answer = json.loads(served.post(raw, path).body)
            assert served.engine.record().body == raw.replace(b'"old"', b'"tiny"', 1)
            assert answer.get("model") == (None if path == COUNT_TOKENS else "old"), path
            assert served.post(raw, path + told).body == error.replace(b"tiny", b"old"), path
        for path, times in SAYS_ITS_MODEL.items():
            stream = served.post(b'{"model":"old","stream":true}', path).body
            assert stream.count(b'"model": "old"') == times and b"tiny" not in stream, path
        names = [model["id"] for model in json.loads(served.ask("GET", "/v1/models").body)["data"]]
        assert names == ["tiny", "old"]
    finally:
        served.way.route()


def test_nothing_of_what_is_asked_or_answered_is_written_down(served: Recorded) -> None:
    query = served.engine.tell(Script(parts=((0, b'{"a-private-answer": 1}'),)))
    before = len(served.way.access_log())
    for path in ENGINES:
        raw = body(x="a-private-prompt")
        served.post(raw, f"{path}{query}&a-private-query", Authorization="Bearer a-private-key")
    eventually(lambda: len(served.way.access_log()) >= before + len(ENGINES))
    for name in ("edge", "proxy-1"):
        assert served.way.said(name) and "a-private" not in served.way.said(name)
