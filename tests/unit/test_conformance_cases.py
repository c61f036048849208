"""The generated bodies are what their expectations say, as an independent reading of RFC 8259 finds."""

import json
import re

import pytest

from proxy import adaptations, reading
from proxy.protocols import CHAT, ENGINES
from tests.conformance.generate import LIMITS, Case, cases, edited, for_ollama

MODEL = "qwen-2.5-coder-7b"
CASES = cases(MODEL)
TOKEN = re.compile(
    r"""[ \t\n\r]*+(?:
        (?P<mark>[][{}:,])
      | (?P<string>"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+")
      | (?P<word>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null)
    )""",
    re.VERBOSE,
)
VALUE, KEY, COLON, END = "value", "key", "colon", "end"


def members(body: bytes) -> list[tuple[str, str]] | None:
    """The members at the top of a JSON object, with the first token of each value; None if it is none."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    found: list[tuple[str, str]] = []
    open_: list[str] = []
    place, expected, may_close, key = 0, VALUE, False, ""
    while open_ or not place:
        token = TOKEN.match(text, place)
        if token is None:
            return None
        place = token.end()
        mark, string = token["mark"], token["string"]
        if mark and mark in "]}" and may_close and open_ and mark == {"{": "}", "[": "]"}[open_[-1]]:
            open_.pop()
            expected, may_close = END, True
        elif expected == END and mark == ",":
            expected, may_close = (KEY if open_[-1] == "{" else VALUE), False
        elif expected == KEY and string:
            key, expected, may_close = string, COLON, False
        elif expected == COLON and mark == ":":
            expected = VALUE
        elif expected == VALUE and mark not in ("]", "}", ":", ","):
            if len(open_) == 1:
                found.append((json.loads(key) if key else "", token[0].strip()))
            expected, may_close = END, True
            if mark:
                open_.append(mark)
                expected = KEY if mark == "{" else VALUE
        else:
            return None
    whole = re.fullmatch(r"[ \t\n\r]*+", text[place:])
    return found if whole and re.match(r"[ \t\n\r]*+{", text) else None


def read(body: bytes) -> tuple[str, str | None]:
    """What the contract says of a body: carried or refused, and for which field."""
    found = members(body)
    if found is None:
        return "refused", None
    fields = [name for name, _ in found if name.startswith("tensorzero::")]
    if fields:
        return "refused", fields[0]
    model = dict(found).get("model", "null")
    known = model.startswith('"') and json.loads(model) == MODEL
    return ("carried", None) if known else ("refused", "model")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name[:60])
def test_a_case_is_what_it_says(case: Case) -> None:
    assert read(case.body) == (case.expected, case.field)
    if case.expected == "carried":
        assert case.model_at is not None
        start, end = case.model_at
        assert json.loads(case.body[start:end]) == MODEL


@pytest.mark.parametrize("path", [path for path in ENGINES if path != CHAT])
def test_each_case_of_another_protocol_is_what_it_says(path: str) -> None:
    found = cases(MODEL, path)
    assert sum(case.expected == "carried" for case in found) > 100
    for case in found:
        assert read(case.body) == (case.expected, case.field), case.name


@pytest.mark.parametrize("path", ENGINES)
def test_what_ollama_gets_otherwise_is_a_limit_and_nothing_else(path: str) -> None:
    """Said by the cases and by the proxy's own table, which know nothing of each other."""
    changed = set()
    for case in cases(MODEL, path):
        if case.expected == "carried":
            edits = for_ollama(case, path, 1024)
            expected = edited(case.body, edits)
            read_ = reading.read(case.body)
            for kind in ("ollama", "vllm"):
                assert adaptations.refused(case.body, read_, path, kind) is None, case.name
            got = adaptations.body(case.body, read_, path, "ollama", MODEL, 1024)
            assert got == expected, case.name
            changed |= {case.name} if got != case.body else set()
            if len(got) > 2**16:
                continue
            beside = {LIMITS[path][0]: None} if edits else {}
            assert dict(members(got) or ()) | beside == dict(members(case.body) or ()) | beside, case.name
    assert (len(changed) > 1) is (path in LIMITS), changed


def test_there_are_many_and_all_are_different() -> None:
    assert sum(case.expected == "carried" for case in CASES) > 500
    assert sum(case.expected == "refused" for case in CASES) > 150
    assert len({case.body for case in CASES}) > len(CASES) * 0.95
    assert max(len(case.body) for case in CASES) > 15 << 20


def test_a_seed_gives_the_same_cases_and_another_gives_others() -> None:
    assert cases(MODEL) == CASES
    assert cases(MODEL, seed=1) != CASES


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"x"}', [("model", '"x"')]),
        (b'{"a":{"b":[1]},"a":-0.5e1 }', [("a", "{"), ("a", "-0.5e1")]),
        (b"{}", []),
        (b'{"a":1}{', None),
        (b'{"a":[1}', None),
        (b'{"a":1]', None),
        (b"[]", None),
        (b"7", None),
        (b'{"a"}', None),
        (b'{"a":1,}', None),
        (b'{"a":[,]}', None),
        (b'{"a":01}', None),
    ],
)
def test_the_reader_itself(body: bytes, expected: list[tuple[str, str]] | None) -> None:
    assert members(body) == expected
