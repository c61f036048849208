"""Bodies of requests, as bytes: what an endpoint has to carry as it came, and what it has to refuse.

The contract: a body that is a JSON object (RFC 8259: UTF-8, no byte order mark, any depth, numbers of any
length), whose top-level `model` is a string that the endpoint knows, and that has no top-level key that
begins with `tensorzero::`, is carried to the byte, whatever else is in it. Everything else is refused. Of
duplicate keys the last one counts, as it does for both engines. Keys and names are compared as they are after
unescaping. All of that holds for each protocol; `for_ollama` is what of a body Ollama gets otherwise.

`cases` gives the same bytes for the same seed, in every Python: they are put together as text and never
written by a JSON library.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from functools import partial
from typing import Literal

from proxy.protocols import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES

SEED = 12
Edit = tuple[int, int, bytes]
"""The bytes from the first to before the second offset become these."""


@dataclass(frozen=True)
class Case:
    """One body. `field` is what a refusal names: None if the body is no JSON object at all.

    `model_at` is where the value of the `model` that counts stands in a body that is carried: its first byte
    and the one after its last, quotes included. Only that changes where an engine has another name for it.
    `limits_at` is the same for those of `LIMITS` that are there.
    """

    name: str
    body: bytes
    expected: Literal["carried", "refused"]
    field: str | None = None
    model_at: tuple[int, int] | None = None
    limits_at: Mapping[str, tuple[int, int]] = made(default_factory=dict)


def cases(model: str, path: str = CHAT, *, seed: int = SEED) -> list[Case]:
    """All cases for a path, for an endpoint that knows this model; names are unique.

    What does not depend on the protocol, such as depth and white space, is among those of chats alone.
    """
    generator = _Generator(model, random.Random(seed), path)
    found = list(generator.all() if path == CHAT else generator.of_the_protocol())
    assert len({case.name for case in found}) == len(found)
    return found


LIMITS = {
    CHAT: ("max_tokens", "max_completion_tokens"),
    COMPLETIONS: ("max_tokens",),
    RESPONSES: ("max_output_tokens",),
    MESSAGES: ("max_tokens",),
}
"""By which fields an answer's length is limited: the first is what Ollama reads, the first that is not null
counts."""


def for_ollama(case: Case, path: str, context: int) -> list[Edit]:
    """What Ollama gets otherwise: a limit within the context where there is none, or one beyond it. A message
    without one it refuses by itself."""
    names = LIMITS.get(path)
    if names is None:
        return []
    texts = [case.body[slice(*case.limits_at[name])].decode() for name in names if name in case.limits_at]
    said = next((text for text in texts if text != "null"), "null")
    number = int(said) if re.fullmatch("-?[0-9]{1,19}", said) and abs(int(said)) < 2**63 else None
    none = said == "null" or (number is not None and number <= 0)
    beyond = number is not None and number > context
    wanted = str(context) if beyond or (none and path != MESSAGES) else said
    if wanted == "null":
        return []
    if names[0] in case.limits_at:
        return [(*case.limits_at[names[0]], wanted.encode())]
    inside = case.body.index(b"{") + 1
    return [(inside, inside, f'"{names[0]}":{wanted},'.encode())]


def edited(body: bytes, edits: Sequence[Edit]) -> bytes:
    """The body with all of these, which do not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        body = body[:start] + new + body[end:]
    return body


FIELDS = (
    # OpenAI's
    *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_tokens"),
    *("max_completion_tokens", "messages", "metadata", "modalities", "n", "parallel_tool_calls", "seed"),
    *("prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "stop"),
    *("reasoning_effort", "response_format", "safety_identifier", "service_tier", "store", "stream", "top_p"),
    *("stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "user", "verbosity"),
    "web_search_options",
    # the engines'
    *("add_generation_prompt", "bad_words", "best_of", "cache_salt", "chat_template", "documents", "echo"),
    *("chat_template_kwargs", "continue_final_message", "format", "ignore_eos", "include_reasoning", "min_p"),
    *("keep_alive", "length_penalty", "min_tokens", "options", "priority", "prompt_logprobs", "think"),
    *("top_k", "repetition_penalty", "return_token_ids", "stop_token_ids", "structured_outputs"),
    # nobody's
    *("", "Model", "MODEL", "model ", "models", "tensorzero", "tensorzero:", "Tensorzero::tags", "größe"),
)  # fmt: skip

OTHER_FIELDS = {
    COMPLETIONS: (
        *("best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "prompt"),
        *("presence_penalty", "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p"),
        *("user", "prompt_embeds", "add_special_tokens", "truncate_prompt_tokens", "max_completion_tokens"),
    ),
    RESPONSES: (
        *("background", "conversation", "include", "input", "instructions", "max_output_tokens", "metadata"),
        *("max_tool_calls", "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key"),
        *("reasoning", "safety_identifier", "service_tier", "store", "stream", "temperature", "text", "user"),
        *("tool_choice", "tools", "top_logprobs", "top_p", "truncation", "stream_options", "max_tokens"),
    ),
    MESSAGES: (
        *("max_tokens", "messages", "container", "context_management", "mcp_servers", "metadata", "system"),
        *("output_format", "service_tier", "stop_sequences", "stream", "temperature", "thinking", "tools"),
        *("tool_choice", "top_k", "top_p", "stream_options"),
    ),
    COUNT_TOKENS: ("messages", "system", "thinking", "tool_choice", "tools", "max_tokens"),
    EMBEDDINGS: ("input", "dimensions", "encoding_format", "user", "max_tokens"),
}
"""Fields of the protocols beside chats."""

NUMBERS = (
    *("0", "-0", "1", "-1", "2", "1.0", "64.0", "-0.0", "0.1", "1e0", "1E+2", "1e-2", "1e0000001", "10e-1"),
    *("1e400", "-1e400", "1e-400", "1e99999", "5e-324", "1.7976931348623157e308", "0.30000000000000004"),
    *("9007199254740993", "18446744073709551616", "-9223372036854775809"),
    *("1" + "0" * 5000, "0." + "0" * 5000 + "1"),
)  # fmt: skip

STRINGS = (
    *('""', '"a"', '"1"', '"true"', '"null"', r'"\""', r'"\\"', r'"\\\\"', r'"\\\""', r'"\/\b\f\n\r\t"'),
    *(r'"\u0000"', '"\x7f"', r'"\u001f"', '"é"', '"e\u0301"', '"漢字"', '"🙂"', '"\u202eabc"', '"\ufeff"'),
    *('"\u2028\u2029"', '"\uffff"', '"\U0010ffff"', r'"\ud83d\ude42"', r'"\uD83D\uDE42"', r'"\ud83d🙂"'),
    *(r'"\ud800"', r'"\udc00"', r'"\udc00\ud800"', r'"\ud800\ud800"', r'"\ud800x"', '"{}"', '"]}"'),
    *(r'"{\"model\":\"x\"}"', r'"\"model\":\"x\","', r'"\u007b\u0022model\u0022:1}"'),
    *('"tensorzero::x"', r'"\\u0074ensorzero::x"', '"/* */ // #"', '"data: [DONE]"'),
    *('"' + text * 999 + '"' for text in (r"\\", r"\"", r"\u00e9", "é")),
)  # fmt: skip

KEYS = tuple(string for string in STRINGS if not string.startswith('"tensorzero::'))
"""Strings that may be keys at the top of a body that is carried."""

OTHERS = (
    *("null", "true", "false", "[]", "{}", "[[]]", "[{}]", '{"":{}}', "[null,true,false]", "[1,1.0,1e0]"),
    *('{"a":1,"a":2}', '{"model":"x"}', '{"a":{"model":7}}', '[{"model":"x"},{"model":"y"}]'),
    *('{"tensorzero::tags":{}}', r'{"mod\u0065l":1}', '{"50":-100,"x":1e400}', '{"type":"json_object"}'),
    *('{"include_usage":false}', '{"include_usage":true}', '[{"role":"tool","content":"x"}]'),
    '[{"role":"user","content":[{"type":"text","text":"x"}]}]',
    *("[" * 100 + "]" * 100, '{"a":' * 100 + "1" + "}" * 100),
)  # fmt: skip

ENDS = ("null", "-1", "0", "-0", "1", "1024", "1025", "9223372036854775807", "9223372036854775808", '"4"')
"""Of an answer's length: what Ollama would take for no limit, and what is next to it."""

WHITE = (" ", "\t", "\n", "\r", "\r\n", "  \t\n")

# `@` stands for the model.
NO_JSON_OBJECT: dict[str, bytes] = {
    "nothing": b"",
    "white": b" \t\r\n",
    "word": b"hello",
    "null": b"null",
    "true": b"true",
    "number": b"7",
    "string": b'"model"',
    "array": b"[]",
    "array of an object": b'[{"model":"@"}]',
    "form": b"model=@&messages=x",
    "unclosed": b'{"model":"@"',
    "unclosed string": b'{"model":"@","x":"a}',
    "unclosed string that ends in an escape": b'{"model":"@","x":"a\\"}',
    "unclosed array": b'{"model":"@","x":[1,2}',
    "crossed": b'{"model":"@","x":[{]}}',
    "closed twice": b'{"model":"@"}}',
    "two objects": b'{"model":"@"}{"model":"@"}',
    "two lines of objects": b'{"model":"@"}\n{"model":"@"}\n',
    "garbage after": b'{"model":"@"}x',
    "NUL after": b'{"model":"@"}\0',
    "garbage before": b'x{"model":"@"}',
    "comma at the end": b'{"model":"@",}',
    "comma at the beginning": b'{,"model":"@"}',
    "two commas": b'{"model":"@",,"x":1}',
    "comma at the end of an array": b'{"model":"@","x":[1,]}',
    "comma alone in an array": b'{"model":"@","x":[,]}',
    "no comma": b'{"model":"@" "x":1}',
    "no comma in an array": b'{"model":"@","x":[1 2]}',
    "no colon": b'{"model" "@"}',
    "two colons": b'{"model"::"@"}',
    "no value": b'{"model":"@","x":}',
    "no key": b'{"model":"@",:1}',
    "a key alone": b'{"model":"@","x"}',
    "a number as key": b'{"model":"@",1:1}',
    "null as key": b'{"model":"@",null:1}',
    "a bare key": b'{model:"@"}',
    "single quotes": b"{'model':'@'}",
    "a comment": b'{"model":"@"/* x */}',
    "a comment at the end": b'{"model":"@"}// x',
    "a comment of a shell": b'{"model":"@"}# x\n',
    "True": b'{"model":"@","x":True}',
    "None": b'{"model":"@","x":None}',
    "NULL": b'{"model":"@","x":NULL}',
    "tru": b'{"model":"@","x":tru}',
    "nulll": b'{"model":"@","x":nulll}',
    "undefined": b'{"model":"@","x":undefined}',
    "NaN": b'{"model":"@","x":NaN}',
    "Infinity": b'{"model":"@","x":Infinity}',
    "-Infinity": b'{"model":"@","x":-Infinity}',
    "NaN deep inside": b'{"model":"@","x":[[[{"y":[NaN]}]]]}',
    "a zero before": b'{"model":"@","x":01}',
    "two zeros": b'{"model":"@","x":00}',
    "minus and a zero before": b'{"model":"@","x":-01}',
    "plus": b'{"model":"@","x":+1}',
    "minus alone": b'{"model":"@","x":-}',
    "two minus": b'{"model":"@","x":--1}',
    "a point before": b'{"model":"@","x":.5}',
    "a point after": b'{"model":"@","x":1.}',
    "two points": b'{"model":"@","x":1.2.3}',
    "no exponent": b'{"model":"@","x":1e}',
    "no exponent after its sign": b'{"model":"@","x":1e+}',
    "a broken exponent": b'{"model":"@","x":1e0.5}',
    "a point before the exponent": b'{"model":"@","x":1.e5}',
    "hexadecimal": b'{"model":"@","x":0x1F}',
    "underscore": b'{"model":"@","x":1_000}',
    "digits of another script": '{"model":"@","x":١}'.encode(),
    "a newline in a string": b'{"model":"@","x":"a\nb"}',
    "a tab in a string": b'{"model":"@","x":"a\tb"}',
    "a NUL in a string": b'{"model":"@","x":"a\0b"}',
    "a control character in a string": b'{"model":"@","x":"\x1f"}',
    "a newline in a key": b'{"model":"@","x\n":1}',
    "a newline in the model": b'{"model":"@\n"}',
    "an unknown escape": b'{"model":"@","x":"\\x41"}',
    "an escaped single quote": b'{"model":"@","x":"\\\'"}',
    "an escaped newline": b'{"model":"@","x":"a\\\nb"}',
    "a short escape": b'{"model":"@","x":"\\u12"}',
    "an escape without digits": b'{"model":"@","x":"\\u"}',
    "an escape that is not hexadecimal": b'{"model":"@","x":"\\u12g4"}',
    "a capital U": b'{"model":"@","x":"\\U0041"}',
    "an escape with signs": b'{"model":"@","x":"\\u+123"}',
    "a broken escape in a key": b'{"model":"@","\\u00zz":1}',
    "an escape outside of strings": b'{"model":\\u0022@\\u0022}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"@"}',
    "a byte that is not UTF-8": b'{"model":"@","x":"\xff"}',
    "Latin-1": b'{"model":"@","x":"gr\xf6\xdfe"}',
    "a continuation alone": b'{"model":"@","x":"\x80"}',
    "a sequence that is cut": b'{"model":"@","x":"\xe6\xbc"}',
    "a sequence that is too long": b'{"model":"@","x":"\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"model":"@","x":"\xed\xa0\x80"}',
    "beyond Unicode": b'{"model":"@","x":"\xf4\x90\x80\x80"}',
    "a key that is not UTF-8": b'{"model":"@","\xff":1}',
    "UTF-16": '{"model":"x"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"model":"x"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"x"}'.encode("utf-32"),
    "a form feed": b'{"model":"@",\x0c"x":1}',
    "a vertical tab": b'{"model":"@",\x0b"x":1}',
    "a space that does not break": '{"model":"@",\u00a0"x":1}'.encode(),
    "a NUL between": b'{"model":"@",\0"x":1}',
    "a line separator": '{"model":"@",\u2028"x":1}'.encode(),
    "5000 levels, one unclosed": b'{"model":"@","x":' + b"[" * 5000 + b"]" * 4999 + b"}",
    "5000 levels, the innermost wrong": b'{"model":"@","x":' + b"[" * 5000 + b"}" + b"]" * 5000 + b"}",
    "a megabyte, then wrong": b'{"model":"@","x":"' + b"y" * (1 << 20) + b'"]',
    "cut after a megabyte": b'{"model":"@","x":"' + b"y" * (1 << 20),
    "white without end": b'{"model":"@","x":1' + b" " * (1 << 20),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff",
}


Member = tuple[str, str]
"""Key and value of a member as they stand in the body."""

LIKE_MODEL = ("Model", "MODEL", "model ", " model", r"model\u0000", "models", "mode", r"\\u006dodel")
LIMIT_KEYS = frozenset(f'"{name}"' for names in LIMITS.values() for name in names)
MODEL_KEYS = ('"model"', r'"\u006dodel"', r'"mod\u0065l"', r'"\u006D\u006F\u0064\u0065\u006C"')


class _Generator:
    def __init__(self, model: str, chance: random.Random, path: str) -> None:
        self._chance = chance
        self._model = model
        self._path = path
        self._value = _quoted(model)

    def all(self) -> Iterator[Case]:
        yield from self._fields()
        yield from self._models()
        yield from self._shapes()
        yield from self._large()
        yield from (self._any(number) for number in range(60))
        yield from self._wrong_models()
        yield from self._gateways_fields()
        for name, body in NO_JSON_OBJECT.items():
            yield Case(f"no JSON object: {name}", body.replace(b"@", self._model.encode()), "refused")

    def of_the_protocol(self) -> Iterator[Case]:
        yield from self._fields()
        yield from self._models()
        yield from (self._any(number) for number in range(20))
        yield from self._wrong_models()
        yield from self._gateways_fields()

    def _fields(self) -> Iterator[Case]:
        """Each field with some of all values; over all fields every value comes several times."""
        values = [*NUMBERS, *STRINGS, *OTHERS]
        self._chance.shuffle(values)
        turn = 0
        for name in FIELDS if self._path == CHAT else OTHER_FIELDS[self._path]:
            for _ in range(5):
                value = values[turn % len(values)]
                turn += 1
                if (name, value) == ("stream", "true"):  # its usage is added then, which has tests of its own
                    continue
                members = [*self._usual(name), (_quoted(name), value)]
                yield self._carried(f"field {name!r} {turn}: {_short(value)}", members)
            for value in ENDS if name in LIMITS.get(self._path, ()) else ():
                members = [*self._usual(name), (_quoted(name), value)]
                yield self._carried(f"limit {name!r}: {value}", members)

    def _usual(self, but: str = "") -> list[Member]:
        usual = [('"model"', self._value), *self._asked('"hi"')]
        return [member for member in usual if member[0] != _quoted(but)]

    def _asked(self, text: str) -> list[Member]:
        """What the protocol asks with, this text (in JSON) being what is asked."""
        messages = f'[{{"role":"user","content":{text}}}]'
        return {
            CHAT: [('"messages"', messages), ('"max_tokens"', "4")],
            COMPLETIONS: [('"prompt"', text), ('"max_tokens"', "4")],
            RESPONSES: [('"input"', text), ('"max_output_tokens"', "4")],
            MESSAGES: [('"messages"', messages), ('"max_tokens"', "4")],
            COUNT_TOKENS: [('"messages"', messages), ('"system"', '"Be brief."')],
            EMBEDDINGS: [('"input"', text), ('"dimensions"', "2")],
        }[self._path]

    def _models(self) -> Iterator[Case]:
        """Where `model` may stand, how it may be written, and what looks like it."""
        rest = [*self._usual("model"), ('"metadata"', '{"model":"x"}'), ('"user"', r'"\"model\":\"y\""')]
        for place in range(len(rest) + 1):
            members = [*rest[:place], ('"model"', self._value), *rest[place:]]
            yield self._carried(f"model at place {place}", members)
        for number, key in enumerate(MODEL_KEYS):
            for how, value in {"plain": self._value, "escaped": _escaped(self._model)}.items():
                yield self._carried(f"model: key {number}, {how} value", [*rest, (key, value)])
        middle = len(self._model) // 2
        half = _escaped(self._model[:middle])[:-1] + _quoted(self._model[middle:])[1:]
        yield self._carried("model: half escaped", [*rest, ('"model"', half)])
        for first in ('"gpt-4o"', "7", "null", '{"model":"x"}', "[]", self._value):
            twice = [('"model"', first), *rest, ('"model"', self._value)]
            yield self._carried(f"model twice, the first {first}", twice)
            escaped = [(MODEL_KEYS[1], first), *twice[1:]]
            yield self._carried(f"model twice, the first {first} escaped", escaped)
        for name in (*LIKE_MODEL, ""):
            like = [(f'"{name}"', '"gpt-4o"')]
            yield self._carried(f"beside model: {name!r}", [*self._usual(), *like])
            yield self._carried(f"before model: {name!r}", [*like, *self._usual()])
        for depth in (1, 2, 10, 1000):
            nested = '{"model":"gpt-4o","x":' * depth + "null" + "}" * depth
            yield self._carried(f"model {depth} deep", [*self._usual(), ('"x"', nested)])
            yield self._carried(f"model {depth} deep, before", [('"x"', nested), *self._usual()])
        yield self._carried("nothing but model", [('"model"', self._value)])
        for value in (*STRINGS, *NUMBERS[:3]):
            yield self._carried(f"prompt {_short(value)}", [('"model"', self._value), *self._asked(value)])

    def _shapes(self) -> Iterator[Case]:
        """Depth, white space, duplicate and strange keys."""
        for depth in (500, 1000, 1500, 5000):
            for name, value in {
                "arrays": "[" * depth + "]" * depth,
                "objects": '{"a":' * depth + "1" + "}" * depth,
                "both": '[{"a":' * (depth // 2) + "1" + "}]" * (depth // 2),
                "beside each other": "[" + "[]," * depth + "[]]",
            }.items():
                yield self._carried(f"{depth} {name}", [*self._usual(), ('"x"', value)])
                yield self._carried(f"{depth} {name}, before", [('"x"', value), *self._usual()])
        deep = "[ \n" * 5000 + "\t]" * 5000
        yield self._carried("5000 levels with white space", [*self._usual(), ('"x"', deep)])
        for white in WHITE:
            yield self._carried(f"white space {white!r}", self._usual(), white=partial(str, white))
        for number in range(5):
            yield self._carried(f"odd white space {number}", self._usual(), white=self._white)
        for name, place in {"before": 0, "after a key": 2, "before a value": 3, "at the end": 13}.items():
            yield self._carried(
                f"a lot of white space {name}", self._usual(), white=_once(" \n" * 50_000, place)
            )
        twice = [('"x"', "1"), ('"x"', "[2]"), (r'"\u0078"', "3"), ('"messages"', "[]")]
        yield self._carried("duplicate keys", [*twice, *self._usual(), *twice])
        yield self._carried("1000 times the same key", [('"x"', str(n)) for n in range(1000)] + self._usual())
        for key in KEYS:
            yield self._carried(f"key {_short(key)}", [*self._usual(), (key, key)])

    def _large(self) -> Iterator[Case]:
        """Up to 15 MiB: below the 16 MiB that an endpoint takes if nothing else is set. None has so many
        characters of one class in a row that Ollama would not survive it."""
        for name, count in {"1 MiB": 1 << 20, "4 MiB": 4 << 20, "15 MiB": 15 << 20}.items():
            yield self._carried(
                f"a prompt of {name}",
                [*self._asked('"' + "y1" * (count // 2) + '"'), ('"model"', self._value)],
            )
        texts = {"escapes": r"\"\\\n", "unicode": "漢é🙂", "surrogates": r"\ud8001", "braces": "{[]},:1"}
        for name, text in texts.items():
            value = '"' + text * ((1 << 20) // len(text)) + '"'
            yield self._carried(f"a megabyte of {name}", [*self._asked(value), ('"model"', self._value)])
        numbers = ",".join(self._chance.choice(NUMBERS[:24]) for _ in range(200_000))
        yield self._carried("200,000 numbers", [('"x"', f"[{numbers}]"), *self._usual()])
        keys = [(f'"key{number}"', "null") for number in range(50_000)]
        yield self._carried("50,000 keys, and model the last", [*keys, *self._usual()])
        yield self._carried("50,000 keys, and model the first", [*self._usual(), *keys])
        yield self._carried("a key of a megabyte", [('"' + "k1" * (1 << 19) + '"', "1"), *self._usual()])
        yield self._carried("a number of a megabyte", [('"x"', "1" * (1 << 20)), *self._usual()])
        messages = ",".join('{"role":"user","content":"hi"}' for _ in range(20_000))
        yield self._carried("20,000 messages", [('"messages"', f"[{messages}]"), ('"model"', self._value)])

    def _any(self, number: int) -> Case:
        """Any object at all, with `model` at any place."""
        keys = self._chance.choices(KEYS, k=self._chance.randrange(12))
        members = [(key, self._json(self._chance.randrange(6))) for key in keys]
        members.insert(self._chance.randrange(len(members) + 1), ('"model"', self._value))
        return self._carried(f"any object {number}", members, white=self._white)

    def _json(self, depth: int) -> str:
        kind = self._chance.choice(("number", "string", "other", "array", "object")) if depth else "other"
        if kind == "number":
            return self._chance.choice(NUMBERS)
        if kind == "string":
            return self._chance.choice(STRINGS)
        if kind == "other":
            return self._chance.choice(OTHERS)
        inside = range(self._chance.randrange(5))
        white = self._white
        if kind == "array":
            return (
                f"[{white()}" + ",".join(f"{white()}{self._json(depth - 1)}{white()}" for _ in inside) + "]"
            )
        keys = [self._chance.choice(STRINGS) for _ in inside]
        members = (f"{white()}{key}{white()}:{white()}{self._json(depth - 1)}{white()}" for key in keys)
        return f"{{{white()}" + ",".join(members) + "}"

    def _white(self) -> str:
        return "".join(self._chance.choices(WHITE, k=self._chance.randrange(3)))

    def _carried(
        self, name: str, members: Sequence[Member], *, white: Callable[[], str] = lambda: ""
    ) -> Case:
        """The last member whose key is `model` is the one that counts, and so with each limit."""
        parts, at = [white(), "{"], (0, 0)
        limits: dict[str, tuple[int, int]] = {}
        for number, (key, value) in enumerate(members):
            parts += ["," if number else "", white(), key, white(), ":", white()]
            if key in MODEL_KEYS or key in LIMIT_KEYS:
                start = sum(len(part.encode()) for part in parts)
                stands = (start, start + len(value.encode()))
                if key in MODEL_KEYS:
                    at = stands
                else:
                    limits[json.loads(key)] = stands
            parts += [value, white()]
        parts += ["}", white()]
        return Case(name, "".join(parts).encode(), "carried", model_at=at, limits_at=limits)

    def _wrong_models(self) -> Iterator[Case]:
        def refused(name: str, members: Sequence[Member]) -> Case:
            return Case(f"model: {name}", self._carried("", members).body, "refused", "model")

        rest = self._usual("model")
        yield refused("none", rest)
        yield refused("an empty object", [])
        yield refused("only inside", [*rest, ('"x"', f'{{"model":{self._value}}}')])
        yield refused("only as a value", [*rest, ('"x"', '"model"')])
        for key in LIKE_MODEL:
            yield refused(f"only {key!r}", [*rest, (f'"{key}"', self._value)])
        for value in (
            "null",
            "true",
            "7",
            "1e400",
            "[]",
            f"[{self._value}]",
            "{}",
            f'{{"name":{self._value}}}',
        ):
            yield refused(f"{value}", [*rest, ('"model"', value)])
            yield refused(f"{value} after a good one", [*self._usual(), ('"model"', value)])
        unknown = {
            "another": '"gpt-4o"',
            "empty": '""',
            "longer": f'"{self._model}x"',
            "shorter": _quoted(self._model[:-1]),
            "a space before": f'" {self._model}"',
            "a space after": f'"{self._model} "',
            "a NUL after": f'"{self._model}\\u0000"',
            "a newline after": f'"{self._model}\\n"',
            "another case": _quoted(self._model.swapcase()),
            "a tag": f'"{self._model}:latest"',
            "a path": f'"library/{self._model}"',
            "a lone surrogate": r'"\ud800"',
            "a lone surrogate after": f'"{self._model}\\udfff"',
            "escaped twice": _quoted(_escaped(self._model)[1:-1].replace("\\", "\\\\")),
            "64 KB": '"' + "x" * 65_536 + '"',
        }
        for name, value in unknown.items():
            yield refused(name, [*rest, ('"model"', value)])
            yield refused(f"{name}, after a good one", [*self._usual(), (MODEL_KEYS[2], value)])

    def _gateways_fields(self) -> Iterator[Case]:
        """Refused at the top, whatever their value; carried anywhere else."""
        names = ("tensorzero::tags", "tensorzero::extra_body", "tensorzero::", "tensorzero::größe")
        for name in names:
            for how, key in {"plain": _quoted(name), "escaped": _escaped(name)}.items():
                for value in ("{}", "null", '"x"', "[]"):
                    members = [*self._usual(), (key, value)]
                    self._chance.shuffle(members)
                    body = self._carried("", members).body
                    yield Case(f"gateway's field {name}, {how}, {value}", body, "refused", name)
            yield self._carried(f"inside: {name}", [*self._usual(), ('"x"', f'[{{"{name}":{{}}}}]')])


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:12]}… of {len(value)}"


def _quoted(text: str) -> str:
    """As a JSON string, with nothing escaped but what must be."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """As a JSON string of nothing but escapes."""
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[n]:02x}{units[n + 1]:02X}" for n in range(0, len(units), 2)) + '"'


def _once(text: str, place: int) -> Callable[[], str]:
    """White space that comes at one of the 14 places in a body of three members."""
    turn = iter(range(14))
    return lambda: text if next(turn) == place else ""
