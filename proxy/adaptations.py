"""What is not carried as it came: the whole table of it. Pure.

The engine gets the bytes that the client sent, but for the rows of `BODY`, and the client's headers only as
far as `HEADERS_IN` names them.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxy import harm
from proxy.protocols import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from proxy.reading import Reading, Span, members
from proxy.refusals import Refusal

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


Make = Callable[[bytes, Reading, int | None], Iterable[Edit]]
"""Gives the edits for a body and an engine with this context, in tokens; None: it is not known."""

_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
"""Words that vLLM takes for true, as Pydantic does."""
_COMMA = re.compile(rb"\s*,\s*")
_INTEGER = re.compile(rb"-?[0-9]{1,19}")
_LARGEST = 2**63 - 1
"""What Ollama reads into an `int`. It refuses a number that is none of these by itself."""


@dataclass(frozen=True)
class Adaptation:
    """One row: `make` gives no edits where it does not apply."""

    field: str
    engines: tuple[str, ...]
    paths: tuple[str, ...]
    reason: str
    make: Make


def _limit(field: str, *others: str) -> Make:
    """The length of an answer as Ollama knows it, from the first of these fields that says one."""

    def make(raw: bytes, reading: Reading, context: int | None) -> Iterable[Edit]:
        fields = reading.in_any_case
        said = [raw[slice(*fields[name])] for name in (field, *others) if name in fields]
        wanted = next((value for value in said if value != b"null"), None)
        if context is not None and (wanted is None or _endless(wanted, context)):
            wanted = str(context).encode()
        if field not in fields:
            if wanted is not None:
                yield (reading.inside, reading.inside), f'"{field}":'.encode() + wanted + b","
        elif wanted is not None and wanted != said[0]:
            yield fields[field], wanted

    return make


def _lowered(raw: bytes, reading: Reading, context: int | None) -> Iterable[Edit]:
    """A length of an answer that has to be said, and is more than the context."""
    span = reading.in_any_case.get("max_tokens")
    if span is not None and context is not None and raw[span[0]] != ord("-"):
        said = raw[slice(*span)]
        if _endless(said, context) and int(said):
            yield span, str(context).encode()


def _endless(value: bytes, context: int) -> bool:
    """Whether Ollama takes this for a limit, and would answer beyond the context all the same."""
    if not _INTEGER.fullmatch(value):
        return False
    return -_LARGEST - 1 <= int(value) <= 0 or context < int(value) <= _LARGEST


def _usage(raw: bytes, reading: Reading, _: int | None) -> Iterable[Edit]:
    if not adds_usage(raw, reading):
        return
    span = reading.fields.get("stream_options")
    if span is None:
        yield (reading.inside, reading.inside), b'"stream_options":{"include_usage":true},'
    elif raw[span[0]] != ord("{"):
        yield span, b'{"include_usage":true}'
    else:
        options = list(_options(raw, span))
        there = [at for name, at in options if name == "include_usage"]
        yield from ((at, b"true") for at in there)
        if not there:
            yield (span[0] + 1, span[0] + 1), b'"include_usage":true' + (b"," if options else b"")
        # without the other one it asked for nothing, and with it for a usage in each event
        in_each = (at for name, at in options if name == "continuous_usage_stats")
        yield from ((at, b"false") for at in in_each if _is_true(raw[slice(*at)]))


def _is_true(said: bytes) -> bool:
    """Whether vLLM takes this value for true: also 1, however it is written, and some words."""
    if said[0] in b"[{":
        return False
    try:
        value = json.loads(said)
    except ValueError:  # more digits than Python reads
        return False
    return value.lower() in _TRUE if isinstance(value, str) else bool(value == 1)


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


ENDLESS = (
    "without a limit, with a negative one and with one beyond it Ollama 0.17.4 answers up to ten times the"
    " context (llm/server.go), and with 0 without end (runner.go); vLLM ends at the context"
)

BODY = (
    Adaptation(
        "max_tokens",
        ("ollama",),
        (CHAT,),
        f"{ENDLESS}; and it ignores max_completion_tokens, which today's OpenAI clients send",
        _limit("max_tokens", "max_completion_tokens"),
    ),
    Adaptation("max_tokens", ("ollama",), (COMPLETIONS,), ENDLESS, _limit("max_tokens")),
    Adaptation("max_output_tokens", ("ollama",), (RESPONSES,), ENDLESS, _limit("max_output_tokens")),
    Adaptation("max_tokens", ("ollama",), (MESSAGES,), f"{ENDLESS}; without one it refuses", _lowered),
    Adaptation(
        "stream_options.include_usage",
        ("ollama", "vllm"),
        (CHAT, COMPLETIONS),
        "tokens are counted from the usage that the engine reports; its chunk is taken out again, and so are"
        " the zeros that Ollama 0.17.4 then says in each chunk of a completion. vLLM 0.32"
        " says its system_fingerprint in that chunk then, and not in the last one before it. A"
        " continuous_usage_stats beside it, which alone means nothing, becomes false",
        _usage,
    ),
)
"""All fields that an engine gets otherwise than the client sent them."""


@dataclass(frozen=True)
class HarmfulField:
    """One row: `find` says what of a body ends this engine or holds it for ever; None: nothing known."""

    field: str
    engines: tuple[str, ...]
    paths: tuple[str, ...]
    reason: str
    find: Callable[[bytes, Reading], str | None]


PROMPT_BYTES = 512
"""Of a request that asks for the probabilities of its prompt. As many tokens and a vocabulary of 152,000 take
half a gigabyte, and one is left beside the KV cache."""


def _schema(name: str) -> Callable[[bytes, Reading], str | None]:
    def find(raw: bytes, reading: Reading) -> str | None:
        faults = (harm.schema_fault(raw[slice(*span)]) for each, span in reading.formats if each == name)
        return next((fault for fault in faults if fault), None)

    return find


def _prompt_logprobs(raw: bytes, reading: Reading) -> str | None:
    if len(raw) <= PROMPT_BYTES:
        return None
    asked = {name: raw[slice(*span)] not in (b"null", b"false") for name, span in reading.fields.items()}
    if asked.get("prompt_logprobs") or (
        asked.get("echo") and (asked.get("logprobs") or asked.get("top_logprobs"))
    ):
        return f"probabilities of the prompt's own tokens in a request larger than {PROMPT_BYTES} bytes"
    return None


def _long_run(_: bytes, reading: Reading) -> str | None:
    if reading.long_run:
        return f"{harm.RUN} letters, spaces or other characters of one class without a break"
    return None


PROMPTS = {
    CHAT: "messages",
    COMPLETIONS: "prompt",
    EMBEDDINGS: "input",
    RESPONSES: "input",
    MESSAGES: "messages",
}
RUNS = (
    "Ollama 0.17.4 splits a prompt by a regular expression that recurses once for each character of a run;"
    " with Qwen2's the stack is full after 25,900, and the whole server ends (src/unicode.cpp)"
)
SCHEMAS = (
    "Ollama 0.17.4 makes a grammar of a JSON schema in C++: a pattern with (?:…), a name of 26,000 characters"
    " and an allOf that leads to itself end the server; a maxLength below the minLength, a minimum beyond"
    " 10^15 and a pattern with a ] too many keep it for ever (common/json-schema-to-grammar.cpp). A grammar"
    " that is none, as of the pattern \\d, ends the runner (common/sampling.cpp)"
)

REFUSED = (
    *(HarmfulField(name, ("ollama",), (path,), RUNS, _long_run) for path, name in PROMPTS.items()),
    HarmfulField("response_format", ("ollama",), (CHAT,), SCHEMAS, _schema("response_format")),
    HarmfulField("text", ("ollama",), (RESPONSES,), SCHEMAS, _schema("text")),
    HarmfulField(
        "prompt_logprobs",
        ("vllm",),
        (CHAT, COMPLETIONS),
        "vLLM 0.33 computes a probability of each word of its vocabulary for each token of a chunk of the"
        " prompt, a gigabyte and more, and a GPU has less left (v1/worker/gpu_model_runner.py); and so for"
        " `echo` with `logprobs`",
        _prompt_logprobs,
    ),
)
"""What no engine gets: each row is known to end the pinned one, or to hold it for ever."""


def refused(raw: bytes, reading: Reading, path: str, kind: str) -> Refusal | None:
    """Why the engine of this kind must not get this body; None: it may."""
    for row in REFUSED:
        if kind in row.engines and path in row.paths and (found := row.find(raw, reading)):
            text = f"{found[:1].upper()}{found[1:]}: this engine ({kind}) would not survive it."
            return Refusal(400, text, "invalid_request", row.field)
    return None


def body(raw: bytes, reading: Reading, path: str, kind: str, model: str, context: int | None) -> bytes:
    """What the engine of this kind gets, which calls the model `model` and has this context in tokens: `raw`
    itself where nothing is to be changed."""
    edits: list[Edit] = []
    if reading.model != model:
        edits.append((reading.model_at, json.dumps(model).encode()))
    for row in BODY:
        if kind in row.engines and path in row.paths:
            edits += row.make(raw, reading, context)
    return _edited(raw, edits) if edits else raw


def headers_in(client: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers with which the engine is asked. Of a header in several lines it gets one that says the same
    (RFC 9110, 5.3)."""
    kept = {"content-type": "application/json"}
    for name, value in ((name.lower(), value) for name, value in client):
        if name in HEADERS_IN:
            kept[name] = f"{kept[name]}, {value}" if name in kept else value
    return kept


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
                quoted = re.sub(_unquoted(model), asked.encode(), said)
                for quote in ("'", "`", '\\"'):
                    quoted = quoted.replace(
                        f"{quote}{model}{quote}".encode(), f"{quote}{asked}{quote}".encode()
                    )
                edits.append((span, quoted))
    except ValueError:  # no JSON, or no text
        return raw
    return _edited(raw, edits)


def without(raw: bytes, name: str) -> bytes:
    """A JSON object without its member of this name, and else in its own bytes. What is no JSON stays."""
    before = None
    try:
        for each, (_, end) in members(raw, len(raw) - len(raw.lstrip())):
            if each == name:
                if before is not None:
                    return raw[:before] + raw[end:]
                comma = _COMMA.match(raw, end)
                return raw[: raw.index(b"{") + 1] + raw[comma.end() if comma else end :]
            before = end
    except ValueError:
        pass
    return raw


def _unquoted(model: str) -> bytes:
    """A pattern of the name where an error says it without quotes, of what its model can't do: Ollama 0.17.4
    with registry and tag (`types/model/name.go`), and vLLM of images (`multimodal/registry.py`)."""
    missing = ("registry.ollama.ai/library/", "registry.ollama.ai/", "")[min(model.count("/"), 2)]
    full = re.escape(missing + model + ("" if ":" in model else ":latest"))
    forms = rf"{full}(?![\w./:-])|{re.escape(model)}(?= is not a multimodal model)"
    return rf"(?<![\w./:-])(?:{forms})".encode()


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
