"""What is not carried as it came: the whole table of it. Pure.

The engine gets the bytes that the client sent, but for the rows of `BODY`, and the client's headers only as
far as `HEADERS_IN` names them.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from proxy.protocols import CHAT, COMPLETIONS
from proxy.reading import Reading, Span, members

HEADERS_IN = {
    "accept": "what kind of answer the client reads",
    "user-agent": "engines log it",
    "traceparent": "W3C Trace Context: a trace goes on in the engine",
    "tracestate": "W3C Trace Context",
    "x-request-id": "vLLM answers with it and logs it",
    "anthropic-version": "which version of the protocol of messages the client speaks",
    "anthropic-beta": "what of that protocol the client also understands",
}
"""Headers of the client that the engine gets, and why. `Authorization`, cookies and keys are no business of
the engine's, and `tensorzero-*` are the gateway's; the rest has a meaning for one connection only."""

HEADERS_BACK = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade",
        "content-length",
    )
)  # fmt: skip
"""Headers of the engine's that the client does not get: they are about the engine's own connection."""

Edit = tuple[Span, bytes]
"""The bytes of a span, which may be empty, become these."""


@dataclass(frozen=True)
class Adaptation:
    """One row: `make` gives the edits for a body, none where it does not apply."""

    field: str
    engines: tuple[str, ...]
    paths: tuple[str, ...]
    reason: str
    make: Callable[[bytes, Reading], Iterable[Edit]]


def _max_tokens(raw: bytes, reading: Reading) -> Iterable[Edit]:
    span, known = reading.fields.get("max_completion_tokens"), reading.fields.get("max_tokens")
    if span is None or raw[slice(*span)] == b"null":
        return
    if known is None:
        yield (reading.inside, reading.inside), b'"max_tokens":' + raw[slice(*span)] + b","
    elif raw[slice(*known)] == b"null":
        yield known, raw[slice(*span)]


def _usage(raw: bytes, reading: Reading) -> Iterable[Edit]:
    if not adds_usage(raw, reading):
        return
    span = reading.fields.get("stream_options")
    if span is None:
        yield (reading.inside, reading.inside), b'"stream_options":{"include_usage":true},'
    elif raw[span[0]] != ord("{"):
        yield span, b'{"include_usage":true}'
    else:
        there = [at for name, at in _options(raw, span) if name == "include_usage"]
        if there:
            yield from ((at, b"true") for at in there)
        else:
            comma = b"," if any(True for _ in _options(raw, span)) else b""
            yield (span[0] + 1, span[0] + 1), b'"include_usage":true' + comma


def _options(raw: bytes, span: Span) -> Iterable[tuple[str, Span]]:
    return members(raw, span[0], whole=False)


def adds_usage(raw: bytes, reading: Reading) -> bool:
    """Whether a stream's usage is asked for although the client did not: the client must not get it."""
    if not reading.stream:
        return False
    span = reading.fields.get("stream_options")
    if span is None or raw[slice(*span)] == b"null":
        return True
    if raw[span[0]] != ord("{"):
        return False  # the engine refuses it, and says so better
    said = [raw[slice(*at)] for name, at in _options(raw, span) if name == "include_usage"]
    return not said or said[-1] in (b"false", b"null")


BODY = (
    Adaptation(
        "max_completion_tokens",
        ("ollama",),
        (CHAT,),
        "Ollama 0.17.4 ignores it, which today's OpenAI clients send, and would answer without a limit",
        _max_tokens,
    ),
    Adaptation(
        "stream_options.include_usage",
        ("ollama", "vllm"),
        (CHAT, COMPLETIONS),
        "tokens are counted from the usage that the engine reports; its chunk is taken out again. vLLM 0.32"
        " says its system_fingerprint in that chunk then, and not in the last one before it",
        _usage,
    ),
)
"""All fields that an engine gets otherwise than the client sent them."""


def body(raw: bytes, reading: Reading, path: str, kind: str, model: str) -> bytes:
    """What the engine of this kind gets, which calls the model `model`: `raw` itself where nothing is to be
    changed."""
    edits: list[Edit] = []
    if reading.model != model:
        edits.append((reading.model_at, json.dumps(model).encode()))
    for row in BODY:
        if kind in row.engines and path in row.paths:
            edits += row.make(raw, reading)
    return _edited(raw, edits) if edits else raw


def headers_in(client: Mapping[str, str]) -> dict[str, str]:
    """The headers with which the engine is asked."""
    kept = {name: client[name] for name in HEADERS_IN if name in client}
    return {"content-type": "application/json", **kept}


def headers_back(engine: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers with which the client is answered."""
    return [(name, value) for name, value in engine if name.lower() not in HEADERS_BACK]


def renamed(raw: bytes, model: str, asked: str) -> bytes:
    """An answer or the JSON of an event of an engine that calls the model `model`, for a client that asked
    for it as `asked`: with that name wherever the engine says its own. What is no JSON stays."""
    if model == asked:
        return raw
    edits: list[Edit] = []
    try:
        for name, span in members(raw, len(raw) - len(raw.lstrip())):
            said = raw[slice(*span)]
            if name == "model" and _says(said, model):
                edits.append((span, json.dumps(asked).encode()))
            elif name in ("message", "response") and raw[span[0]] == ord("{"):
                # of a stream of messages or of responses: the answer as it is so far
                edits.append((span, renamed(said, model, asked)))
            elif name == "error" or (name == "message" and raw[span[0]] == ord('"')):
                quoted = said
                for quote in ("'", "`", '\\"'):
                    quoted = quoted.replace(
                        f"{quote}{model}{quote}".encode(), f"{quote}{asked}{quote}".encode()
                    )
                edits.append((span, quoted))
    except ValueError:  # no JSON, or no text
        return raw
    return _edited(raw, edits)


def _edited(raw: bytes, edits: Iterable[Edit]) -> bytes:
    parts, at = [], 0
    for (start, end), new in sorted(edits):
        parts += [raw[at:start], new]
        at = end
    return b"".join([*parts, raw[at:]])


def _says(said: bytes, model: str) -> bool:
    try:
        return json.loads(said) in (model, f"{model}:latest")
    except ValueError:
        return False
