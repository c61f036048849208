"""A strict engine whose behaviour is exactly known, with at most one fault: the name of a probe. A double.

A token is a word; a prompt costs three more. Chats are its own; in other protocols it ends at its limit, as
the fast engine does. Text depends on nothing, so that it is the same each time.
"""

import itertools
import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from tests.support import fast_engine

MODEL, CONTEXT = "tiny", 512
WORDS = [f"w{n:02d}" for n in range(64)]


class Refuse(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class FaultyEngine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fault: ClassVar[str] = ""
    count = itertools.count()

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if self.path != "/v1/chat/completions":
                return self.other(raw)
            self.complete(raw)
        except Refuse as refuse:
            error = {"message": str(refuse), "type": "invalid_request_error", "param": None}
            self.whole(refuse.status, {"error": {**error, "code": refuse.status}})

    def other(self, raw: bytes) -> None:
        asked = json.loads(raw)
        if self.path.endswith("/count_tokens"):
            if self.fault == "count-tokens":
                raise Refuse(404, "not found")
            return self.whole(200, {"input_tokens": 4})
        name, stream = self.path.rsplit("/", 1)[1], asked["stream"]
        limit = asked.get("max_tokens") or asked["max_output_tokens"]
        finish = "stop" if self.fault == f"{name}{'-stream' if stream else ''}" else "length"
        base = {"id": "1", "created": 1, "model": MODEL}
        answer = fast_engine.FastAnswer(asked, base, WORDS[:limit], None, finish, 10, limit, 10 + limit)
        one, events = fast_engine.WAYS[self.path]
        if not stream:
            return self.whole(200, one(answer))
        self.begin()
        for _, event in events(answer):
            self.event(event)
        if "choices" in event:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True
        return None

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def complete(self, raw: bytes) -> None:
        fault = self.fault
        try:
            asked = json.loads(raw)
        except ValueError:
            raise Refuse(500 if fault == "malformed-json" else 400, "not JSON") from None
        if asked["model"] != MODEL:
            raise Refuse(400 if fault == "unknown-model" else 404, "no such model")
        messages, limit = asked["messages"], asked["max_tokens"]
        if not isinstance(messages, list):
            raise Refuse(422 if fault == "wrong-type" else 400, "messages must be a list")
        if not messages and fault != "empty-messages":
            raise Refuse(400, "no messages")
        if limit < 1 and fault != "negative-max-tokens":
            raise Refuse(400, "max_tokens must be positive")
        prompt = " ".join(message["content"] or "" for message in messages)
        given = len(prompt.split()) + (4 if fault == "prompt-tokens" else 3)
        if fault == "context-fits" and CONTEXT // 2 < given <= CONTEXT - limit:
            given = CONTEXT // 2
        if given + limit > CONTEXT and fault != "context-overlong":
            raise Refuse(400, "too long")
        stream = asked.get("stream", False)
        name = self.name_of(asked)
        if fault == name and name in ("tools", "tools-stream", "tool-result", "tool-result-stream"):
            raise Refuse(400, "no tools")
        tokens, more = max(limit, 1), {"max-tokens": 5, "max-tokens-one": 1}
        tokens += 3 if more.get(fault) == limit else 0
        words, finish = WORDS[:tokens], "length"
        if fault == "finish-length" and not asked.get("stream") and limit == 5:
            finish = "stop"
        if fault == "stream-finish" and asked.get("stream"):
            finish = "stop"
        text = " ".join(words)
        if fault == "temperature-zero" and limit == 24:
            text = f"{next(self.count)} {text}"
        for stop in asked.get("stop", []):
            if stop in text:
                at = text.index(stop)
                text = text[: at + (len(stop) if fault == "stop-string" else 0)]
                finish = "length" if fault == "finish-stop" else "stop"
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if "response_format" in asked:
            written = {"json-schema": '{"a": 1}', "json-schema-stream": "[]"}.get(fault, "no")
            message["content"] = written if fault == name else '{"word": "sea"}'
            words, finish = [message["content"]], "stop"
        if "tools" in asked and fault != name:
            call = {"name": "weather", "arguments": json.dumps({"city": "Oslo"})}
            message["tool_calls"] = [{"id": "1", "type": "function", "function": call}]
        if "tools" in asked and fault == name == "tool-argument":
            call = {"name": "weather", "arguments": json.dumps({"city": "Paris"})}
            message["tool_calls"] = [{"id": "1", "type": "function", "function": call}]
        if "7421" in prompt and fault != "needle":
            message["content"] = "7421"
        if len(codes := re.findall(r"The code of the \w+ is (\d+)\.", prompt)) > 1:
            message["content"] = " ".join(codes[: 3 if fault == "recall" else None])
        usage = {"prompt_tokens": given, "completion_tokens": tokens, "total_tokens": given + tokens}
        if fault == "usage":
            usage["total_tokens"] += 1
        base: dict[str, Any] = {"id": "1", "created": 1, "model": MODEL}
        if not stream:
            base["object"] = "chat.completion"
            if fault == "answer-fields":
                del base["created"]
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return self.whole(200, {**base, "choices": [choice], "usage": usage})
        base["object"] = "chat.completion.chunk"
        if fault == "stream-fields":
            del base["created"]
        options = asked.get("stream_options") or {}
        self.begin()
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": f"{word} "} for word in words]
        if calls := message.get("tool_calls"):
            deltas += [{"tool_calls": [{"index": 0, **calls[0]}]}]
        for delta in deltas:
            self.event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self.event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if options.get("include_usage") and fault != "stream-order":
            self.event({**base, "choices": [], "usage": usage})
        if fault == "stream-usage" and not options:
            self.event({**base, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True
        return None

    @staticmethod
    def name_of(asked: dict[str, Any]) -> str:
        """The probe that asks so, of those for tools and JSON."""
        end = "-stream" if asked.get("stream") else ""
        if form := asked.get("response_format"):
            return f"json-{'schema' if form['type'] == 'json_schema' else 'mode'}{end}"
        if "tools" not in asked:
            return ""
        if "tool_choice" in asked:
            return f"tool-named{end}"
        if asked["messages"][-1]["role"] == "tool":
            return f"tool-result{end}"
        return f"tools{end}" if asked["max_tokens"] == 64 else "tool-argument"

    def event(self, content: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")

    def whole(self, status: int, content: dict[str, Any]) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass
