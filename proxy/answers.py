"""An engine's answer on its way: what it used, and whether it is whole. Pure."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from proxy.adaptations import renamed, without

_BETWEEN = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA = re.compile(rb"(?:^|[\r\n])data: ?([^\r\n]*)")

CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Of https://docs.anthropic.com/en/api/messages: a prompt has so many tokens beside its `input_tokens`."""


@dataclass
class Usage:
    """Tokens as the engine reported them; None: it did not."""

    prompt: int | None = None
    completion: int | None = None

    def see(self, said: Any) -> bool:
        """Takes the counts of an answer's `usage`; False where there are none."""
        if not isinstance(said, dict):
            return False
        prompt, completion = (
            next((said[name] for name in names if type(said.get(name)) is int and said[name] >= 0), None)
            for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
        )
        if prompt is None and completion is None:
            return False
        if prompt is not None:  # of a message, without what was in a cache, which vLLM can say
            prompt += sum(said[name] for name in CACHED if type(said.get(name)) is int and said[name] >= 0)
        # messages say the prompt's at the beginning of a stream, and the answer's at its end
        self.prompt = self.prompt if prompt is None else prompt
        self.completion = self.completion if completion is None else completion
        return True


def whole(raw: bytes) -> Usage:
    """What an answer that is not streamed used."""
    usage = Usage()
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return usage
    if isinstance(answer, dict):
        usage.see(answer.get("usage"))
    return usage


def given_on(raw: bytes, model: str, asked: str) -> tuple[Usage, bytes]:
    """What an answer that is not streamed used, and the answer as its client gets it. `model` and `asked` are
    the model's names at the engine and at the client."""
    return whole(raw), renamed(raw, model, asked)


@dataclass
class Events:
    """A stream of server-sent events, which are given on whole and in their own bytes.

    With `adds_usage` the engine was asked for a usage that the client did not want: that event is left out,
    and so are the zeros that Ollama 0.17.4 then says in each event of a completion (middleware/openai.go).
    `model` and `asked` are the model's names at the engine and at the client.
    """

    adds_usage: bool
    model: str
    asked: str
    usage: Usage = field(default_factory=Usage)
    seen: int = 0
    """Events of the answer itself."""
    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream can be given on now."""
        # What is there already ends no event, but for the bytes that may begin its end.
        at, new, out = 0, max(0, len(self._rest) - 3), []
        self._rest += chunk
        for between in _BETWEEN.finditer(self._rest, new):
            out.append(self._event(bytes(self._rest[at : between.end()])))
            at = between.end()
        del self._rest[:at]
        return b"".join(out)

    def end(self) -> bytes:
        """What is left when the engine has ended its stream."""
        rest = bytes(self._rest)
        self._rest.clear()
        return self._event(rest) if rest.strip() else rest

    def _event(self, event: bytes) -> bytes:
        found = _DATA.search(event)
        if found is None or found.group(1) == b"[DONE]":
            return event
        self.seen += 1
        if _DATA.search(event, found.end()):
            return event  # JSON in several lines, as no engine says it
        data = becomes = found.group(1)
        if b'"usage"' in event:
            try:
                said = json.loads(data)
            except (ValueError, RecursionError):
                return event
            if isinstance(said, dict):
                begins, inside = (said.get(name) for name in ("message", "response"))
                if isinstance(begins, dict):
                    # its 0 tokens of an answer would be all that is known of a message that breaks off
                    completion = self.usage.completion
                    self.usage.see(begins.get("usage"))
                    self.usage.completion = completion
                self.usage.see(inside.get("usage") if isinstance(inside, dict) else None)
                used, choices = said.get("usage"), said.get("choices")
                if choices and isinstance(used, dict) and not any(used.values()):
                    becomes = without(data, "usage") if self.adds_usage else data
                elif self.usage.see(used) and choices == []:
                    self.seen -= 1
                    if self.adds_usage:
                        return b""
        becomes = renamed(becomes, self.model, self.asked)
        return event if becomes is data else event[: found.start(1)] + becomes + event[found.end(1) :]
