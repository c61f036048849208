"""Real completions, streamed or not: what an engine and a gateway have to give before they are believed."""

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any

PROMPT = "Write one short sentence about the sea."


@dataclass(frozen=True)
class Answer:
    """How one completion went. `loading`: nothing listens yet. `final`: it won't get better by itself."""

    ok: bool
    text: str = ""
    loading: bool = False
    final: bool = False
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
) -> Answer:
    """One completion of at most `max_tokens` tokens and `timeout` seconds in all.

    With a `patience` longer than that, an engine has so many seconds until it begins to answer, and from
    then on `timeout`; the `seconds` of a stream count from then on, too: before it may have loaded.

    Good is: content, a finish_reason, a count of tokens that can be true, and with `same_model`, as of an
    engine itself, the name that was asked for and a whole `usage` that adds up. A status code says nothing:
    an engine that is killed ends its stream with HTTP 200.
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
        "messages": [{"role": "user", "content": PROMPT}],
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
        tokens = _judge(whole, max_tokens, model if same_model else "")
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
    return Answer(True, facts={"stream": stream, "tokens": tokens, "seconds": took})


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


def _judge(whole: dict[str, Any], max_tokens: int, model: str) -> int:
    usage = whole["usage"] or {}
    tokens, given, total = (usage.get(f"{part}_tokens") for part in ("completion", "prompt", "total"))
    if not whole["content"]:
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
