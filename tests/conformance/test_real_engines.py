"""Both real engines: through the endpoint they answer as they do when asked directly, in bytes."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from components.gpu_memory import EngineKind
from proxy.answers import whole
from proxy.protocols import COMPLETIONS, COUNT_TOKENS, MESSAGES, RESPONSES
from tests.conformance.asking import CHAT, Answer, ask, body, request, sent
from tests.support.way import CONTEXT, Way, cpu_seconds, eventually

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

USUAL: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "Count.", "max_tokens": 8, "temperature": 0},
    RESPONSES: {"input": "Count.", "max_output_tokens": 8, "temperature": 0},
    MESSAGES: {"messages": [USER], "max_tokens": 8, "temperature": 0},
    COUNT_TOKENS: {"messages": [USER]},
}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"type": "function", "name": "weather", "parameters": WEATHER}
ABLE = {"name": "weather", "input_schema": WEATHER}
CALLED = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"x"}'}
USED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "x"}}
IMAGE = {"type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}


def items(*said: dict[str, Any]) -> dict[str, Any]:
    return {"input": list(said)}


OTHER_FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    COMPLETIONS: {
        "nothing more": {},
        "two prompts": {"prompt": ["Count.", "Say."]},
        "a prompt of tokens": {"prompt": [1, 2, 3]},
        "a prompt a number": {"prompt": 7},
        "an empty prompt": {"prompt": ""},
        "no prompt": {"prompt": None},
        "suffix": {"prompt": "def f(", "suffix": "return x"},
        "fill in the middle": {"prompt": "<|fim_prefix|>def f(<|fim_suffix|>return x<|fim_middle|>"},
        "echo": {"echo": True},
        "logprobs 2": {"logprobs": 2},
        "n 2": {"n": 2},
        "best_of below n": {"n": 2, "best_of": 1},
        "stop": {"stop": ["a"]},
        "max_tokens a text": {"max_tokens": "3"},
        "temperature a text": {"temperature": "hot"},
        "stream": {"stream": True},
        "stream, usage": {"stream": True, "stream_options": {"include_usage": True}},
        "stream, logprobs": {"stream": True, "logprobs": 2},
        "stream, refused": {"stream": True, "temperature": "hot"},
    },
    RESPONSES: {
        "nothing more": {},
        "items": items(USER),
        "parts": items({"role": "user", "content": [{"type": "input_text", "text": "Count."}]}),
        "image": items({"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]}),
        "instructions": {"instructions": "Be brief."},
        "an answer before": items(USER, {"role": "assistant", "content": "1, 2,"}, USER),
        "tools": {"tools": [FUNCTION]},
        "tools required": {"tools": [FUNCTION], "tool_choice": "required"},
        "tools named": {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "weather"}},
        "tools none": {"tools": [FUNCTION], "tool_choice": "none"},
        "tool result": items(
            USER, CALLED, {"type": "function_call_output", "call_id": "call_1", "output": "7 °C"}
        ),
        "json_schema": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
        "format nonsense": {"text": {"format": {"type": "nonsense"}}},
        "an answer that is not kept": {"previous_response_id": "resp_1"},
        "an answer that is none": {"previous_response_id": "1"},
        "reasoning": {"reasoning": {"effort": "low"}},
        "of OpenAI's own": {"store": False, "metadata": {"a": "b"}, "truncation": "auto", "user": "me"},
        "logprobs": {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        "an input a number": {"input": 7},
        "no input": {"input": None},
        "temperature a text": {"temperature": "hot"},
        "stream": {"stream": True},
        "stream, tools required": {"stream": True, "tools": [FUNCTION], "tool_choice": "required"},
        "stream, refused": {"stream": True, "temperature": "hot"},
    },
    MESSAGES: {
        "nothing more": {},
        "system a text": {"system": "Be brief."},
        "system parts": {"system": [{"type": "text", "text": "Be brief."}]},
        "parts": messages({"role": "user", "content": [{"type": "text", "text": "a"}]}),
        "image": messages({"role": "user", "content": [{"type": "image", "source": IMAGE}]}),
        "assistant last": messages(USER, {"role": "assistant", "content": "1, 2,"}),
        "another role": messages({"role": "critic", "content": "Bad."}),
        "stop_sequences": {"stop_sequences": ["a"]},
        "stop_sequences a text": {"stop_sequences": "a"},
        "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "tools": {"tools": [ABLE]},
        "tools any": {"tools": [ABLE], "tool_choice": {"type": "any"}},
        "tools named": {"tools": [ABLE], "tool_choice": {"type": "tool", "name": "weather"}},
        "tools none": {"tools": [ABLE], "tool_choice": {"type": "none"}},
        "tool result": messages(
            USER,
            {"role": "assistant", "content": [USED]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "7 °C"}],
            },
        ),
        "top_k and top_p": {"top_k": 3, "top_p": 0.5},
        "unknown fields": {"x": {"y": [1]}, "metadata": {"user_id": "me"}},
        "no messages": messages(),
        "messages a text": {"messages": "hi"},
        "no max_tokens": {"max_tokens": None},
        "temperature a text": {"temperature": "hot"},
        "stream": {"stream": True},
        "stream, tools any": {"stream": True, "tools": [ABLE], "tool_choice": {"type": "any"}},
        "stream, refused": {"stream": True, "temperature": "hot"},
    },
    COUNT_TOKENS: {
        "nothing more": {},
        "system and tools": {"system": "Be brief.", "tools": [ABLE]},
        "no messages": messages(),
        "messages a text": {"messages": "hi"},
    },
}
"""What is added to a request of `USUAL`. Each has a limit, without which Ollama itself would not end soon."""

START = b'"messages":[{"role":"user","content":"Count."}],"max_tokens":8,"temperature":0'
REQUESTS: dict[str, tuple[str, bytes]] = {
    **{
        name: (CHAT, body(**{"max_tokens": 8, "temperature": 0, "messages": [USER], **fields}))
        for name, fields in FIELDS.items()
    },
    **{
        f"{path.removeprefix('/v1/')}: {name}": (
            path,
            json.dumps({"model": "tiny", **USUAL[path], **fields}).encode(),
        )
        for path, rows in OTHER_FIELDS.items()
        for name, fields in rows.items()
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
    (rb'"((?:[a-z]+_)?id)":\s*"[^"]*"', rb'"\1":""'),
    (rb'"(created|created_at|completed_at)":\s*[0-9]+', rb'"\1":0'),
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
    with Way(first_token_seconds=110) as way:  # of an answer that comes whole, the first byte is the last
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


def compared(way: Way, kind: EngineKind, name: str, asked: str) -> tuple[int, str]:
    """The status of one of `REQUESTS`, and in what its answer to a client that asks for the model as `asked`
    differs from what the engine itself says.

    What differs is asked again: an engine that has read a prompt before may round otherwise, and vLLM puts
    tokens into one event that came while it was busy. What the endpoint does to an answer, it does each time.
    """
    path, raw = REQUESTS[name]
    renamed = raw.replace(f'"{way.name}"'.encode(), f'"{asked}"'.encode())
    for _ in range(TRIES):
        direct = seen(ask(way.ports[kind], "POST", path, raw))
        through = seen(ask(way.port, "POST", path, renamed))
        said = direct[3] if asked == way.name else OWN_NAME.sub(asked.encode(), direct[3])
        expected = (direct[0], direct[1], direct[2], said)
        if expected == through:
            return direct[0], ""
    return direct[0], where(expected, through)


OWN_NAME = re.compile(rb"registry\.ollama\.ai/library/tiny:latest|\btiny\b")
"""How an engine may say the model's name, in answers in which it has no other meaning."""


def test_the_endpoint_answers_as_the_engine_does(way: Way, kind: EngineKind) -> None:
    said = {name: compared(way, kind, name, way.name) for name in REQUESTS}
    different = {name: each for name, (_, each) in said.items() if each}
    print(f"{len(said) - len(different)} of {len(said)} alike")
    assert not different
    assert {status for status, _ in said.values()} >= {200, 400}


NAMED = (
    *("nothing more", "stream", "another role", "no content", "messages a text", "format nonsense", "image"),
    *("reasoning_effort", "temperature a text", "a prompt beyond the context", "stream, refused"),
    *("top_logprobs 21", "a schema that is none", "embeddings of a text"),
    *(
        f"{path.removeprefix('/v1/')}: {name}"
        for path, rows in OTHER_FIELDS.items()
        for name in rows
        if name in ("nothing more", "suffix", "image", "reasoning", "thinking", "stream", "stream, refused")
        or name.endswith((" a number", " a text", "another role", "nonsense", "is none"))
    ),
)
"""Those of `REQUESTS` that are refused, and one good answer of each kind."""


def test_under_another_name_that_is_all_that_differs_in_answers_and_errors(
    way: Way, kind: EngineKind
) -> None:
    way.route(kind, also=["asked"])
    said = {name: compared(way, kind, name, "asked") for name in NAMED}
    different = {name: each for name, (_, each) in said.items() if each}
    assert not different
    assert sum(status >= 400 for status, _ in said.values()) > 10


def test_an_answer_of_ollama_without_a_limit_is_as_long_as_the_context_whatever_the_prompt(
    started: Way,
) -> None:
    """It forgets the oldest as it goes on; vLLM ends where prompt and answer fill the context."""
    started.gateway = False
    started.route("ollama")
    long = {"role": "user", "content": "one two " * 300}
    asks: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [long]},
        COMPLETIONS: {"prompt": long["content"]},
        RESPONSES: {"input": long["content"]},
        MESSAGES: {"messages": [long], "max_tokens": 100_000},
    }
    with ThreadPoolExecutor(len(asks)) as pool:
        raws = [json.dumps({"model": "tiny", **fields}).encode() for fields in asks.values()]
        answers = list(pool.map(lambda path, raw: ask(started.port, "POST", path, raw), asks, raws))
    for path, answer in zip(asks, answers, strict=True):
        assert answer.status == 200, answer
        used = whole(answer.body)
        assert used.prompt and CONTEXT // 2 < used.prompt < CONTEXT, (path, used)
        assert used.completion == CONTEXT, (path, used)


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
