"""Where the fields of a request stand, held against Python's own parser with requests that are made up."""

import json
import random
from typing import Any

import pytest

from proxy.reading import Unreadable, members, read


def accepted(raw: bytes) -> bool:
    """Whether a body is a request, by Python's parser. It takes no more nesting than a thousand levels."""

    def none(text: str) -> None:
        raise ValueError(text)  # NaN and Infinity are no JSON

    try:
        value = json.loads(raw.decode(), parse_constant=none)
    except ValueError:
        return False
    if not isinstance(value, dict) or any(name.startswith("tensorzero::") for name in value):
        return False
    return isinstance(value.get("model"), str)


def value(random: random.Random, depth: int = 0) -> Any:
    texts = 'a"\\\n\té中🙂{}[],: \u2028'
    plain = [None, True, False, random.randrange(-9, 9), random.random() * 1e9, ""]
    text = "".join(random.choice(texts) for _ in range(random.randrange(8)))
    if depth > 4 or random.random() < 0.5:
        return random.choice([*plain, text])
    if random.random() < 0.5:
        return [value(random, depth + 1) for _ in range(random.randrange(5))]
    return {text + str(n): value(random, depth + 1) for n in range(random.randrange(4))}


def body(random: random.Random) -> bytes:
    fields = {f"k{n}": value(random) for n in range(random.randrange(5))} | {"model": "tiny"}
    names = random.sample(list(fields), len(fields))
    text = json.dumps(
        {name: fields[name] for name in names},
        ensure_ascii=random.random() < 0.5,
        indent=random.choice([None, 1, "\t"]),
    )
    return text.encode()


def broken(random: random.Random, raw: bytes) -> bytes:
    """The same with some bytes that are gone, others, or more."""
    out = bytearray(raw)
    for _ in range(random.randrange(1, 4)):
        at, new = random.randrange(len(out)), random.choice(b'{}[]",:\\ 01-+.eEtfn\n\x00\xc3')
        match random.randrange(3):
            case 0 if len(out) > 1:
                del out[at]
            case 1:
                out[at] = new
            case _:
                out.insert(at, new)
    return bytes(out)


@pytest.mark.parametrize("seed", range(20))
def test_what_pythons_parser_takes_is_read_and_nothing_else(seed: int) -> None:
    made = random.Random(seed)
    for _ in range(300):
        raw = body(made)
        for each in (raw, broken(made, raw)):
            try:
                reading = read(each)
            except Unreadable:
                assert not accepted(each), each
            else:
                assert accepted(each), each
                assert reading.model == json.loads(each)["model"]


@pytest.mark.parametrize("seed", range(5))
def test_every_member_is_found_where_it_stands(seed: int) -> None:
    made = random.Random(seed)
    for _ in range(300):
        raw = body(made)
        found = {name: json.loads(raw[slice(*span)]) for name, span in members(raw, 0)}
        assert found == json.loads(raw)


def test_the_last_of_two_models_counts_and_both_are_known() -> None:
    raw = b'{"model": "a", "x": {"model": "b"}, "m\\u006fdel": "c"}'
    reading = read(raw)
    assert reading.model == "c"
    assert raw[slice(*reading.model_at)] == b'"c"'


@pytest.mark.parametrize("levels", [10, 5_000, 200_000])
def test_depth_does_not_matter(levels: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opening * levels + b"1" + closing * levels
        assert read(b'{"model":"x","deep":' + nested + b"}").model == "x"
        with pytest.raises(Unreadable, match="not valid JSON"):
            read(b'{"model":"x","deep":' + nested[:-1] + b"}")


def test_numbers_of_any_size_are_left_alone() -> None:
    huge = b"9" * 20_000
    for number in (huge, b"1e400", b"-0", b"1e-400", b"0.1e+9"):
        assert read(b'{"model":"x","n":' + number + b"}").model == "x"


@pytest.mark.parametrize(
    ("raw", "param", "said"),
    [
        (b"", None, "one JSON object"),
        (b"[]", None, "one JSON object"),
        (b'\xef\xbb\xbf{"model":"x"}', None, "one JSON object"),
        (b'{"model":"\xff"}', None, "not UTF-8, from byte 10"),
        (b'{"model":"x"} {}', None, "from byte 14 on"),
        (b"{}", "model", "no 'model'"),
        (b'{"x":{"model":"y"}}', "model", "no 'model'"),
        (b'{"model":null}', "model", "must be a string"),
        (b'{"model":"x","tensorzero::tags":{}}', "tensorzero::tags", "gateway's own"),
        (b'{"model":"x","\\u0074ensorzero::x":{}}', "tensorzero::x", "gateway's own"),
    ],
)
def test_what_is_no_request_is_refused_with_the_field_and_the_place(
    raw: bytes, param: str | None, said: str
) -> None:
    with pytest.raises(Unreadable, match=said) as refused:
        read(raw)
    assert refused.value.param == param


def test_the_gateways_prefix_further_down_is_a_clients_own_affair() -> None:
    assert read(b'{"model":"x","metadata":{"tensorzero::tags":1}}').model == "x"


@pytest.mark.parametrize(
    ("said", "streams"), [("true", True), ("false", False), ('"true"', False), ("1", False)]
)
def test_stream_is_what_it_says(said: str, streams: bool) -> None:
    assert read(b'{"model":"x","stream": ' + said.encode() + b"}").stream is streams
