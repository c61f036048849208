"""No request ends an engine: every field of every protocol, alone and at its extremes, on both real engines.

All of them go through the endpoint, which refuses what is known (`proxy.adaptations.REFUSED`). After those of
each field the engine has to answer a plain question, and to be the same process as before.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from components.gpu_memory import EngineKind
from proxy.protocols import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES
from tests.conformance.asking import ask
from tests.conformance.generate import FIELDS, OTHER_FIELDS
from tests.support.project import docker
from tests.support.way import Way, eventually

pytestmark = [pytest.mark.engine, pytest.mark.long]

ANSWER_SECONDS = 20
"""So long a request may take at an engine here; a plain question is asked after all of them have ended."""

USUAL: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    COMPLETIONS: {"prompt": "hi", "max_tokens": 3},
    RESPONSES: {"input": "hi", "max_output_tokens": 3},
    MESSAGES: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    COUNT_TOKENS: {"messages": [{"role": "user", "content": "hi"}]},
    EMBEDDINGS: {"input": "hi"},
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**31,
    2**63,
    1e308,
    "x",
    "x1" * 20_000,
    [],
    [7] * 2000,
    {},
    {"a": {"b": 1}},
)
"""What any field gets, whatever its type."""


def schemas() -> Iterator[dict[str, Any]]:
    """Of an answer. Those that are known to end Ollama are among them."""
    string = {"type": "string"}
    yield from (
        {"type": "string", "pattern": each}
        for each in ("^(?:a|b)$", "^*$", "^]$", "^a{5,2}$", "(", "^a{2000}$")
    )
    yield from (
        {"type": "string", "minLength": low, "maxLength": high}
        for low, high in ((5, 2), (0, 2000), (0, 10**9))
    )
    yield from (
        {"type": "array", "items": {}, "minItems": low, "maxItems": high} for low, high in ((3, 2), (0, 2000))
    )
    yield from ({"type": "integer", "minimum": low} for low in (10**15, 10**16, 2**63))
    yield {"type": "object", "properties": {"_" * 30_000: string}}
    yield {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}
    yield {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}}},
    }
    yield {"type": "object", "properties": {f"p{n}": string for n in range(399)}}
    yield {"enum": [f"v{n}" for n in range(2000)]}
    yield json.loads('{"items":' * 90 + "{}" + "}" * 90)
    yield from ({"type": "nonsense"}, {"anyOf": []}, {"type": []}, {"const": "\u0000"})


def extremes(path: str, name: str) -> Iterator[Any]:
    """Values that only this field can have."""
    if name == "response_format":
        yield from (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": each}} for each in schemas()
        )
        yield {"type": "json_object"}
    if name == "text":
        yield from ({"format": {"type": "json_schema", "name": "x", "schema": each}} for each in schemas())
    if name in ("messages", "prompt", "input"):
        texts = [
            "y" * 30_000,
            " " * 30_000,
            "-" * 9000,
            "\r\n" * 4000,
            "漢" * 9000,
            "\ud800\u0000",
            "one two " * 5000,
        ]
        yield from (text if name != "messages" else [{"role": "user", "content": text}] for text in texts)
        if name != "messages":
            yield from ([0], [10**9], [-1], [[1, 2], [3]], ["a"] * 500)
    if name == "logit_bias":
        yield from ({str(n): 100 for n in range(300)}, {"-1": 1}, {"999999999": 1}, {"1": 1e300}, {"1": "x"})
    if name in ("stop", "stop_sequences", "bad_words"):
        yield from (["a"] * 1000, [""], ["x1" * 5000], [" "])
    if name == "stop_token_ids":
        yield from ([10**9], [-1], list(range(5000)))
    if name == "structured_outputs":
        regexes = ("(a+)+$", "[ab]{1,2000}", "((a?){50}){50}", "(", ".{0,100000}")
        yield from ({"regex": each} for each in regexes)
        yield from ({"json": each} for each in schemas())
        yield from (
            {"choice": [f"v{n}" for n in range(2000)]},
            {"grammar": "root ::= root"},
            {"grammar": "("},
        )
    if name in ("tools", "functions"):
        function = {
            "name": "f",
            "parameters": {"type": "object", "properties": {"a": {"pattern": "^(?:a)$"}}},
        }
        yield from ([{"type": "function", "function": function}] * count for count in (1, 300))
        yield [{"name": "f", "input_schema": function["parameters"]}]
    if name in (
        "n",
        "best_of",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "top_k",
        "min_tokens",
        "dimensions",
    ):
        yield from (0, 2, 20, 100, 10_000)
    if name in (
        "temperature",
        "top_p",
        "min_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
    ):
        yield from (0, 1e-300, 2, 100, -100)
    if name in ("chat_template", "documents", "chat_template_kwargs"):
        yield from ("{{ 7 * 7 }}", "{% for x in range(10**9) %}a{% endfor %}", [{"text": "a"}], {"x": "y"})


def fields(path: str) -> list[str]:
    named = FIELDS if path == CHAT else OTHER_FIELDS[path]
    return [name for name in named if name.isidentifier() and name.isascii() and name.islower()]


@contextmanager
def serving(kind: EngineKind, model: str, path: str) -> Iterator[Way]:
    """A way to an engine that serves a model and answers at `path`."""
    with Way(
        gateway=False,
        kinds=(kind,),
        model=model,
        answer_seconds=ANSWER_SECONDS,
        first_token_seconds=ANSWER_SECONDS,
    ) as made:
        made.start_real_engine(kind)
        eventually(lambda: answers(made.ports[kind], path), 300, "the engine answers")
        made.start()
        yield made


@pytest.fixture(scope="module", params=["ollama", "vllm"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    with serving(request.param, "tiny", CHAT) as made:
        yield made


@pytest.fixture(scope="module", params=["ollama", "vllm"])
def embedding(request: pytest.FixtureRequest) -> Iterator[Way]:
    with serving(request.param, "tiny-embedding", EMBEDDINGS) as made:
        yield made


def answers(port: int, path: str) -> bool:
    """Whether an engine answers a plain question."""
    return ask(port, "POST", path, json.dumps({"model": "tiny", **USUAL[path]}).encode()).status == 200


def process(way: Way) -> str:
    """Since when the engine runs, and whether it does; it is started anew by nobody here."""
    return docker(
        "inspect", "--format", "{{.State.Running}} {{.State.StartedAt}}", way.container(way.engine)
    ).strip()


@pytest.mark.parametrize("path", [path for path in USUAL if path != EMBEDDINGS])
def test_no_field_ends_an_engine_or_keeps_it(way: Way, path: str) -> None:
    statuses = lives_through(way, path, CHAT)
    assert 400 in statuses or path == COUNT_TOKENS


def test_no_field_ends_an_engine_that_embeds_or_keeps_it(embedding: Way) -> None:
    assert {200, 400} <= lives_through(embedding, EMBEDDINGS, EMBEDDINGS)


def lives_through(way: Way, path: str, plain: str) -> set[int]:
    """The statuses of all requests at `path`. After those of each field the engine has to be the same
    process, and to answer a plain question."""
    before, statuses, ends = process(way), set[int](), list[str]()
    assert before.startswith("true")
    for name in fields(path):
        asked = [
            json.dumps({"model": "tiny", **USUAL[path], name: value}).encode()
            for value in (*VALUES, *extremes(path, name))
        ]
        with ThreadPoolExecutor(8) as pool:
            statuses |= {
                answer.status for answer in pool.map(lambda raw: ask(way.port, "POST", path, raw), asked)
            }
        if process(way) != before or not answers(way.port, plain):
            ends.append(name)
            break
    assert not ends, f"{way.engine} does not live through {path}: {ends}\n{way.said(way.engine)[-2000:]}"
    return statuses
