"""What the proxy changes in a request and an answer, row by row, and that it changes nothing else."""

import itertools
import json
import random
import time
from typing import Any

import pytest

from proxy import adaptations, answers, gateway
from proxy.adaptations import adds_usage, body, headers_back, headers_in, renamed
from proxy.answers import Events, Usage
from proxy.protocols import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES
from proxy.reading import members, read

CONTEXT = 1024


def sent(raw: bytes, kind: str, model: str = "tiny", path: str = CHAT) -> bytes:
    return body(raw, read(raw), path, kind, model, CONTEXT)


def test_a_body_is_carried_as_it_is() -> None:
    raw = b' { "model" : "tiny", "n": 1.0, "n": 1e400, "stop": "\\u0061", "max_tokens" : 7 }\n'
    for kind in ("ollama", "vllm"):
        assert sent(raw, kind) is raw


def test_only_the_model_is_replaced_where_the_engine_calls_it_otherwise() -> None:
    raw = b'{"x": {"model": "a"}, "model": "a", "y": "\\"model\\": \\"a\\"", "model":"a"}'
    expected = b'{"x": {"model": "a"}, "model": "a", "y": "\\"model\\": \\"a\\"", "model":"tiny"}'
    assert sent(raw, "vllm") == expected


Fields = dict[str, Any]
WANTED: Fields = {"stream_options": {"include_usage": True}}

ROWS: list[tuple[str, Fields, Fields | None, Fields | None]] = [
    # what a client sends, and what is to be in it for Ollama and for vLLM; None: nothing is changed
    ("a stream", {"stream": True}, WANTED, WANTED),
    (
        "a stream with null",
        {"stream": True, "stream_options": None},
        WANTED,
        WANTED,
    ),
    (
        "a stream with nothing",
        {"stream": True, "stream_options": {}},
        WANTED,
        WANTED,
    ),
    (
        "a stream with other options",
        {"stream": True, "stream_options": {"a": [1]}},
        {"stream_options": {"include_usage": True, "a": [1]}},
        {"stream_options": {"include_usage": True, "a": [1]}},
    ),
    (
        "a stream that does not want it",
        {"stream": True, "stream_options": {"include_usage": False, "a": 1}},
        {"stream_options": {"include_usage": True, "a": 1}},
        {"stream_options": {"include_usage": True, "a": 1}},
    ),
    (
        "a stream that wants it in each event, but does not want it",
        {"stream": True, "stream_options": {"continuous_usage_stats": True, "include_usage": False}},
        {"stream_options": {"continuous_usage_stats": False, "include_usage": True}},
        {"stream_options": {"continuous_usage_stats": False, "include_usage": True}},
    ),
    (
        "a stream that wants it in each event alone, in a word",
        {"stream": True, "stream_options": {"continuous_usage_stats": "Yes"}},
        {"stream_options": {"continuous_usage_stats": False, "include_usage": True}},
        {"stream_options": {"continuous_usage_stats": False, "include_usage": True}},
    ),
    (
        "a stream with an option that the engine refuses",
        {"stream": True, "stream_options": {"continuous_usage_stats": "perhaps"}},
        {"stream_options": {"continuous_usage_stats": "perhaps", "include_usage": True}},
        {"stream_options": {"continuous_usage_stats": "perhaps", "include_usage": True}},
    ),
    ("a stream that wants it", {"stream": True, "stream_options": {"include_usage": True}}, None, None),
    (
        "a stream that wants it in each event",
        {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        None,
        None,
    ),
    ("a stream with nonsense", {"stream": True, "stream_options": 7}, None, None),
    ("no stream", {"stream": False}, None, None),
    ("a stream in words", {"stream": "true"}, None, None),
]


@pytest.mark.parametrize(("fields", "ollama", "vllm"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
@pytest.mark.parametrize("last", [False, True])
def test_each_row_of_the_table_adds_what_it_says_and_no_more(
    fields: Fields, ollama: Fields | None, vllm: Fields | None, last: bool
) -> None:
    fields = {"max_tokens": 7, **fields}
    whole = {**fields, "model": "tiny"} if last else {"model": "tiny", **fields}
    raw = json.dumps(whole).encode()
    for kind, added in (("ollama", ollama), ("vllm", vllm)):
        expected = {**whole, **(added or {})}
        assert json.loads(sent(raw, kind)) == expected
        assert (sent(raw, kind) is raw) == (added is None)
        assert sent(raw, kind, path="/v1/embeddings") is raw
    assert adds_usage(raw, read(raw)) is bool(vllm)


YES = ("true", '"usage"', '"yes"', "1", "0", "[]", '{"include_usage":false}')
"""Values of `include_usage` by which a client has asked for it, or for something that the engine refuses."""
NO = ("false", "null")
IN_EACH = ("true", "1", "1.0", "1e0", "10e-1", '"true"', '"T"', '"On"', '"y"', '"1"', '"\\u0074rue"')
"""Values of `continuous_usage_stats` by which a usage comes in each event."""
IN_NONE = (
    *("false", "null", "0", "2", "-1", '"perhaps"', '""', "[true]", '{"a":1}'),
    *("1" * 5000, "[" * 500 + "]" * 500),
)
OTHER_OPTIONS = (
    *('"a":[1,{"include_usage":false}]', '"include_usage ":false', '"INCLUDE_USAGE":null', '"":{}'),
    *('"stream_options":{"include_usage":true}', '"b":1e400', '"c":"include_usage"', r'"\ud800":"\""'),
)
KEYS = ('"include_usage"', r'"include\u005fusage"')
NO_OPTIONS = ("7", "true", "false", '"usage"', "[]", '[{"include_usage":true}]', "0.0", '""')
"""What is not `stream_options`: the engine says so itself."""


def options(chance: random.Random) -> tuple[str, str, bool]:
    """An object as a client may write it, as both engines get it, and whether it asks for the usage."""
    members = list[tuple[str, str, str]]()  # key, value, and the value that there is to be
    asks = chance.random() < 0.3
    for _ in range(chance.choice((0, 0, 1, 2))):
        members.append((chance.choice(KEYS), chance.choice((*YES, *NO)), "true"))
    if asks or members:  # the last one counts
        members.append((chance.choice(KEYS), chance.choice(YES if asks else NO), "true"))
    says = bool(members)
    for _ in range(chance.choice((0, 0, 1, 2))):
        value = chance.choice((*IN_EACH, *IN_NONE))
        becomes = "false" if value in IN_EACH else value
        members.insert(chance.randrange(len(members) + 1), ('"continuous_usage_stats"', value, becomes))
    for other in chance.sample(OTHER_OPTIONS, chance.choice((0, 0, 1, 2))):
        key, _, value = other.partition(":")
        members.insert(chance.randrange(len(members) + 1), (key, value, value))
    white = [chance.choice(("", "", " ", "\n\t")) for _ in range(4)]

    def written(pairs: list[tuple[str, str]]) -> str:
        inside = f"{white[0]},{white[1]}".join(f"{key}{white[2]}:{white[1]}{value}" for key, value in pairs)
        return f"{white[3]}{inside}{white[0]}"

    said = written([(key, value) for key, value, _ in members])
    if asks:
        return f"{{{said}}}", f"{{{said}}}", True
    added = "" if says else '"include_usage":true' + ("," if members else "")
    return f"{{{said}}}", f"{{{added}{written([(key, value) for key, _, value in members])}}}", False


@pytest.mark.parametrize("seed", range(5))
def test_whatever_stream_options_say_the_usage_comes_once_and_the_rest_stays(seed: int) -> None:
    """What has to come out is put together beside what goes in, and read by nobody."""
    chance, asked = random.Random(seed), 0
    for _ in range(300):
        said, becomes, asks = options(chance)
        if chance.random() < 0.3:
            asks = chance.random() < 0.7
            said = chance.choice(NO_OPTIONS) if asks else "null"
            becomes = said if asks else '{"include_usage":true}'
        asked += asks
        before = chance.choice(("", '"stream_options":{"include_usage":true},', '"stream":false,'))
        rest = ['"model":"tiny"', f'"max_tokens":{chance.choice((7, 7.0))}', '"x":{"stream_options":{}}']
        members = [before + '"stream" : true', *chance.sample(rest, 3)]
        at = chance.randrange(1, 5)
        raw, expected = (
            ("{ " + ",".join([*members[:at], f'"stream_options": {each}', *members[at:]]) + "}\n").encode()
            for each in (said, becomes)
        )
        for path, kind in itertools.product((CHAT, COMPLETIONS), ("ollama", "vllm")):
            assert sent(raw, kind, path=path) == expected, raw
        for path in (RESPONSES, MESSAGES, EMBEDDINGS):
            assert sent(raw, "vllm", path=path) is raw
        assert adds_usage(raw, read(raw)) == (not asks), raw
        gets = json.loads(expected, parse_int=str)["stream_options"]
        assert asks or (gets["include_usage"] is True and gets.get("continuous_usage_stats") is not True)
    assert 50 < asked < 250


ENDLESS: tuple[Any, ...] = (None, -1, -(2**63), 0, CONTEXT + 1, 2**63 - 1)
LEFT: tuple[Any, ...] = (1, CONTEXT, 7.0, 1e300, "7", True, [], 2**63, -(2**63) - 1)
ENDS: list[tuple[Fields, Fields]] = [
    # what a client sends, and what Ollama gets beside it or in its place; nothing: it gets the client's bytes
    ({}, {"max_tokens": CONTEXT}),
    *[({"max_tokens": value}, {"max_tokens": CONTEXT}) for value in ENDLESS],
    *[({"max_tokens": value}, {}) for value in LEFT],
]
CHATS: list[tuple[Fields, Fields]] = [
    ({"max_completion_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5, "max_tokens": 7}, {}),
    ({"max_completion_tokens": 5, "max_tokens": None}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5, "max_tokens": -1}, {"max_tokens": CONTEXT}),
    ({"max_completion_tokens": None}, {"max_tokens": CONTEXT}),
    ({"max_completion_tokens": None, "max_tokens": None}, {"max_tokens": CONTEXT}),
    ({"max_completion_tokens": -1}, {"max_tokens": CONTEXT}),
    ({"max_completion_tokens": 10**6}, {"max_tokens": CONTEXT}),
    ({"max_completion_tokens": 64.0}, {"max_tokens": 64.0}),
    ({"max_output_tokens": 5}, {"max_tokens": CONTEXT}),
]


def renamed_to(name: str, fields: Fields) -> Fields:
    return {name if each == "max_tokens" else each: value for each, value in fields.items()}


@pytest.mark.parametrize(
    ("path", "fields", "added"),
    [
        *[(CHAT, *row) for row in (*ENDS, *CHATS)],
        *[(COMPLETIONS, *row) for row in ENDS],
        (COMPLETIONS, {"max_completion_tokens": 5}, {"max_tokens": CONTEXT}),
        *[
            (RESPONSES, renamed_to("max_output_tokens", fields), renamed_to("max_output_tokens", added))
            for fields, added in ENDS
        ],
        (RESPONSES, {"max_tokens": 5}, {"max_output_tokens": CONTEXT}),
        # it has to be there, and positive: Ollama refuses the rest by itself
        *[(MESSAGES, {"max_tokens": end}, {"max_tokens": CONTEXT}) for end in (CONTEXT + 1, 10**18)],
        *[(MESSAGES, {"max_tokens": end}, {}) for end in (1, CONTEXT, 0, -1, None, "7", 7.0, 2**63)],
        (MESSAGES, {}, {}),
        *[(path, {"max_tokens": end}, {}) for path in (COUNT_TOKENS, EMBEDDINGS) for end in (-1, None)],
    ],
)
def test_no_answer_of_ollama_is_longer_than_the_context(path: str, fields: Fields, added: Fields) -> None:
    for whole in ({"model": "tiny", **fields}, {**fields, "model": "tiny"}):
        raw = json.dumps(whole).encode()
        got = sent(raw, "ollama", path=path)
        assert json.loads(got) == {**whole, **added} and (got is raw) == (not added)
        ((_, (start, end)),) = [each for each in members(got, 0) if each[0] == "model"]
        assert got[start:end] == b'"tiny"'
        assert sent(raw, "vllm", path=path) is raw
        assert body(raw, read(raw), path, "vllm", "tiny", None) is raw


def test_of_a_limit_that_comes_twice_the_last_one_counts_and_the_rest_stays() -> None:
    raw = b'{"max_tokens" : 3 , "model":"tiny","x":{"max_tokens":-1},"max_tokens":\t-1 }'
    assert sent(raw, "ollama") == raw[: -len(b"-1 }")] + b"1024 }"
    good = b'{"max_tokens":-1,"model":"tiny","max_tokens":3}'
    assert sent(good, "ollama") is good


@pytest.mark.parametrize(
    ("path", "said", "becomes"),
    [
        (CHAT, '"MAX_TOKENS":0', '"MAX_TOKENS":1024'),
        (CHAT, '"max_tokens":5,"Max_Tokens":-1', '"max_tokens":5,"Max_Tokens":1024'),
        (CHAT, '"Max_Tokens":-1,"max_tokens":5', '"Max_Tokens":-1,"max_tokens":5'),
        (COMPLETIONS, '"max_toKen\u017f":0', '"max_toKen\u017f":1024'),
        (RESPONSES, '"Max_Output_Tokens":null', '"Max_Output_Tokens":1024'),
        (MESSAGES, '"max_tokens":5,"MAX_TOKENS":100000', '"max_tokens":5,"MAX_TOKENS":1024'),
    ],
)
def test_a_limit_in_capital_letters_is_one_to_ollama_and_none_to_vllm(
    path: str, said: str, becomes: str
) -> None:
    """Go's `encoding/json` takes them for the field, and of several the last one counts."""
    for before, after in (('{"model":"tiny",', "}"), ("{", ',"model":"tiny"}')):
        raw, expected = (f"{before}{each}{after}".encode() for each in (said, becomes))
        assert sent(raw, "ollama", path=path) == expected
        assert sent(raw, "vllm", path=path) is raw


def test_of_an_engine_whose_context_is_not_known_only_the_fields_name_is_adapted() -> None:
    for fields, expected in (
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({}, {}),
        ({"max_tokens": -1}, {}),
    ):
        whole = {"model": "tiny", **fields}
        raw = json.dumps(whole).encode()
        assert json.loads(body(raw, read(raw), CHAT, "ollama", "tiny", None)) == {**whole, **expected}


def test_every_row_says_its_reason_and_a_known_engine() -> None:
    for row in adaptations.BODY:
        assert row.reason and set(row.engines) <= {"ollama", "vllm"}


def test_only_the_headers_of_the_table_go_on() -> None:
    given = {
        "authorization": "Bearer x",
        "cookie": "a",
        "x-tenant-id": "t",
        "tensorzero-x": "y",
        "accept": "*/*",
    }
    lines = [*given.items(), ("TraceParent", "00-1"), ("tracestate", "a=1"), ("Tracestate", "b=2")]
    assert headers_in(lines) == {
        "content-type": "application/json",
        "accept": "*/*",
        "traceparent": "00-1",
        "tracestate": "a=1, b=2",
    }
    assert headers_back([("Transfer-Encoding", "chunked"), ("X-Request-Id", "7")]) == [("X-Request-Id", "7")]


def test_an_answer_has_the_name_that_was_asked_for_and_is_else_as_it_was() -> None:
    raw = b'{"id": 1.0, "model": "new", "choices": [{"model": "new"}]}'
    assert renamed(raw, "new", "old") == b'{"id": 1.0, "model": "old", "choices": [{"model": "new"}]}'
    assert renamed(b'{"model":"new:latest"}', "new", "old") == b'{"model":"old"}'
    assert renamed(raw, "new", "new") is raw
    assert renamed(b"not JSON: new", "new", "old") == b"not JSON: new"
    error = b'{"error": {"message": "The model `new` does not exist, or \'new\' or \\"new\\" neither"}}'
    assert b"`old`" in renamed(error, "new", "old")
    assert b"new" not in renamed(error, "new", "old")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tiny", "registry.ollama.ai/library/tiny:latest"),
        ("coder:7b", "registry.ollama.ai/library/coder:7b"),
        ("Qwen/coder", "registry.ollama.ai/Qwen/coder:latest"),
        ("hf.co/Qwen/coder.GGUF:Q4_K_M", "hf.co/Qwen/coder.GGUF:Q4_K_M"),
    ],
)
def test_a_name_that_ollama_says_in_full_is_the_asked_one_too(model: str, said: str) -> None:
    raw = f'{{"error":{{"message":"{said} does not support insert","x":"{model}x"}},"x":"{said}"}}'.encode()
    expected = f'{{"error":{{"message":"old does not support insert","x":"{model}x"}},"x":"{said}"}}'.encode()
    assert renamed(raw, model, "old") == expected


def test_a_name_that_vllm_says_of_images_is_the_asked_one_too() -> None:
    raw = b'{"error":{"message":"new is not a multimodal model","x":"renew is not a multimodal model; new"}}'
    assert renamed(raw, "new", "old") == raw.replace(b'"new', b'"old')


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def stream(between: bytes = b"\n\n", model: str = "tiny") -> tuple[bytes, bytes]:
    """A stream of two tokens, and its usage's event."""
    tokens = [{"model": model, "choices": [{"delta": {"content": text}}]} for text in ('"usage"', "b\n\n")]
    used = b"data: " + json.dumps({"model": model, "choices": [], "usage": USAGE}).encode() + between
    parts = [b": a comment" + between, b"event: x\ndata: {}" + between]
    parts += [b"data: " + json.dumps(token).encode() + between for token in tokens]
    return b"".join(parts) + used + b"data: [DONE]" + between, used


@pytest.mark.parametrize("between", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("adds", [True, False])
def test_a_stream_is_given_on_in_its_own_bytes_however_it_comes(between: bytes, adds: bool) -> None:
    raw, used = stream(between)
    made = random.Random(7)
    for _ in range(200):
        events, at, out = Events(adds, "tiny", "tiny"), 0, b""
        while at < len(raw):
            to = at + made.choice([1, 2, 5, 50, 5000])
            out += events.feed(raw[at:to])
            at = to
        assert out + events.end() == (raw.replace(used, b"") if adds else raw)
        assert (events.usage.prompt, events.usage.completion, events.seen) == (3, 2, 3)


def test_what_a_stream_ends_with_in_the_middle_is_given_on_too() -> None:
    events = Events(True, "tiny", "tiny")
    assert events.feed(b"data: {}\n\ndata: {") + events.end() == b"data: {}\n\ndata: {"


def test_each_event_has_the_name_that_was_asked_for() -> None:
    raw, _ = stream(model="new")
    events = Events(False, "new", "old")
    assert events.feed(raw) == stream(model="old")[0]


def test_an_answers_usage_is_what_it_says_or_unknown() -> None:
    assert answers.whole(json.dumps({"usage": USAGE}).encode()) == Usage(3, 2)
    cached = {"input_tokens": 3, "cache_read_input_tokens": 80, "output_tokens": 2}
    assert answers.whole(json.dumps({"usage": cached}).encode()) == Usage(83, 2)
    for raw in (b"", b"[]", b'{"usage": 7}', b'{"usage": {"prompt_tokens": "x"}}', b"[" * 100_000):
        assert answers.whole(raw) == Usage()


def test_the_gateway_gets_nothing_of_the_request_and_nothing_of_the_answer() -> None:
    asked = json.loads(gateway.question("tiny", "10.0.0.1.abc", True))
    assert asked == {
        "model": "tensorzero::model_name::tiny",
        "messages": [{"role": "user", "content": "-"}],
        "stream": True,
        "tensorzero::extra_headers": [{"name": "x-changeover-id", "value": "10.0.0.1.abc"}],
    }
    assert json.loads(gateway.answer(Usage(3, 2)))["usage"] == USAGE
    assert gateway.last(Usage()).endswith(b"data: [DONE]\n\n")


def test_an_answer_whose_names_are_no_text_is_given_on_as_it_is() -> None:
    for raw in (b'{"\xff":1,"model":"new"}', b'{"model":"\xff","error":"\xff"}'):
        assert renamed(raw, "new", "old") == raw


def test_a_huge_event_in_small_pieces_takes_no_longer_than_it_is_long() -> None:
    raw = b"data: " + b"x" * 8_000_000 + b"\r\n\r\n"
    events, began, out = Events(False, "tiny", "tiny"), time.process_time(), []
    for at in range(0, len(raw), 8192):
        out.append(events.feed(raw[at : at + 8192]))
    assert b"".join(out) == raw and time.process_time() - began < 2
