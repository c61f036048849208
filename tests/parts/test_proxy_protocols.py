"""Every protocol that clients speak goes through the proxy, and a stream that is held says so."""

import asyncio
import hashlib
import itertools
import json
from pathlib import Path

import pytest

from proxy import protocols, waiting
from proxy.answers import Events, Usage
from proxy.protocols import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    ENGINES,
    MESSAGES,
    RESPONSES,
    STREAMED,
)
from proxy.refusals import Refusal
from tests.parts.test_proxy_serving import BODY, Bench, quiet, request, run
from tests.support.recording_engine import STREAM_HEADERS, Script

assert quiet, "a fixture that is used in this module too"

KEY = "sk-of-acme"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
STREAM = b'{"model":"tiny","stream":true}'


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def content(answer: bytes) -> bytes:
    """The body of an answer, chunked or not."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return body
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        out, body = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return out


@pytest.mark.parametrize("path", ENGINES)
def test_each_endpoint_gets_the_clients_bytes_to_the_engine_at_its_own_path(
    tmp_path: Path, path: str
) -> None:
    raw = b'{ "model" : "tiny", "suffix":"\\u00e9", "x":1.0e0 }'

    async def story(bench: Bench) -> None:
        assert status(await bench.ask(request(f"{path}/?beta=true", raw))) == 200
        (record,) = bench.engine.records
        assert (record.path, record.body) == (f"{path}?beta=true", raw)

    run(story, tmp_path)


@pytest.mark.parametrize("path", ENGINES)
def test_an_error_of_the_endpoint_is_in_the_shape_of_its_protocol(tmp_path: Path, path: str) -> None:
    async def story(bench: Bench) -> None:
        for body, expected in ((b"{}", 400), (b'{"model":"none"}', 404), (b"[", 400)):
            answer = await bench.ask(request(path, body))
            assert status(answer) == expected
            said = json.loads(content(answer))
            if path in (MESSAGES, COUNT_TOKENS):
                kind = {400: "invalid_request_error", 404: "not_found_error"}[expected]
                assert (said["type"], said["error"]["type"]) == ("error", kind)
            else:
                assert said["error"]["type"] == "invalid_request_error"
            assert said["error"]["message"]

    run(story, tmp_path)


def test_a_key_may_come_in_each_of_its_headers(tmp_path: Path) -> None:
    headers = [
        f"Authorization: Bearer {KEY}",
        f"authorization: bEARER {KEY}",
        f"x-api-key: {KEY}",
        f"API-Key: {KEY}",
    ]
    wrong = [f"Authorization: Basic {KEY}", "x-api-key: another", "api-key:"]

    async def story(bench: Bench) -> None:
        bench.keys({"open": False, "keys": {DIGEST: "acme"}})
        for path in (CHAT, MESSAGES):
            for each in headers:
                assert status(await bench.ask(request(path, BODY, each))) == 200, each
            for each in wrong:
                assert status(await bench.ask(request(path, BODY, each))) == 401, each
            # a client that sends a placeholder in the one and its key in the other may pass
            both = request(path, BODY, "Authorization: Bearer none", f"x-api-key: {KEY}")
            assert status(await bench.ask(both)) == 200
        for record in bench.engine.records:
            assert not {name for name, _ in record.headers} & {"authorization", "x-api-key", "api-key"}

    run(story, tmp_path)


MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","model":"tiny","usage":'
    b'{"input_tokens":7,"output_tokens":1}}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":5}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSE = (
    b'event: response.created\ndata: {"type":"response.created","response":{"model":"tiny","usage":null}}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"model":"tiny","usage":'
    b'{"input_tokens":7,"output_tokens":5}}}\n\n'
)


@pytest.mark.parametrize("stream", [MESSAGE, RESPONSE])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_of_each_protocol_says_the_asked_name_and_what_it_used(stream: bytes, size: int) -> None:
    for asked in ("tiny", 'a/"name"'):
        events = Events(False, "tiny", asked)
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
        out = b"".join([*map(events.feed, parts), events.end()])
        assert out == stream.replace(b'"model":"tiny"', b'"model":' + json.dumps(asked).encode())
        assert events.usage == Usage(7, 5)


def test_a_completion_that_streams_is_counted_as_a_chat_is(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for path in (COMPLETIONS, RESPONSES):
            await bench.ask(request(path, STREAM))
        asked = [b"include_usage" in record.body for record in bench.engine.records]
        assert asked == [True, False]

    run(story, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WORD_SECONDS", 0.1)


async def told_to_wait(bench: Bench, raw: bytes, words: int = 1) -> asyncio.Task[bytes]:
    """Asks, and returns once the client was told to wait; the task gives all of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.outer)
    writer.write(raw)
    begun = b"".join([await reader.readuntil(waiting.WORD) for _ in range(words)])

    async def rest() -> bytes:
        try:
            return begun + await reader.read()
        finally:
            writer.close()

    return asyncio.create_task(rest())


GOOD = Script(headers=STREAM_HEADERS, parts=((0, b"data: {}\n\n"),), framing="chunked")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", STREAMED)
def test_a_stream_that_is_held_says_so_and_then_has_the_engines_events(tmp_path: Path, path: str) -> None:
    async def story(bench: Bench) -> None:
        bench.route(held_since=1.0)
        bench.engine.scripts["told"] = GOOD
        rest = await told_to_wait(bench, request(f"{path}?answer=told", STREAM), words=2)
        assert not bench.engine.records
        bench.route()
        answer = await rest
        assert status(answer) == 200 and b"text/event-stream" in answer
        said = content(answer)
        assert said.endswith(b"data: {}\n\n")
        words = said.removesuffix(b"data: {}\n\n")
        assert words.replace(waiting.WORD, b"") == b"" and words.count(waiting.WORD) >= 2

    run(story, tmp_path)


@pytest.mark.usefixtures("impatient")
def test_who_does_not_stream_or_does_not_wait_hears_nothing_before_the_answer(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        # long at an engine is not held
        bench.engine.scripts["told"] = Script(headers=STREAM_HEADERS, parts=((0.4, b"data: {}\n\n"),))
        assert waiting.WORD not in await bench.ask(request(f"{CHAT}?answer=told", STREAM))
        bench.route(held_since=1.0)
        asking = asyncio.create_task(bench.ask(request(CHAT, BODY)))
        await asyncio.sleep(0.4)
        bench.route()
        assert waiting.WORD not in await asking

    run(story, tmp_path)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("code", [200, 400])
@pytest.mark.parametrize("path", [path for path in ENGINES if path not in STREAMED])
def test_where_nothing_streams_nothing_is_said_before_the_answer_whatever_is_asked_for(
    tmp_path: Path, path: str, code: int
) -> None:
    raw = b'{"data":[],"input_tokens":7}'

    async def story(bench: Bench) -> None:
        bench.engine.scripts["told"] = Script(status=code, parts=((0, raw),))
        bench.route(held_since=1.0)
        asking = asyncio.create_task(bench.ask(request(f"{path}?answer=told", STREAM)))
        await asyncio.sleep(0.4)
        assert bench.proxy.admission.waiting == 1
        bench.route()
        answer = await asking
        assert (status(answer), content(answer)) == (code, raw)

    run(story, tmp_path)


ERRORS = {
    "of the engine": b'{"error":{"message":"no\\nsuch thing","code":"c","type":"t"}}',
    "in no form": b"<html>\r\nno</html>",
    "of nothing": b"",
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("path", "error"), [*itertools.product(STREAMED, ERRORS)])
def test_what_fails_after_a_word_ends_in_the_protocols_own_error_event(
    tmp_path: Path, path: str, error: str
) -> None:
    async def story(bench: Bench) -> None:
        bench.engine.scripts["told"] = Script(status=400, parts=((0, ERRORS[error]),))
        assert status(await bench.ask(request(f"{path}?answer=told", STREAM))) == 400, "without a word"
        bench.route(held_since=1.0)
        rest = await told_to_wait(bench, request(f"{path}?answer=told", STREAM))
        bench.route()
        answer = await rest
        assert status(answer) == 200
        check_error_event(path, content(answer), "no\nsuch thing" if error == "of the engine" else "")

    run(story, tmp_path)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", STREAMED)
def test_who_was_told_to_wait_and_waited_for_nothing_hears_it_as_an_event(tmp_path: Path, path: str) -> None:
    async def story(bench: Bench) -> None:
        bench.route(held_since=1.0)
        check_error_event(path, content(await bench.ask(request(path, STREAM))), "No engine answered")

    run(story, tmp_path, hold_seconds=1)


def check_error_event(path: str, said: bytes, text: str) -> None:
    """That a stream is words, and then one event that is an error of the protocol of `path`."""
    *words, event, rest = said.split(b"\n\n")
    assert rest == b"" and words and set(words) == {waiting.WORD.strip()}
    lines = event.decode().split("\n")
    data = json.loads(lines[-1].removeprefix("data: "))
    if path in (CHAT, COMPLETIONS):
        assert len(lines) == 1
        message = data["error"]["message"]
    else:
        assert lines[:-1] == ["event: error"] and data["type"] == "error"
        message = data["message"] if path == RESPONSES else data["error"]["message"]
    assert message and text in message


@pytest.mark.usefixtures("impatient")
def test_a_proxy_that_ends_keeps_whom_it_has_told_to_wait_and_nobody_else(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.route(held_since=1.0)
        bench.engine.scripts["told"] = GOOD
        silent = asyncio.create_task(bench.ask(request(CHAT, BODY)))
        told = await told_to_wait(bench, request(f"{CHAT}?answer=told", STREAM))
        draining = asyncio.create_task(bench.proxy.drain())
        assert await silent == b"", "another proxy is asked, by the edge"
        await asyncio.sleep(0.2)
        assert not draining.done() and not told.done()
        bench.route()
        assert content(await told).endswith(b"data: {}\n\n")
        await draining

    run(story, tmp_path)


@pytest.mark.usefixtures("impatient")
def test_a_client_that_hangs_up_after_a_word_leaves_nothing_behind(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.route(held_since=1.0)
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.outer)
        writer.write(request(CHAT, STREAM))
        await reader.readuntil(waiting.WORD)
        writer.close()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not bench.proxy.admission.waiting:
                break
        assert not bench.proxy.admission.waiting
        bench.route()
        await asyncio.sleep(0.2)
        assert not bench.engine.records

    run(story, tmp_path)


@pytest.mark.parametrize("code", range(400, 600))
def test_every_status_has_a_type_in_the_protocol_of_messages(code: int) -> None:
    said = json.loads(protocols.of(MESSAGES).error(Refusal(code, "text")))
    assert said["type"] == "error" and said["error"]["message"] == "text"
    assert said["error"]["type"].endswith("_error") or said["error"]["type"] == "request_too_large"
    assert (said["error"]["type"] in ("api_error", "overloaded_error")) is (code >= 500)


def test_paths_below_messages_speak_its_protocol_and_all_else_openais() -> None:
    assert protocols.of("/v1/messages/batches").name == "messages"
    for path in ("/", "/v1/nothing", EMBEDDINGS, "/v1/messagesx"):
        assert protocols.of(path).name == "openai"


@pytest.mark.parametrize("alias", ["qwen2.5-coder:7b", "Qwen/Qwen2.5-Coder-7B-Instruct"])
def test_a_model_answers_to_its_further_names_with_the_name_that_was_asked(
    tmp_path: Path, alias: str
) -> None:
    async def story(bench: Bench) -> None:
        bench.aliases = (alias,)
        bench.route()
        bench.engine.scripts["told"] = Script(parts=((0, b'{"model":"tiny"}'),))
        for path in ENGINES:
            raw = json.dumps({"model": alias}).encode()
            answer = await bench.ask(request(f"{path}?answer=told", raw))
            assert json.loads(content(answer)) == {"model": alias}
        assert {record.body for record in bench.engine.records} == {b'{"model": "tiny"}'}
        listed = json.loads(content(await bench.ask(request("/v1/models", b"", method="GET"))))
        assert [each["id"] for each in listed["data"]] == ["tiny", alias, "old"]
        one = await bench.ask(request(f"/v1/models/{alias}", b"", method="GET"))
        assert json.loads(content(one))["id"] == alias

    run(story, tmp_path)
