"""Real completions, streamed or not: what an engine and a gateway have to give before they are believed."""

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any

PROMPT = "Write one short sentence about the sea."
WORD = "harbour"
INSTRUCTION = f"Say only this one word: {WORD}"
INSTRUCTION_TOKENS = 48
"""Enough for a model that first says that it will."""
PIECE = "The grass is green. "
"""A long prompt is as many of these as it takes; what one costs is measured."""
FEW, MORE = 2, 6
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
) -> Answer:
    """One completion of at most `max_tokens` tokens and `timeout` seconds in all.

    With a `patience` longer than that, an engine has so many seconds until it begins to answer, and from
    then on `timeout`; the `seconds` of a stream count from then on, too: before it may have loaded.

    Good is: content (unless it may be `silent`), with `sense` not one thing over and over, a finish_reason,
    a count of tokens that can be true, and with `same_model`, as of an engine itself, the name that was
    asked for and a whole `usage` that adds up. A status code says nothing: an engine that is killed ends its
    stream with HTTP 200.
    """
    limit = max(timeout, patience)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.connect()
    except OSError as error:  # refused, or a name that only a running container has
        connection.close()
        return Answer(False, f"does not listen yet ({error})", loading=True)
    ask: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": stream,
    }
    if stream:
        ask["stream_options"] = {"include_usage": True}
    began = time.monotonic()
    deadline = began + timeout
    line = connection.sock
    try:
        line.settimeout(limit)
        connection.request("POST", path, json.dumps(ask), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            said = answer.read(300).decode(errors="replace").strip()
            return Answer(False, f"HTTP {answer.status}: {said}", final=answer.status == 404)
        if limit > timeout:
            limit, begun = timeout, time.monotonic()
            began, deadline = begun if stream else began, begun + timeout
            line.settimeout(timeout)
        whole = _streamed(answer, deadline) if stream else _one(json.loads(answer.read()))
        tokens = _judge(whole, max_tokens, model if same_model else "", silent=silent)
        if sense and over_and_over(whole["content"]):
            raise _Bad(f"it says one thing over and over: {whole['content'][:40]!r}")
    except _Bad as error:
        return Answer(False, f"a bad {'streamed ' if stream else ''}completion: {error}")
    except TimeoutError:
        return Answer(False, f"a completion took more than {limit:g} s")
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, f"a completion broke off: {error or type(error).__name__}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return Answer(False, f"a completion that is not OpenAI's format: {error!r}")
    finally:
        connection.close()
    took = round(time.monotonic() - began, 3)
    return Answer(
        True,
        content=whole["content"],
        prompt_tokens=(whole["usage"] or {}).get("prompt_tokens") or 0,
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
            False, f"a prompt {MORE // FEW} times as long has {counts[1]} tokens, and had {counts[0]}"
        )
    pieces = max(FEW, FEW + int((prompt_tokens - counts[0]) / each))
    expected = counts[0] + (pieces - FEW) * each
    answer = ask(PIECE * pieces, max_tokens)
    if not answer.ok:
        return Answer(False, f"with a prompt of {expected:.0f} tokens: {answer.text}", final=answer.final)
    if answer.prompt_tokens < 0.9 * expected:
        return Answer(False, f"of a prompt of {expected:.0f} tokens it read {answer.prompt_tokens}")
    return answer


def wholly_on_gpu(answer: Answer, host: str, port: int) -> Answer:
    """`answer`, or a failure where Ollama has put part of a model on the CPU, which it does in silence."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/api/ps")
        models = json.loads(connection.getresponse().read())["models"]
        split = [m for m in models if m["size_vram"] != m["size"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        return Answer(False, f"/api/ps does not say where the model is: {error!r}")
    finally:
        connection.close()
    if not models:
        return Answer(False, "/api/ps shows no loaded model after a completion")
    if split:
        on_gpu, size = split[0]["size_vram"] / 2**30, split[0]["size"] / 2**30
        text = f"{on_gpu:.2f} of {size:.2f} GiB of the model are on the GPU, and the rest on the CPU"
        return Answer(False, text, final=True)
    return answer


def _one(answer: dict[str, Any]) -> dict[str, Any]:
    choice = answer["choices"][0]
    return {
        "content": _content(choice["message"]),
        "finish": choice.get("finish_reason"),
        "usage": answer.get("usage"),
        "model": answer.get("model"),
    }


def _streamed(answer: http.client.HTTPResponse, deadline: float) -> dict[str, Any]:
    whole: dict[str, Any] = {"content": "", "finish": None, "usage": None, "model": None}
    while line := answer.readline():
        if time.monotonic() > deadline:
            raise TimeoutError
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if data == b"[DONE]":
            answer.read()  # its end as well: an engine that is hung up on fills its log with it
            return whole
        event = json.loads(data)
        if "error" in event:
            raise _Bad(f"an error in the stream: {json.dumps(event['error'])[:300]}")
        whole["usage"] = event.get("usage") or whole["usage"]
        whole["model"] = event.get("model") or whole["model"]
        for choice in event["choices"]:
            whole["content"] += _content(choice["delta"])
            whole["finish"] = choice.get("finish_reason") or whole["finish"]
    raise _Bad("the stream ended without [DONE]")


def _content(message: dict[str, Any]) -> str:
    """What a model wrote, its reasoning included: a model that reasons may spend all its tokens on it."""
    return "".join(message.get(key) or "" for key in ("content", "reasoning_content", "reasoning"))


def _judge(whole: dict[str, Any], max_tokens: int, model: str, *, silent: bool = False) -> int:
    usage = whole["usage"] or {}
    tokens, given, total = (usage.get(f"{part}_tokens") for part in ("completion", "prompt", "total"))
    if not whole["content"] and not silent:
        raise _Bad("it has no content")
    if not whole["finish"]:
        raise _Bad("it has no finish_reason")
    if type(tokens) is not int or not 1 <= tokens <= max_tokens:
        raise _Bad(f"usage says {tokens!r} completion tokens, at most {max_tokens} were asked for")
    if model and whole["model"] not in (model, f"{model}:latest"):
        raise _Bad(f"it comes from the model {whole['model']!r}, not {model!r}")
    if model and (type(given) is not int or given < 1 or total != given + tokens):
        raise _Bad(f"usage says {given!r} prompt tokens, and {total!r} with {tokens} completion tokens")
    return tokens
