"""The protocols that clients speak: the paths of each, and how it says an error of the endpoint itself. Pure.

What they have in common is read alike in all of them: a top-level `model` and `stream` of a request, and
where an answer says its model and what it used (`proxy.adaptations.renamed`, `proxy.answers.Usage`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.refusals import Refusal

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES = "/v1/responses"
MESSAGES, COUNT_TOKENS = "/v1/messages", "/v1/messages/count_tokens"
MODELS = "/v1/models"

ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Types of error by status, of https://docs.anthropic.com/en/api/errors; every other one is `api_error` or,
below 500, `invalid_request_error`."""


@dataclass(frozen=True)
class ClientProtocol:
    """`error` gives the body of an error, and `event` the server-sent event by which a stream ends in one."""

    name: str
    error: Callable[[Refusal], bytes]
    event: Callable[[bytes], bytes]


def _openai(refusal: Refusal) -> bytes:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return json.dumps({"error": error}).encode()


def _anthropic(refusal: Refusal) -> bytes:
    kind = ANTHROPIC.get(refusal.status, "api_error" if refusal.status >= 500 else ANTHROPIC[400])
    return json.dumps({"type": "error", "error": {"type": kind, "message": refusal.message}}).encode()


def _openai_event(body: bytes) -> bytes:
    return _event("", body if _error(body) is not None else _openai(_told(body)))


def _responses_event(body: bytes) -> bytes:
    """Of https://platform.openai.com/docs/api-reference/responses-streaming/error."""
    error = _error(body) or {"message": _told(body).message}
    said = {
        "type": "error",
        "code": error.get("code"),
        "message": error.get("message"),
        "param": error.get("param"),
    }
    return _event("error", json.dumps({**said, "sequence_number": 0}).encode())


def _anthropic_event(body: bytes) -> bytes:
    """Of https://docs.anthropic.com/en/docs/build-with-claude/streaming, "Error events"."""
    error = _error(body)
    if error is None:
        return _event("error", _anthropic(_told(body)))
    if "type" not in json.loads(body):
        return _event("error", _anthropic(Refusal(502, str(error.get("message")))))
    return _event("error", body)


def _event(name: str, data: bytes) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    # a line of data has no line break in it
    return head + b"data: " + data.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"


def _error(body: bytes) -> dict[str, Any] | None:
    """The `error` of a body that has one as an object."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    error = said.get("error") if isinstance(said, dict) else None
    return error if isinstance(error, dict) else None


def _told(body: bytes) -> Refusal:
    """An error of an engine that says it in no protocol's form."""
    return Refusal(502, body.decode(errors="replace").strip() or "The engine gave no answer.")


OPENAI = ClientProtocol("openai", _openai, _openai_event)
OPENAI_RESPONSES = ClientProtocol("responses", _openai, _responses_event)
ANTHROPIC_MESSAGES = ClientProtocol("messages", _anthropic, _anthropic_event)

ENGINES = {
    CHAT: OPENAI,
    COMPLETIONS: OPENAI,
    EMBEDDINGS: OPENAI,
    RESPONSES: OPENAI_RESPONSES,
    MESSAGES: ANTHROPIC_MESSAGES,
    COUNT_TOKENS: ANTHROPIC_MESSAGES,
}
"""What an engine is asked, each path with its protocol."""

STREAMED = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
"""Those of them that are answered in a stream where that is asked for. The others ignore it."""


def is_computed(path: str, status: int) -> bool:
    """Whether such an answer shows that the model works. An engine's HTTP server by itself counts tokens and
    says errors, while what computes behind it may hang."""
    return status == 200 and path in ENGINES and path != COUNT_TOKENS


def of(path: str) -> ClientProtocol:
    """The protocol in which whoever asks this path reads an error."""
    if path == MESSAGES or path.startswith(f"{MESSAGES}/"):
        return ANTHROPIC_MESSAGES
    return ENGINES.get(path, OPENAI)
