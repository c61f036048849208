"""What is known to end an engine is refused before it is asked, and what only looks like it is not."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy import adaptations, harm
from proxy.adaptations import PROMPT_BYTES, REFUSED, refused
from proxy.harm import DEPTH, NAME_BYTES, OPTIONAL, RUN, has_long_run, pattern_fault, schema_fault
from proxy.protocols import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, ENGINES, MESSAGES, RESPONSES
from proxy.reading import read
from tests.parts.test_proxy_protocols import content
from tests.parts.test_proxy_serving import Bench, request, run
from tests.parts.test_proxy_serving import quiet as quiet

STRING = {"type": "string"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def nested(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


# Each was given to Ollama 0.17.4's own C++: what it converts in the process that serves ended that,
ENDS = ["^(?:a|b)$", "^*$", "^(*)$", "^{2}$", "^+a$", "^(?=a)$", "^(?i)a$", "^((?:a)b)$", "^a(?b)$"]
# or went on for ever, there or in its runner,
HANGS = ["^]$", "^a}$", "^a]b$", "^}$", "^[a]]$", "^a{5,2}$", "^(ab){3,1}$"]
# or became a grammar that ended the runner;
ENDS_ITS_RUNNER = ["^\\d+$", "^[\\w]$", "^[a\\.]$", "^a\\/b$", "^a|*$", "^a{2001}$", "^\\$", "^a\\$", "^()*$"]
ENDS_ITS_RUNNER += ["^(|a)+$", "^(a|){2,}$", "^a?*$", "^é+$", "^\\x41{2}$", "^\\u12$", "^a\0b$"]
# and these it took, or refused in words.
FINE = ["", "^", "^$", "$", "a", "(?:a)", "^a$", "^(a|b)$", "^a{2000}$", "^[a$", "^(a$", "^a)$", "^a)]$"]
FINE += [
    "^a{,3}$",
    "^(a?){20}$",
    "^((a?)*)*$",
    "^[]$",
    "^[*+?{}(]$",
    "^[\\]*]$",
    "^\\*\\(\\?\\{\\]\\}$",
    "^\\(?a$",
]
FINE += [
    "^.*$",
    "^(a*)*$",
    "^()?$",
    "^a{2,5}$",
    "^a+?b$",
    "^a\\.b$",
    "^[0-9]{4}-[0-9]{2}$",
    "^\\n*é$",
    "^\\x41$",
]


@pytest.mark.parametrize("pattern", [*ENDS, *HANGS, *ENDS_ITS_RUNNER])
def test_a_pattern_that_ends_ollama_or_keeps_it_is_found(pattern: str) -> None:
    assert pattern_fault(pattern)
    for schema in (of(a={"type": "string", "pattern": pattern}), {"anyOf": [{}, {"pattern": pattern}]}):
        found = schema_fault(json.dumps({"json_schema": {"schema": schema}}).encode())
        assert found is not None and "pattern" in found


@pytest.mark.parametrize("pattern", FINE)
def test_a_pattern_that_it_takes_or_refuses_by_itself_is_its_own_business(pattern: str) -> None:
    assert pattern_fault(pattern) is None
    assert schema_fault(json.dumps(of(a={"type": "string", "pattern": pattern})).encode()) is None


CYCLE = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
HARMFUL: dict[str, Any] = {
    "a long name": of(**{"_" * (NAME_BYTES + 1): STRING}),
    "a long name of few letters": of(**{"漢" * (NAME_BYTES // 3 + 1): STRING}),
    "a long reference": {"$ref": "#/" + "_" * NAME_BYTES},
    "a reference to itself": {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "references in a ring": {"allOf": [{"$ref": "#/$defs/a"}], "$defs": CYCLE},
    "a reference into an array": {"allOf": [{"$ref": "#/allOf/0"}]},
    "many optional properties": {"properties": {f"p{n}": STRING for n in range(OPTIONAL + 1)}},
    "lengths": {"type": "string", "minLength": 5, "maxLength": 2},
    "items": {"type": "array", "items": {}, "minItems": 3, "maxItems": 2},
    "a large minimum": {"type": "integer", "minimum": 9007199254740992},
    "a large minimum as a float": {"type": "integer", "minimum": 1e18},
    "a large exclusive minimum": {"type": "integer", "exclusiveMinimum": 10**18},
    "a small maximum": {"type": "integer", "maximum": -(10**16)},
    "a length without bound": {"type": "string", "maxLength": 5000},
    "a negative length": {"type": "string", "minLength": -1},
    "items without bound": {"type": "array", "items": {}, "maxItems": 10**6},
    "no type": {"type": []},
    "nothing of any": {"anyOf": []},
    "more names than fit": {"properties": {f"property_{n}": STRING for n in range(300)}},
    "more levels than fit": json.loads('{"items":' * 90 + "{}" + "}" * 90),
    "deep": None,
    "too large": {"description": "x" * harm.SCHEMA_BYTES},
}
HARMLESS: dict[str, Any] = {
    "usual": of(a=STRING, b={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 10**18}}),
    "a property called pattern": of(pattern={"type": "string", "pattern": "^a$"}, minLength=STRING),
    "a tree": {"$ref": "#/$defs/a", "$defs": {"a": of(x={"$ref": "#/$defs/a"})}},
    "references in a row": {"$ref": "#/a", "a": {"$ref": "#/b"}, "b": STRING},
    "a reference to nothing": {"allOf": [{"$ref": "#/x/0/y"}, {"$ref": "https://x/y#/a"}, {"$ref": 7}]},
    "required properties": of(**{f"property_{n}": STRING for n in range(300)}),
    "some optional properties": {"properties": {f"property_{n}": STRING for n in range(100)}},
    "some levels": json.loads('{"items":' * 40 + "{}" + "}" * 40),
    "equal lengths": {"minLength": 2, "maxLength": 2, "minItems": 0, "maxItems": 0},
    "lengths of other types": {"minLength": "5", "maxLength": 2, "minItems": True, "maxItems": 0},
    "large bounds on both sides": {"minimum": 10**17, "maximum": 10**18},
    "bounds": {"minimum": -(10**18), "exclusiveMinimum": 10**15},
    "no schema": ["json_schema", None, 7, "pattern"],
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_schema_that_ends_ollama_or_keeps_it_is_found(name: str) -> None:
    schema = nested(DEPTH) if name == "deep" else json.dumps(HARMFUL[name])
    for raw in (f'{{"json_schema":{{"schema":{schema}}}}}', f'{{"format":{{"SCHEMA":{schema}}}}}'):
        assert schema_fault(raw.encode())


@pytest.mark.parametrize("name", HARMLESS)
def test_any_other_schema_is_left_to_the_engine(name: str) -> None:
    assert schema_fault(json.dumps({"schema": HARMLESS[name]}).encode()) is None


def test_of_what_comes_twice_both_are_looked_at() -> None:
    twice = b'{"schema":{"pattern":"^*$"},"schema":{"pattern":"^a$","pattern":"^a$"}}'
    assert schema_fault(twice)


def test_depth_and_numbers_without_end_are_no_error_of_ours() -> None:
    assert schema_fault(nested(5000).encode()) == f"more than {DEPTH} levels"
    assert schema_fault(b'{"minimum":1' + b"0" * 5000 + b"}") is None


def row(links: int, link: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """A schema whose references lead from one to the next, so often."""
    defs = {f"a{n}": link(f"#/$defs/a{n + 1}") for n in range(links)}
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{links}": STRING}}


ENDLESS = "more levels than can be counted, by what each $ref leads to"
SLOW: dict[str, tuple[dict[str, Any], str | None]] = {
    "references in a long row": (row(1500, lambda to: {"$ref": to}), ENDLESS),
    "references in a long row, each below another": (row(1200, lambda to: {"items": {"$ref": to}}), ENDLESS),
    "references to the beginning of a row": (
        row(700, lambda to: {"$ref": to}) | {"anyOf": [{"$ref": "#/$defs/a0"}] * 1000},
        None,
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_schema_is_looked_through_quickly_whatever_its_references_are(name: str) -> None:
    """It is done in the event loop. With the cube of their number, 1,500 took twenty seconds."""
    schema, expected = SLOW[name]
    raw = json.dumps({"json_schema": {"schema": schema}}, separators=(",", ":")).encode()
    began = time.process_time()
    assert schema_fault(raw) == expected
    assert len(raw) < harm.SCHEMA_BYTES and time.process_time() - began < 1


def test_a_schema_is_looked_through_once_however_often_it_is_called_one() -> None:
    raw = b'{"schema":' * (DEPTH - 3) + b'{"enum":[' + b"1," * 30_000 + b"1]}" + b"}" * (DEPTH - 3)
    began = time.process_time()
    assert schema_fault(raw) is None
    assert len(raw) < harm.SCHEMA_BYTES and time.process_time() - began < 1


CLASSES = ("a", "é", "漢", "-", "_", "🙂", "\u0301", " ", "\n", "\t", "\r\n")


@pytest.mark.parametrize("text", CLASSES)
def test_a_run_of_one_class_is_found_wherever_it_begins(text: str) -> None:
    count = RUN // len(text)
    for before in ("", "x1 " * 1000 + "1", "y1" * 2345 + ",1"):
        for quoted in (json.dumps, lambda said: json.dumps(said, ensure_ascii=False)):
            raw = b'{"x":"","y":[' + quoted(before + text * count + "1").encode() + b"]}"
            assert has_long_run(raw)
            almost = quoted(before + text * (count - 1) + "1").encode()
            assert not has_long_run(b'{"x":"","y":[' + almost + b"]}")


@pytest.mark.parametrize("seed", range(40))
def test_a_run_among_words_is_found_wherever_it_is(seed: int) -> None:
    """Where there are words no run is looked for in most of a body."""
    chance = random.Random(seed)
    words = "some words, and more " * 2000
    run = chance.choice(CLASSES)
    count = RUN // len(run)
    for length, there in ((count, True), (count - 1, False)):
        before, after = (words[: chance.randrange(30_000)] + end for end in ("1", ""))
        text = before + run * length + "1" + after
        raw = json.dumps({"x": [words, {"y": text}]}, ensure_ascii=chance.random() < 0.5).encode()
        assert has_long_run(raw) is there, (run, length)


def test_what_is_long_and_broken_is_no_run() -> None:
    chance = random.Random(16)
    words = " ".join(chance.choice(("größe", "a1", "--", "\n", "漢字")) for _ in range(200_000))
    for text in (
        words,
        "1" * 1_000_000,
        "a1" * 100_000,
        "- " * 100_000,
        "\\n" * 100_000,
        '"' * 3000 + "a" * 8000,
    ):
        assert not has_long_run(json.dumps({"prompt": text}).encode())
    assert not has_long_run(json.dumps([["ab" * 2000] * 100]).encode())


def test_a_large_body_is_looked_through_quickly() -> None:
    texts = ("x" * (RUN - 1) + "1") * 400, "word and word, " * 300_000
    for text in texts:
        raw = json.dumps({"prompt": text}).encode()
        began = time.process_time()
        assert not has_long_run(raw)
        assert time.process_time() - began < 2


def asked(path: str, kind: str, **fields: Any) -> tuple[str | None, str] | None:
    raw = json.dumps({"model": "tiny", **fields}).encode()
    found = refused(raw, read(raw), path, kind)
    return None if found is None else (found.param, found.message)


BAD = of(a={"pattern": "^(?:a)$"})


@pytest.mark.parametrize("path", ENGINES)
def test_each_row_is_of_its_engine_and_of_its_protocol(path: str) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": BAD}}
    responses = {"format": {"type": "json_schema", "schema": BAD}}
    rows: dict[str, dict[str, Any]] = {
        "response_format": {"response_format": format_},
        "Response_Format": {"Response_Format": format_},
        "text": {"text": responses},
        "run": {"x": "a" * RUN},
        "prompt_logprobs": {"prompt_logprobs": 0, "x": " 1" * PROMPT_BYTES},
        "echo": {"echo": True, "logprobs": 1, "x": " 1" * PROMPT_BYTES},
        "echo of a chat": {"echo": 1, "logprobs": True, "top_logprobs": 1, "x": " 1" * PROMPT_BYTES},
    }
    found = {
        (name, kind) for name, row in rows.items() for kind in ("ollama", "vllm") if asked(path, kind, **row)
    }
    expected = {
        CHAT: {("response_format", "ollama"), ("Response_Format", "ollama")},
        RESPONSES: {("text", "ollama")},
    }.get(path, set())
    if path != COUNT_TOKENS:
        expected |= {("run", "ollama")}
    if path in (CHAT, COMPLETIONS):
        expected |= {(name, "vllm") for name in ("prompt_logprobs", "echo", "echo of a chat")}
    assert found == expected


def test_a_refusal_names_the_field_and_what_is_in_it() -> None:
    said = asked(CHAT, "ollama", response_format={"json_schema": {"schema": BAD}})
    assert (
        said is not None and said[0] == "response_format" and "'^(?:a)$'" in said[1] and "ollama" in said[1]
    )
    for path, field in (
        (CHAT, "messages"),
        (COMPLETIONS, "prompt"),
        (EMBEDDINGS, "input"),
        (MESSAGES, "messages"),
    ):
        run_ = asked(path, "ollama", x="-" * RUN)
        assert run_ is not None and run_[0] == field


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_logprobs": None, "x": " 1" * PROMPT_BYTES},
        {"prompt_logprobs": 5},
        {"echo": True, "x": " 1" * PROMPT_BYTES},
        {"echo": False, "logprobs": 5, "x": " 1" * PROMPT_BYTES},
        {"logprobs": 5, "top_logprobs": 5, "x": " 1" * PROMPT_BYTES},
        {"response_format": {"type": "json_object"}, "text": "^(?:a)$", "x": "a" * RUN},
    ],
)
def test_vllm_gets_what_it_survives(fields: dict[str, Any]) -> None:
    assert asked(COMPLETIONS, "vllm", **fields) is None


def test_every_row_says_its_reason_and_a_known_engine() -> None:
    for row in REFUSED:
        assert row.reason and set(row.engines) <= {"ollama", "vllm"} and set(row.paths) <= set(ENGINES)
    assert {row.field for row in REFUSED} >= {"response_format", "text", "prompt_logprobs", "messages"}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES])
def test_the_proxy_refuses_it_in_the_protocols_own_shape_and_asks_no_engine(
    tmp_path: Path, path: str
) -> None:
    async def story(bench: Bench) -> None:
        bench.kind = "ollama"
        bench.route()
        for stream in (False, True):
            raw = json.dumps({"model": "tiny", "x": "a" * RUN, "stream": stream}).encode()
            answer = await bench.ask(request(path, raw))
            assert answer.startswith(b"HTTP/1.1 400 ")
            error = json.loads(content(answer))["error"]
            assert error["type"] == "invalid_request_error" and "without a break" in error["message"]
            assert path == MESSAGES or (error["param"], error["code"]) == (
                adaptations.PROMPTS[path],
                "invalid_request",
            )
        assert not bench.engine.records
        bench.kind = "vllm"
        bench.route()
        await bench.ask(request(path, json.dumps({"model": "tiny", "x": "a" * RUN}).encode()))
        assert len(bench.engine.records) == 1

    run(story, tmp_path)
