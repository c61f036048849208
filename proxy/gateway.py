"""All that the proxy knows of the gateway, TensorZero 2026.6.0: how it is asked which engine it is to be, and
what it needs to hear from that engine. Pure.

It gets none of the client's request, since it drops what it doesn't know and rewrites what it knows, and none
of the engine's answer but what was used: so it decides and counts, and can't fail over what it carries.
"""

import json

from proxy.answers import Usage

PATH = "/openai/v1/chat/completions"
PREFIX = "tensorzero::model_name::"
"""What the gateway wants before the name of a model; a bare name is a 400."""
ID = "x-changeover-id"
"""Header by which the gateway's question to an engine finds its request again."""


def question(model: str, number: str, stream: bool) -> bytes:
    """A minimal completion, which the gateway always takes, with the header that it is to send on."""
    return json.dumps(
        {
            "model": f"{PREFIX}{model}",
            "messages": [{"role": "user", "content": "-"}],
            "stream": stream,
            "tensorzero::extra_headers": [{"name": ID, "value": number}],
        }
    ).encode()


def answer(usage: Usage) -> bytes:
    """A minimal completion that was not streamed."""
    message = {"role": "assistant", "content": "-"}
    return _json(
        object="chat.completion",
        choices=[{"index": 0, "message": message, "finish_reason": "stop"}],
        usage=_usage(usage),
    )


def first() -> bytes:
    """The first event of a stream."""
    delta = {"role": "assistant", "content": "-"}
    return _event(_json(object="chat.completion.chunk", choices=[_choice(delta, None)]))


def last(usage: Usage) -> bytes:
    """The events that end a stream."""
    end = _json(object="chat.completion.chunk", choices=[_choice({}, "stop")])
    used = _json(object="chat.completion.chunk", choices=[], usage=_usage(usage))
    return _event(end) + _event(used) + _event(b"[DONE]")


def _choice(delta: dict[str, str], finish: str | None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _usage(usage: Usage) -> dict[str, int]:
    prompt, completion = usage.prompt or 0, usage.completion or 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _json(**fields: object) -> bytes:
    return json.dumps({"id": "-", "created": 0, "model": "-", **fields}).encode()


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
