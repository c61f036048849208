"""Both real engines: through the endpoint they answer as they do when asked directly, in bytes."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from components.gpu_memory import EngineKind
from tests.conformance.asking import CHAT, Answer, ask, body, request, sent
from tests.support.way import Way, cpu_seconds, eventually

pytestmark = pytest.mark.engine

USER = {"role": "user", "content": "Count."}
TOOL = {"type": "function", "function": {"name": "weather"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":1}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


def schema(**more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, **more}}


def messages(*said: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(said)}


FIELDS: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "system first": messages({"role": "system", "content": "Be brief."}, USER),
    "system in the middle": messages(USER, {"role": "system", "content": "Be brief."}, USER),
    "developer": messages({"role": "developer", "content": "Be brief."}, USER),
    "another role": messages({"role": "critic", "content": "Bad."}, USER),
    "assistant last": messages(USER, {"role": "assistant", "content": "1, 2,"}),
    "a message's name": messages({**USER, "name": "me"}),
    "parts": messages({"role": "user", "content": [{"type": "text", "text": "a"}]}),
    "image": messages(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]},
    ),
    "no content": messages({"role": "user"}),
    "tool result": messages(
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"t": "7 \\u00b0C"}'},
    ),
    "orphan tool result": messages(USER, {"role": "tool", "tool_call_id": "x", "content": "7"}),
    "unicode": messages({"role": "user", "content": "größe 🙂 \ud800 \u0000"}),
    "no messages": messages(),
    "messages a text": {"messages": "hi"},
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {"response_format": schema()},
    "json_schema strict": {"response_format": schema(strict=True)},
    "a schema that is none": {"response_format": schema(schema={"type": "nonsense"})},
    "format text": {"response_format": {"type": "text"}},
    "format nonsense": {"response_format": {"type": "nonsense"}},
    "logprobs": {"logprobs": True},
    "top_logprobs 3": {"logprobs": True, "top_logprobs": 3},
    "top_logprobs 21": {"logprobs": True, "top_logprobs": 21},
    "top_logprobs alone": {"top_logprobs": 3},
    "logprobs 5": {"logprobs": 5},
    "logit_bias": {"logit_bias": {"5": 100}},
    "logit_bias no number": {"logit_bias": {"x": 1}},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.5},
    "min_p": {"min_p": 0.1},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "both penalties": {"frequency_penalty": 1.5, "presence_penalty": 1.5},
    "chat_template_kwargs": {"chat_template_kwargs": {"enable_thinking": False}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "seed 7": {"seed": 7},
    "seed -1": {"seed": -1},
    "seed huge": {"seed": 10**30},
    "n 2": {"n": 2},
    "n 0": {"n": 0},
    "max_tokens 64.0": {"max_tokens": 64.0},
    "max_tokens a text": {"max_tokens": "3"},
    "both limits": {"max_tokens": 6, "max_completion_tokens": 6},
    "stop a text": {"stop": "a"},
    "stop a list": {"stop": ["a", "b"]},
    "stop null": {"stop": None},
    "stop five": {"stop": list("abcde")},
    "tools": {"tools": [TOOL]},
    "tools required": {"tools": [TOOL], "tool_choice": "required"},
    "tools named": {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
    "tools none": {"tools": [TOOL], "tool_choice": "none"},
    "unknown fields": {"x": {"y": [1e300, -0.0, None]}, "best_of": 1, "keep_alive": "1m"},
    "of OpenAI's own": {"user": "me", "metadata": {"a": "b"}, "store": False},
    "temperature a text": {"temperature": "hot"},
    "temperature 3": {"temperature": 3, "seed": 7},
    "prompt_logprobs": {"prompt_logprobs": 2},
    "structured_outputs": {"structured_outputs": {"regex": "[ab]{3}"}},
    "min_tokens": {"min_tokens": 3},
    "bad_words": {"bad_words": ["a"]},
    "a prompt beyond the context": messages({"role": "user", "content": "one two " * 700}),
    "stream_options alone": {"stream_options": {"include_usage": True}},
    "stream": {"stream": True},
    "stream, usage": {"stream": True, "stream_options": {"include_usage": True}},
    "stream, usage null": {"stream": True, "stream_options": {"include_usage": None}},
    "stream, options null": {"stream": True, "stream_options": None},
    "stream, options a text": {"stream": True, "stream_options": "usage"},
    "stream, usage in each": {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    },
    "stream, usage in each alone": {"stream": True, "stream_options": {"continuous_usage_stats": True}},
    "stream, usage in each, but no": {
        "stream": True,
        "stream_options": {"include_usage": False, "continuous_usage_stats": 1},
    },
    "stream 1": {"stream": 1},
    "STREAM": {"STREAM": True},
    "stream, json_schema": {"stream": True, "response_format": schema()},
    "stream, logprobs": {"stream": True, "logprobs": True, "top_logprobs": 2},
    "stream, n 2": {"stream": True, "n": 2},
    "stream, stop": {"stream": True, "stop": "a"},
    "stream, refused": {"stream": True, "temperature": "hot"},
    "stream, tools": {"stream": True, "tools": [TOOL]},
}
"""What is added to a request of eight tokens at temperature 0."""

START = b'"messages":[{"role":"user","content":"Count."}],"max_tokens":8,"temperature":0'
REQUESTS: dict[str, tuple[str, bytes]] = {
    **{
        name: (CHAT, body(**{"max_tokens": 8, "temperature": 0, "messages": [USER], **fields}))
        for name, fields in FIELDS.items()
    },
    "spaces": (CHAT, b' \n{ "model" :\t"tiny" ,' + START + b" }\r\n"),
    "the model escaped": (CHAT, b'{"model":"t\\u0069ny",' + START + b"}"),
    "the model twice": (CHAT, b'{"model":"tiny",' + START + b',"model":"tiny"}'),
    "a field twice": (CHAT, b'{"model":"tiny",' + START + b',"max_tokens":3}'),
    "embeddings of a text": ("/v1/embeddings", b'{"model": "tiny", "input": "hello"}'),
    "embeddings of two": ("/v1/embeddings", b'{"model": "tiny", "input": ["a", "b"], "dimensions": 8}'),
    "embeddings in base64": ("/v1/embeddings", b'{"model":"tiny","input":"a","encoding_format":"base64"}'),
}

VARIES = (
    (rb'"id":\s*"[^"]*"', b'"id":""'),
    (rb'"created":\s*[0-9]+', b'"created":0'),
    (rb',"system_fingerprint":"[^"]*"', b""),
)
"""What no two answers of an engine have in common. vLLM says its fingerprint in a stream's usage if that is
asked for, else in the last event with a token; asked for by the proxy alone, the client gets neither."""


TRIES = 5
Seen = tuple[int, str | None, bool, bytes]


def seen(answer: Answer) -> Seen:
    """An answer without what differs between any two."""
    raw = answer.body
    for pattern, instead in VARIES:
        raw = re.sub(pattern, instead, raw)
    return answer.status, answer.headers.get("content-type"), answer.cut, raw


@pytest.fixture(scope="module")
def started() -> Iterator[Way]:
    with Way() as way:
        for kind in way.kinds:
            way.start_real_engine(kind)
        eventually(lambda: all(answers(way, kind) for kind in way.kinds), 300, "both engines answer")
        way.start()
        yield way


def where(direct: Seen, through: Seen) -> str:
    """In what two answers differ, and of their bodies only the place from which they do."""
    if direct[:3] != through[:3]:
        return f"{direct[:3]} {direct[3][:200]!r}, through the endpoint {through[:3]} {through[3][:200]!r}"
    pairs = enumerate(zip(direct[3], through[3], strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(direct[3]), len(through[3])))
    here = slice(max(0, place - 60), place + 120)
    return f"{direct[3][here]!r}, through the endpoint {through[3][here]!r}"


def answers(way: Way, kind: EngineKind) -> bool:
    return ask(way.ports[kind], "POST", CHAT, body(max_tokens=1)).status == 200


@pytest.fixture(params=["vllm", "ollama"])
def kind(request: pytest.FixtureRequest) -> EngineKind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[True, False], ids=["tensorzero", "no gateway"])
def way(request: pytest.FixtureRequest, started: Way, kind: EngineKind) -> Way:
    """The way to the engine of this kind."""
    started.gateway = request.param
    started.start_gateway(kind)
    started.route(kind)
    return started


def test_the_endpoint_answers_as_the_engine_does(way: Way, kind: EngineKind) -> None:
    """What differs is asked again: an engine that has read a prompt before may round otherwise, and vLLM puts
    tokens into one event that came while it was busy. What the endpoint does to an answer, it does each time.
    """
    different, statuses = dict[str, str](), set()
    for name, (path, raw) in REQUESTS.items():
        for _ in range(TRIES):
            direct, through = (seen(ask(port, "POST", path, raw)) for port in (way.ports[kind], way.port))
            if direct == through:
                break
        else:
            different[name] = where(direct, through)
        statuses.add(direct[0])
    print(f"{len(REQUESTS) - len(different)} of {len(REQUESTS)} alike")
    assert not different
    assert statuses >= {200, 400}


def figure(way: Way, name: str) -> float:
    """One of vLLM's own metrics."""
    text = ask(way.ports["vllm"], "GET", "/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("kind", ["vllm"], indirect=True)
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_who_hangs_up_stops_vllm_within_a_second(way: Way, streamed: bool) -> None:
    made = figure(way, "vllm:generation_tokens_total")
    raw = request(CHAT, body(stream=streamed, min_tokens=900, max_tokens=900))
    with sent(way.port, raw) as client:
        eventually(lambda: figure(way, "vllm:num_requests_running") == 1)
        eventually(lambda: figure(way, "vllm:generation_tokens_total") > made)
        if streamed:
            assert client.recv(12) == b"HTTP/1.1 200"
    eventually(lambda: figure(way, "vllm:num_requests_running") == 0, 1)
    in_all = figure(way, "vllm:generation_tokens_total")
    assert in_all < made + 900
    time.sleep(1)
    assert figure(way, "vllm:generation_tokens_total") == in_all


@pytest.mark.parametrize("kind", ["ollama"], indirect=True)
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_who_hangs_up_stops_ollama_within_a_second(way: Way, streamed: bool) -> None:
    """Without the limit that the endpoint adds, it would go on for ten times its context."""
    way.route(routing=re.sub(r"(?m)^context = .*\n", "", way.routing("ollama", gateway=way.gateway)))
    engine = way.container("ollama")
    with sent(way.port, request(CHAT, body(stream=streamed, max_tokens=None))) as client:
        if streamed:
            assert client.recv(12) == b"HTTP/1.1 200"
        used = cpu_seconds(engine)
        eventually(lambda: cpu_seconds(engine) > used + 0.5)
    time.sleep(1)
    used = cpu_seconds(engine)
    time.sleep(1)
    assert cpu_seconds(engine) - used < 0.1
