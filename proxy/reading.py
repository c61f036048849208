"""What the proxy has to know of a request's body: where a few top-level fields of its JSON object stand.

Pure. The body is never parsed into values and written anew, since that changes numbers, duplicate keys and
escapes. It is walked through as bytes, without recursion and without a copy, so that depth and size don't
matter, and checked against RFC 8259 on the way.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.harm import has_long_run

RESERVED = "tensorzero::"
"""A field whose name begins so is the gateway's own, and not a client's."""

_WS = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
_SCALAR = rb"(?:" + _STRING + rb"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null)"
_NAMED = _STRING + _WS + rb":" + _WS

_space = re.compile(_WS).match
_scalar = re.compile(_SCALAR).match
_name = re.compile(_NAMED).match
# What follows a value and is flat is passed over in one step: a list of a million numbers is one match.
_items = re.compile(rb"(?:" + _WS + rb"," + _WS + _SCALAR + rb")*+" + _WS).match
_fields = re.compile(rb"(?:" + _WS + rb"," + _WS + _NAMED + _SCALAR + rb")*+" + _WS).match
_string = re.compile(_STRING).match

Span = tuple[int, int]


class Unreadable(ValueError):
    """The body is no request. `param` is the field that is wrong; None: the body itself."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Reading:
    """Of a body that is a JSON object with a `model`: offsets in bytes, of values without the space around.

    Where a field comes more than once, the last one counts, as it does for both engines.
    """

    model: str
    model_at: Span
    """Where the top-level `model` stands that counts."""
    inside: int
    """Right after the opening brace: a field can be put there, with a comma after it."""
    stream: bool
    """Whether `stream` is `true`."""
    fields: dict[str, Span] = field(default_factory=dict)
    """Those of `KEPT` that are there."""
    in_any_case: dict[str, Span] = field(default_factory=dict)
    """Fields of `KEPT` as Ollama reads them, which takes their names in small and capital letters alike."""
    formats: tuple[tuple[str, Span], ...] = ()
    """Those of `FORMATS` that are there, each time and however Ollama would read them."""
    long_run: bool = False
    """See `proxy.harm.has_long_run`."""
    turns: Span | None = None
    """Where what is asked stands: the value of one of `TURNS`."""


KEPT = (
    *("stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens"),
    *("prompt_logprobs", "echo", "logprobs", "top_logprobs"),
)
TURNS = ("messages", "prompt", "input")
"""What is asked, in the engines' protocols: the turns of a conversation, or a text."""
FORMATS = ("response_format", "text")
"""Which form an answer is to have. Ollama takes their names in small and capital letters alike."""


def read(raw: bytes) -> Reading:
    """What the proxy has to know of a request's body. Raises Unreadable, whose text is for the client."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"The request body is not UTF-8, from byte {error.start} on.") from None
    model_at: Span | None = None
    turns: Span | None = None
    kept: dict[str, Span] = {}
    in_any_case: dict[str, Span] = {}
    formats: list[tuple[str, Span]] = []
    start = _after_space(raw, 0)
    for name, span in members(raw, start):
        if name == "model":
            model_at = span
        elif (folded := name.casefold()) in KEPT:
            in_any_case[folded] = span
            if name == folded:
                kept[name] = span
        elif name in TURNS:
            turns = span
        elif folded in FORMATS:
            formats.append((folded, span))
        elif name.startswith(RESERVED):
            raise Unreadable(f"The field {name!r} is not accepted: it is the gateway's own.", name)
    if model_at is None:
        raise Unreadable("The request has no 'model'.", "model")
    if raw[model_at[0]] != ord('"'):
        raise Unreadable("'model' must be a string.", "model")
    model = json.loads(raw[slice(*model_at)])
    stream = "stream" in kept and raw[slice(*kept["stream"])] == b"true"
    long_run = has_long_run(raw)
    return Reading(model, model_at, start + 1, stream, kept, in_any_case, tuple(formats), long_run, turns)


def members(raw: bytes, at: int, *, whole: bool = True) -> Iterator[tuple[str, Span]]:
    """Name and span of each member of the object at `at`, in order. With `whole` nothing may follow it.

    Raises Unreadable.
    """
    if raw[at : at + 1] != b"{":
        raise Unreadable("The request body must be one JSON object.")
    at = _after_space(raw, at + 1)
    if raw[at : at + 1] != b"}":
        while True:
            named = _name(raw, at)
            if named is None:
                raise _broken(at)
            end = _value_end(raw, named.end())
            yield _text(named.group()), (named.end(), end)
            at = _after_space(raw, end)
            if raw[at : at + 1] != b",":
                break
            at = _after_space(raw, at + 1)
        if raw[at : at + 1] != b"}":
            raise _broken(at)
    if whole and _after_space(raw, at + 1) != len(raw):
        raise _broken(_after_space(raw, at + 1))


def items(raw: bytes, at: int) -> Iterator[Span]:
    """Each item of the list at `at`, in order. Raises Unreadable, also where there is no list."""
    if raw[at : at + 1] != b"[":
        raise _broken(at)
    at = _after_space(raw, at + 1)
    while raw[at : at + 1] != b"]":
        end = _value_end(raw, at)
        yield at, end
        at = _after_space(raw, end)
        if raw[at : at + 1] == b",":
            at = _after_space(raw, at + 1)
        elif raw[at : at + 1] != b"]":
            raise _broken(at)


def _value_end(raw: bytes, at: int) -> int:
    """Where the value that begins at `at` ends."""
    open_ = bytearray()
    while True:
        if scalar := _scalar(raw, at):
            at = scalar.end()
        elif raw[at : at + 1] in (b"[", b"{"):
            inside = _after_space(raw, at + 1)
            if raw[inside : inside + 1] != (b"]" if raw[at] == ord("[") else b"}"):
                open_.append(raw[at])
                at = _to_value(raw, inside, open_[-1])
                continue
            at = inside + 1
        else:
            raise _broken(at)
        # A value has ended, and with it perhaps what it is in.
        while open_:
            flat = (_items if open_[-1] == ord("[") else _fields)(raw, at)
            assert flat is not None, "it may be empty"
            at = flat.end()
            if raw[at : at + 1] == b",":
                at = _to_value(raw, _after_space(raw, at + 1), open_[-1])
                break
            if raw[at : at + 1] != (b"]" if open_[-1] == ord("[") else b"}"):
                raise _broken(at)
            open_.pop()
            at += 1
        else:
            return at


def _to_value(raw: bytes, at: int, inside: int) -> int:
    """Where the value of the item or field begins that begins at `at`."""
    if inside == ord("["):
        return at
    named = _name(raw, at)
    if named is None:
        raise _broken(at)
    return named.end()


def _after_space(raw: bytes, at: int) -> int:
    space = _space(raw, at)
    return space.end() if space else at


def _text(named: bytes) -> str:
    """The name that a member's opening says, its escapes resolved."""
    string = _string(named)
    assert string is not None, "a member begins with a string"
    return str(json.loads(string.group()))


def _broken(at: int) -> Unreadable:
    return Unreadable(f"The request body is not valid JSON, from byte {at} on.")
