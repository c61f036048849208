"""A test double of an engine: speaks OpenAI's API as vLLM does, and does as the prompt says.

It stands where an engine would where a test needs an answer it can predict. An answer's content is a
JSON object that tells what reached the engine: `path`, `headers`, and `body` with long prompts replaced
by their length and SHA-256. The last message may hold instructions in double square brackets:

    [[delay=2]]     seconds before the answer, or before a stream's first chunk
    [[tokens=20]]   chunks of a stream
    [[pace=0.1]]    seconds between two chunks
    [[status=500]]  answer with this status and an error

A prompt longer than `--max-chars` is a 400 in vLLM's words, and a model other than `--model` a 404.
`GET /requests` lists what was asked (method, path and status), so that a test can count.
"""

import argparse
import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Json = dict[str, Any]


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # With Nagle's algorithm each answer waits 40 ms for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1
    model: ClassVar[str] = "tiny"
    max_chars: ClassVar[int] = 100_000
    asked: ClassVar[list[Json]] = []

    def do_GET(self) -> None:
        if self.path == "/requests":
            self._send(200, {"requests": self.asked})
        elif self.path == "/health":
            self._send(200, {})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
        else:
            self._refuse(404, "Not Found", "NotFoundError")

    def do_POST(self) -> None:
        raw = self._read()
        try:
            body = json.loads(raw)
        except ValueError:
            return self._refuse(400, "The body is not JSON.", "BadRequestError")
        if body.get("model") != self.model:
            return self._refuse(404, f"The model `{body.get('model')}` does not exist.", "NotFoundError")
        if self.path == "/v1/chat/completions":
            return self._chat(body)
        if self.path == "/v1/embeddings":
            answer = {
                "object": "list",
                "model": self.model,
                "data": [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}],
                "usage": {"prompt_tokens": 1, "total_tokens": 1},
            }
            return self._answer(200, answer)
        return self._refuse(404, "Not Found", "NotFoundError")

    def _chat(self, body: Json) -> None:
        texts = [_text(message) for message in body.get("messages", [])]
        if not texts:
            return self._refuse(400, "messages: Field required", "BadRequestError")
        if sum(map(len, texts)) > self.max_chars:
            return self._refuse(
                400,
                f"This model's maximum context length is {self.max_chars} tokens. However, your request has"
                f" {sum(map(len, texts))} input tokens. Please reduce the length of the input messages.",
                "BadRequestError",
            )
        told = dict(re.findall(r"\[\[(\w+)=([\d.]+)\]\]", texts[-1][:1000]))
        time.sleep(float(told.get("delay", 0)))
        if "status" in told:
            return self._refuse(int(told["status"]), "as told", "InternalServerError")
        echo = json.dumps({"path": self.path, "headers": dict(self.headers), "body": _shortened(body)})
        if body.get("stream"):
            return self._stream(echo, int(told.get("tokens", 3)), float(told.get("pace", 0)))
        choice = {"index": 0, "message": {"role": "assistant", "content": echo}, "finish_reason": "stop"}
        return self._answer(200, self._completion("chat.completion", [choice]) | {"usage": _USAGE})

    def _stream(self, echo: str, tokens: int, pace: float) -> None:
        self._note(200)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._events(echo, tokens, pace):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _events(self, echo: str, tokens: int, pace: float) -> Iterator[str]:
        for number in range(tokens):
            if number:
                time.sleep(pace)
            delta = {"role": "assistant", "content": echo if number == 0 else f" {number}"}
            yield json.dumps(self._chunk([{"index": 0, "delta": delta, "finish_reason": None}]))
        yield json.dumps(self._chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        yield json.dumps(self._chunk([]) | {"usage": _USAGE})
        yield "[DONE]"

    def _chunk(self, choices: list[Json]) -> Json:
        return self._completion("chat.completion.chunk", choices)

    def _completion(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": "chatcmpl-1",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "choices": choices,
        }

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _refuse(self, status: int, message: str, kind: str) -> None:
        error = {"message": message, "type": kind, "param": None, "code": status}
        self._answer(status, {"error": error})

    def _answer(self, status: int, body: Json) -> None:
        self._note(status)
        self._send(status, body)

    def _send(self, status: int, body: Json) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _note(self, status: int) -> None:
        self.asked.append({"method": self.command, "path": self.path, "status": status})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `GET /requests` is the log."""


_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    allow_reuse_address = True
    address_family = socket.AF_INET


def _text(message: Json) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _shortened(body: Json) -> Json:
    def short(message: Json) -> Json:
        text = _text(message)
        if len(text) <= 1000:
            return message
        return message | {"content": {"length": len(text), "sha256": digest(text)}}

    return body | {"messages": [short(message) for message in body.get("messages", [])]}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=8000)
    arguments.add_argument("--model", default="tiny")
    arguments.add_argument("--max-chars", type=int, default=100_000)
    options = arguments.parse_args()
    Engine.model = options.model
    Engine.max_chars = options.max_chars
    with Server(("0.0.0.0", options.port), Engine) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
