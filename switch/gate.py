"""Real completions, streamed or not, and embeddings: what engines and gateways must give to be believed."""

import http.client
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from switch import protocols
from switch.client import BROKEN, JSON, asked, connected, get
from switch.protocols import CHAT, NO_SUCH_PATH, PROTOCOLS, Said, TextProtocol

LOADED = "/api/ps"
"""Path at which Ollama says which models it has loaded, and where."""
PROMPT = "Write one short sentence about the sea."
WORD = "harbour"
INSTRUCTION = f"Say only this one word: {WORD}"
INSTRUCTION_TOKENS = 48
"""Enough for a model that first says that it will."""
PIECE = "The grass is green. "
"""A long prompt is as many of these as it takes; what one costs is measured."""
FEW, MORE = 2, 6
FORMATS = {name: "Anthropic's" if name == "messages" else "OpenAI's" for name in PROTOCOLS}
LONGEST_UNIT, TIMES = 16, 6
"""What is repeated so often, and is no longer than a token can be, in characters, is no answer."""


@dataclass(frozen=True)
class Answer:
    """How one completion went. `loading`: nothing listens yet. `final`: it won't get better by itself."""

    ok: bool
    text: str = ""
    loading: bool = False
    final: bool = False
    content: str = ""
    prompt_tokens: int = 0
    unknown: bool = False
    """Whether there is nothing at this path, or no such model."""
    facts: dict[str, Any] = field(default_factory=dict)


class _Bad(Exception):
    pass


def complete(
    host: str,
    port: int,
    path: str,
    model: str,
    *,
    stream: bool,
    max_tokens: int,
    timeout: float,
    patience: float = 0,
    same_model: bool = True,
    prompt: str = PROMPT,
    sense: bool = False,
    silent: bool = False,
    protocol: TextProtocol = CHAT,
) -> Answer:
    """One completion of at most `max_tokens` tokens and `timeout` seconds in all.

    With a `patience` longer than that, an engine has so many seconds until it begins to answer, and from
    then on `timeout`; the `seconds` of a stream count from then on, too: before it may have loaded.

    Good is: content (unless it may be `silent`), with `sense` not one thing over and over, a finish_reason or
    what another `protocol` has in its place, a count of tokens that can be true, and with `same_model`, as of
    an engine itself, the name that was asked for and a whole `usage` that adds up. A status code says
    nothing: an engine that is killed ends its stream with HTTP 200.
    """
    limit = max(timeout, patience)
    try:
        connection = connected(host, port, timeout)
    except OSError as error:  # refused, or a name that only a running container has
        return Answer(False, f"it does not listen yet ({error})", loading=True)
    ask = protocol.ask(model, prompt, max_tokens=max_tokens, stream=stream)
    began = time.monotonic()
    deadline = began + timeout
    line = connection.sock
    try:
        line.settimeout(limit)
        with asked(connection, "POST", path, json.dumps(ask), JSON) as answer:
            if answer.status != 200:
                return _refused(answer)
            if limit > timeout:
                limit, begun = timeout, time.monotonic()
                began, deadline = begun if stream else began, begun + timeout
                line.settimeout(timeout)
            whole = (
                _streamed(answer, deadline, protocol) if stream else protocol.read(json.loads(answer.read()))
            )
        tokens = _judge(whole, max_tokens, model if same_model else "", silent=silent)
        if sense and over_and_over(whole.content):
            raise _Bad(f"it says one thing over and over: {whole.content[:40]!r}")
    except protocols.Broken as error:
        return Answer(False, f"a bad {'streamed ' if stream else ''}completion: it is an error: {error}")
    except _Bad as error:
        return Answer(False, f"a bad {'streamed ' if stream else ''}completion: {error}")
    except TimeoutError:
        return Answer(False, f"a completion took more than {limit:g} s")
    except BROKEN as error:
        return Answer(False, f"a completion broke off: {error or type(error).__name__}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return Answer(False, f"a completion is not in {FORMATS[protocol.name]} format: {error!r}")
    took = round(time.monotonic() - began, 3)
    return Answer(
        True,
        content=whole.content,
        prompt_tokens=whole.given or 0,
        facts={"stream": stream, "tokens": tokens, "seconds": took},
    )


def over_and_over(text: str) -> bool:
    """Whether a text is one short piece again and again, as of an engine whose numbers have overflowed."""
    text = text.strip()
    for size in range(1, min(LONGEST_UNIT, len(text) // TIMES) + 1):
        if text == (text[:size] * (len(text) // size + 1))[: len(text)]:
            return True
    return False


def sound(
    host: str, port: int, model: str, *, prompt_tokens: int, sense: bool, max_tokens: int, timeout: float
) -> Answer:
    """Whether an engine that gives short completions also follows an instruction, where the model can
    (`sense`), and reads a prompt of `prompt_tokens` tokens (0: none) to its end and answers it.
    """

    def ask(prompt: str, limit: int, silent: bool = False) -> Answer:
        return complete(
            host,
            port,
            "/v1/chat/completions",
            model,
            stream=False,
            max_tokens=limit,
            timeout=timeout,
            prompt=prompt,
            sense=sense,
            silent=silent,
        )

    if sense:
        answer = ask(INSTRUCTION, INSTRUCTION_TOKENS)
        if not answer.ok:
            return answer
        if WORD not in answer.content.lower():
            return Answer(False, f"asked to say only {WORD!r}, it said {answer.content[:80]!r}")
    if not prompt_tokens:
        return Answer(True)
    counts = []
    for pieces in (FEW, MORE):
        answer = ask(PIECE * pieces, 1, silent=True)
        if not answer.ok:
            return answer
        counts.append(answer.prompt_tokens)
    each = (counts[1] - counts[0]) / (MORE - FEW)
    if each <= 0:
        return Answer(
            False,
            f"it counts {counts[0]} tokens in a prompt, and {counts[1]} in one {MORE // FEW} times as long",
        )
    pieces = max(FEW, FEW + int((prompt_tokens - counts[0]) / each))
    expected = counts[0] + (pieces - FEW) * each
    answer = ask(PIECE * pieces, max_tokens)
    if not answer.ok:
        return Answer(False, f"with a prompt of {expected:.0f} tokens: {answer.text}", final=answer.final)
    if answer.prompt_tokens < 0.9 * expected:
        return Answer(False, f"it read {answer.prompt_tokens} tokens of a prompt of {expected:.0f}")
    return answer


def speaks(host: str, port: int, model: str, *, max_tokens: int, timeout: float) -> Answer:
    """Whether an engine that chats answers one streamed question in every other protocol that it speaks.

    Which those are, the facts say (`protocols`). An engine doesn't speak what it has no path for, and
    that is no failure. An answer may be empty: what is no chat may have nothing to say to a sentence.
    """
    spoken = [CHAT.name]
    for protocol in PROTOCOLS.values():
        if protocol is CHAT:
            continue
        answer = complete(
            host,
            port,
            protocol.path,
            model,
            stream=True,
            max_tokens=max_tokens,
            timeout=timeout,
            silent=True,
            protocol=protocol,
        )
        if answer.unknown:
            continue
        if not answer.ok:
            return Answer(False, f"asked at {protocol.path}: {answer.text}")
        spoken.append(protocol.name)
    return Answer(True, facts={"protocols": spoken})


TEXTS = (PROMPT, WORD)
"""Two texts whose embeddings can't be the same."""


def embed(
    host: str, port: int, model: str, *, timeout: float, patience: float = 0, prompt_tokens: int = 0
) -> Answer:
    """The embeddings of two texts, within `timeout` seconds, or within `patience` where that is longer, since
    the engine may have to load first; with `prompt_tokens`, of a text of so many tokens as well.

    Good is: a vector for each, as long as each other, of finite numbers that are not all zero, not the same
    for both texts, of the model that was asked for, with a count of tokens.
    """
    answer = _embedded(host, port, model, TEXTS, max(timeout, patience))
    if not answer.ok or not prompt_tokens:
        return answer
    counts = []
    for pieces in (FEW, MORE):
        short = _embedded(host, port, model, (PIECE * pieces, WORD), timeout)
        if not short.ok:
            return short
        counts.append(short.prompt_tokens)
    each = (counts[1] - counts[0]) / (MORE - FEW)
    if each <= 0:
        return Answer(
            False,
            f"it counts {counts[0]} tokens in a text, and {counts[1]} in one {MORE // FEW} times as long",
        )
    pieces = max(FEW, FEW + int((prompt_tokens - counts[0]) / each))
    expected = counts[0] + (pieces - FEW) * each
    long = _embedded(host, port, model, (PIECE * pieces, WORD), timeout)
    if not long.ok:
        return Answer(False, f"with a text of {expected:.0f} tokens: {long.text}", final=long.final)
    if long.prompt_tokens < 0.9 * expected:
        return Answer(False, f"it read {long.prompt_tokens} tokens of a text of {expected:.0f}")
    return answer


def _embedded(host: str, port: int, model: str, texts: Sequence[str], timeout: float) -> Answer:
    began = time.monotonic()
    try:
        connection = connected(host, port, timeout)
    except OSError as error:
        return Answer(False, f"it does not listen yet ({error})", loading=True)
    try:
        ask = json.dumps({"model": model, "input": list(texts)})
        with asked(connection, "POST", "/v1/embeddings", ask, JSON) as answer:
            if answer.status != 200:
                return _refused(answer)
            whole = json.loads(answer.read())
        vectors = [each["embedding"] for each in whole["data"]]
        given = (whole.get("usage") or {}).get("prompt_tokens")
        if problem := _not_vectors(vectors, len(texts)):
            return Answer(False, f"bad embeddings: {problem}")
        if whole["model"] not in (model, f"{model}:latest"):
            return Answer(False, f"bad embeddings: they are from the model {whole['model']!r}, not {model!r}")
        if type(given) is not int or given < 1:
            return Answer(False, f"bad embeddings: usage says {given!r} prompt tokens")
    except TimeoutError:
        return Answer(False, f"embeddings took more than {timeout:g} s")
    except BROKEN as error:
        return Answer(False, f"embeddings broke off: {error or type(error).__name__}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return Answer(False, f"the embeddings are not in OpenAI's format: {error!r}")
    took = round(time.monotonic() - began, 3)
    return Answer(True, prompt_tokens=given, facts={"stream": False, "tokens": given, "seconds": took})


def _not_vectors(vectors: Sequence[Sequence[float]], count: int) -> str:
    """What of embeddings can't be right; or nothing."""
    lengths = [len(each) for each in vectors]
    if len(vectors) != count or not all(lengths) or len(set(lengths)) > 1:
        return f"{len(vectors)} vectors of {', '.join(map(str, lengths)) or 'no'} numbers for {count} texts"
    if not all(math.isfinite(number) for each in vectors for number in each):
        return "they contain something that is not a finite number"
    if not all(any(each) for each in vectors):
        return "they are all zeros"
    return "two different texts have the same vector" if vectors[0] == vectors[1] else ""


def wholly_on_gpu(answer: Answer, host: str, port: int) -> Answer:
    """`answer`, or a failure where Ollama has put part of a model on the CPU, which it does in silence."""
    try:
        models = json.loads(get(host, port, LOADED, 10))["models"]
        split = [m for m in models if m["size_vram"] != m["size"]]
    except (*BROKEN, ValueError, KeyError, TypeError) as error:
        return Answer(False, f"{LOADED} does not say where the model is: {error!r}")
    if not models:
        return Answer(False, f"{LOADED} shows no loaded model after a completion")
    if split:
        on_gpu, size = split[0]["size_vram"] / 2**30, split[0]["size"] / 2**30
        text = f"{on_gpu:.2f} of {size:.2f} GiB of the model are on the GPU, and the rest on the CPU"
        return Answer(False, text, final=True)
    return answer


def gpu_share(host: str, port: int, timeout: float = 2) -> float | None:
    """The share of Ollama's loaded models that is on the GPU, 0 where none is loaded; None where Ollama does
    not say it within `timeout` seconds."""
    try:
        models = json.loads(get(host, port, LOADED, timeout))["models"]
        size = sum(m["size"] for m in models)
        return sum(m["size_vram"] for m in models) / size if size else 0.0
    except (*BROKEN, ValueError, KeyError, TypeError):
        return None


def _refused(answer: http.client.HTTPResponse) -> Answer:
    """An answer with another status than 200."""
    said = answer.read(300).decode(errors="replace").strip()
    status = answer.status
    return Answer(False, f"HTTP {status}: {said}", final=status == 404, unknown=status in NO_SUCH_PATH)


def _streamed(answer: http.client.HTTPResponse, deadline: float, protocol: TextProtocol) -> Said:
    said = Said()
    while line := answer.readline():
        if time.monotonic() > deadline:
            raise TimeoutError
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if protocol.hear(said, data):
            answer.read()  # its end as well: an engine that is hung up on fills its log with it
            return said
    raise _Bad(f"the stream ended without {protocol.last or 'its last event'}")


def _judge(said: Said, max_tokens: int, model: str, *, silent: bool = False) -> int:
    least = 0 if silent else 1
    if not said.content and not silent:
        raise _Bad("it has no content")
    if not said.finish:
        raise _Bad("it has no finish_reason")
    tokens, given, total = said.tokens, said.given, said.total
    if type(tokens) is not int or not least <= tokens <= max_tokens:
        raise _Bad(f"usage says {tokens!r} completion tokens, and at most {max_tokens} were asked for")
    if model and said.model not in (model, f"{model}:latest"):
        raise _Bad(f"it comes from the model {said.model!r}, not {model!r}")
    if model and (type(given) is not int or given < 1 or total != given + tokens):
        raise _Bad(f"usage says {given!r} prompt tokens, and {total!r} with {tokens} completion tokens")
    return tokens
