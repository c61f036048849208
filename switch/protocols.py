"""The protocols in which a model is asked for text: the path of each, how a short question is put in it, and
what the good end of an answer is. Pure.

A status code says nothing: an engine that is killed ends its stream with HTTP 200. The good end is a
`finish_reason` (of chat and completions, in a stream also `[DONE]`), a response that is `completed` or
`incomplete` (in a stream in the event of that name), and a `stop_reason` (in a stream also `message_stop`).
What Ollama 0.17.4 and vLLM 0.32 say is read from their sources: vLLM's response at its limit is `incomplete`,
in an event `response.completed` all the same, and Ollama's is always `completed`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NO_SUCH_PATH = (404, 405, 501)
"""The status by which an engine that has the model says that it doesn't speak a protocol. vLLM says 501 where
a model can't be asked so."""


class Broken(Exception):
    """An answer said that it has failed, in words of its own."""


@dataclass
class Said:
    """An answer, as far as it has come. Counts of tokens are the engine's own, whatever it says there.

    `finish` is why it ended, in the word of its protocol, and None until it has; of a stream also until the
    event has come after which nothing follows.
    """

    content: str = ""
    finish: str | None = None
    model: Any = None
    given: Any = None
    tokens: Any = None
    total: Any = None
    ended: bool = False


@dataclass(frozen=True, kw_only=True)
class TextProtocol:
    """`last` is what follows the last event of a stream, or nothing; `question` gives the fields of a request
    that are the protocol's own, and `answer` and `event` read a whole answer, and one event of a stream, into
    what was said.
    """

    name: str
    path: str
    last: str
    question: Callable[[str, int], dict[str, Any]]
    answer: Callable[[Said, Mapping[str, Any]], None]
    event: Callable[[Said, Mapping[str, Any]], None]

    def ask(self, model: str, prompt: str, *, max_tokens: int, stream: bool) -> dict[str, Any]:
        """A request for at most `max_tokens` tokens, which is answered alike each time. It has to say what it
        has used."""
        asked = {"model": model, **self.question(prompt, max_tokens), "temperature": 0, "stream": stream}
        if stream and self.last:
            asked["stream_options"] = {"include_usage": True}
        return asked

    def read(self, answer: Mapping[str, Any]) -> Said:
        """A whole answer. Raises Broken for one that says that it has failed, and KeyError, TypeError,
        IndexError or AttributeError for what is none."""
        said = Said()
        _failed(answer)
        self.answer(said, answer)
        said.ended = True
        return said

    def hear(self, said: Said, data: str | bytes) -> bool:
        """Adds the data of one event; whether it was the last one. Raises what `read` does, and ValueError
        for what is no JSON."""
        if self.last and data in (self.last, self.last.encode()):
            said.ended = True
        else:
            event = json.loads(data)
            _failed(event)
            self.event(said, event)
        return said.ended


def _failed(answer: Mapping[str, Any]) -> None:
    kind = answer.get("type")
    whole = answer.get("response") if kind == "response.failed" else answer
    error = whole.get("error") if isinstance(whole, Mapping) else None
    if error or kind in ("error", "response.failed"):
        raise Broken(json.dumps(error or answer)[:300])


def _text(message: Mapping[str, Any]) -> str:
    """What a model wrote, its reasoning included: a model that reasons may spend all its tokens on it."""
    return "".join(message.get(key) or "" for key in ("content", "reasoning_content", "reasoning"))


def _openai_used(said: Said, answer: Mapping[str, Any]) -> None:
    usage = answer.get("usage") or {}
    said.model = answer.get("model") or said.model
    said.given = usage.get("prompt_tokens", said.given)
    said.tokens = usage.get("completion_tokens", said.tokens)
    said.total = usage.get("total_tokens", said.total)


def _openai(part: Callable[[Mapping[str, Any]], str]) -> Callable[[Said, Mapping[str, Any]], None]:
    def read(said: Said, answer: Mapping[str, Any]) -> None:
        for choice in answer["choices"]:
            said.content += part(choice)
            said.finish = choice.get("finish_reason") or said.finish
        _openai_used(said, answer)

    return read


def _chat_question(prompt: str, max_tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}


def _responses_answer(said: Said, answer: Mapping[str, Any]) -> None:
    parts = [part for item in answer["output"] for part in item.get("content") or []]
    said.content = "".join(part.get("text") or "" for part in parts)
    if answer["status"] in ("completed", "incomplete"):
        said.finish = answer["status"]
    usage = answer.get("usage") or {}
    said.model = answer.get("model")
    said.given, said.tokens, said.total = (
        usage.get(f"{part}_tokens") for part in ("input", "output", "total")
    )


def _responses_event(said: Said, event: Mapping[str, Any]) -> None:
    if event["type"] in ("response.output_text.delta", "response.reasoning_text.delta"):
        said.content += event["delta"]
    elif event["type"] in ("response.completed", "response.incomplete"):
        heard = said.content
        _responses_answer(said, event["response"])
        said.content, said.ended = heard, True


def _messages_used(said: Said, usage: Mapping[str, Any]) -> None:
    """Anthropic's `input_tokens` are without those that were read from a cache or written to it."""
    if "input_tokens" in usage:
        cached = (usage.get(f"cache_{how}_input_tokens") or 0 for how in ("read", "creation"))
        said.given = sum(cached, usage["input_tokens"])
    said.tokens = usage.get("output_tokens", said.tokens)
    said.total = (said.given or 0) + (said.tokens or 0)  # it has none of its own


def _messages_answer(said: Said, answer: Mapping[str, Any]) -> None:
    said.content = "".join(part.get("text") or part.get("thinking") or "" for part in answer["content"])
    said.finish = answer.get("stop_reason") or None
    said.model = answer.get("model")
    _messages_used(said, answer.get("usage") or {})


def _messages_event(said: Said, event: Mapping[str, Any]) -> None:
    if event["type"] == "message_start":
        _messages_answer(said, event["message"])
    elif event["type"] == "content_block_delta":
        said.content += event["delta"].get("text") or event["delta"].get("thinking") or ""
    elif event["type"] == "message_delta":
        said.finish = event["delta"].get("stop_reason") or said.finish
        _messages_used(said, event.get("usage") or {})
    elif event["type"] == "message_stop":
        said.ended = True


CHAT = TextProtocol(
    name="chat",
    path="/v1/chat/completions",
    last="[DONE]",
    question=_chat_question,
    answer=_openai(lambda choice: _text(choice["message"])),
    event=_openai(lambda choice: _text(choice["delta"])),
)
COMPLETIONS = TextProtocol(
    name="completions",
    path="/v1/completions",
    last="[DONE]",
    question=lambda prompt, max_tokens: {"prompt": prompt, "max_tokens": max_tokens},
    answer=_openai(lambda choice: choice["text"] or ""),
    event=_openai(lambda choice: choice["text"] or ""),
)
RESPONSES = TextProtocol(
    name="responses",
    path="/v1/responses",
    last="",
    question=lambda prompt, max_tokens: {"input": prompt, "max_output_tokens": max_tokens, "store": False},
    answer=_responses_answer,
    event=_responses_event,
)
MESSAGES = TextProtocol(
    name="messages",
    path="/v1/messages",
    last="",
    question=_chat_question,
    answer=_messages_answer,
    event=_messages_event,
)

PROTOCOLS = {each.name: each for each in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)}
"""Each protocol by its name."""
