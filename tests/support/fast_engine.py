"""An engine that starts in a tenth of a second and does what its environment says; a test double.

FAST_MODEL (tiny), FAST_PORT (8000), FAST_DELAY (seconds before it listens, as an engine that loads),
FAST_TOKENS (seconds for each token), FAST_PROMPT (seconds that it reads a prompt), FAST_SLOTS (requests that
it works on at one time), FAST_NAMES (models that it has, any other is 404; empty: it answers as FAST_MODEL
whatever is asked for), and FAST_MODE:

    ok        completions, streamed or not
    exits     ends with status 3 at once
    silent    never listens
    error     HTTP 500
    missing   HTTP 404, as for a model it does not have
    garbage   HTTP 200 and something that is not a completion
    empty     a completion without content
    lying     a usage that can't be true
    promptless, sumless   a usage without prompt tokens, and one that doesn't add up
    other, nameless       the name of another model, and none
    hangs     begins to answer and never ends
    breaks    begins to answer and hangs up
    endless   says one token over and over
    deaf      doesn't do what it is told
    cuts      reads no more than 100 tokens of its prompt
    short     HTTP 500 for a prompt of more than 100 tokens
    oom       takes memory until it is killed

A token of a prompt is a word. It does one instruction: to say only one word.

POST /crash ends it with status 1. While there is a file /tmp/frozen, no completion goes on, as where the
process behind an engine's HTTP server hangs; everything else is answered. A start removes it.

SIGTERM ends it at once, whatever it is doing, as Ollama does.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODE = os.environ.get("FAST_MODE", "ok")
MODEL = os.environ.get("FAST_MODEL", "tiny")
NAMES = os.environ.get("FAST_NAMES", "").split()
TOKEN_SECONDS = float(os.environ.get("FAST_TOKENS", "0"))
PROMPT_SECONDS = float(os.environ.get("FAST_PROMPT", "0"))
SLOTS = threading.Semaphore(int(os.environ.get("FAST_SLOTS", "1000")))
FROZEN = Path("/tmp/frozen")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:  # what a real engine refuses in words
            asked = json.loads(raw or b"{}")
            count = int(asked.get("max_tokens") or 8)
            if count < 1:
                raise ValueError("max_tokens must be 1 or more")
        except (ValueError, TypeError, AttributeError) as error:
            return self.whole(400, {"error": {"message": f"fast engine: {error!r}"}})
        if self.path == "/crash":
            os._exit(1)
        with SLOTS:
            work(PROMPT_SECONDS)
            return self.complete(asked, count)

    def complete(self, asked: dict[str, Any], count: int) -> None:
        if MODE in ("error", "missing"):
            return self.whole(500 if MODE == "error" else 404, {"error": {"message": f"fast engine: {MODE}"}})
        if MODE == "garbage":
            return self.whole(200, {"hello": "world"})
        if NAMES and asked.get("model") not in NAMES:
            return self.whole(404, {"error": {"message": f"model {asked.get('model')!r} not found"}})
        model = "other" if MODE == "other" else asked["model"] if NAMES else MODEL
        base = {"id": "fast", "object": "chat.completion", "created": int(time.time()), "model": model}
        if MODE == "nameless":
            del base["model"]
        prompt = " ".join(str(each.get("content")) for each in asked.get("messages") or [])
        given = len(prompt.split())
        if MODE == "short" and given > 100:
            return self.whole(500, {"error": {"message": "fast engine: EngineDeadError"}})
        given = {"promptless": 0, "cuts": min(given, 100)}.get(MODE, given)
        words = [] if MODE == "empty" else [f"w{n} " for n in range(count)]
        if MODE == "endless":
            words = ["!"] * count
        _, told, word = prompt.rpartition("Say only this one word: ")
        if told and MODE not in ("empty", "endless", "deaf"):
            words = [word]
        used = 10_000 if MODE == "lying" else len(words) or count
        total = 99 if MODE == "sumless" else given + used
        usage = {"prompt_tokens": given, "completion_tokens": used, "total_tokens": total}
        if not asked.get("stream"):
            work(3600 if MODE == "hangs" else TOKEN_SECONDS * count)
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            return self.whole(200, {**base, "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        base["object"] = "chat.completion.chunk"
        for word in words:
            work(TOKEN_SECONDS)
            self.event({**base, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
            if MODE == "hangs":
                time.sleep(3600)
            if MODE == "breaks":
                self.close_connection = True
                return None
        self.event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            self.event({**base, "choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
        return None

    def do_GET(self) -> None:
        self.whole(
            200, {"object": "list", "data": [{"id": name, "object": "model"} for name in NAMES or [MODEL]]}
        )

    def whole(self, status: int, content: dict[str, Any]) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def event(self, content: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(content).encode() + b"\n\n")

    def chunk(self, raw: bytes) -> None:
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def work(seconds: float) -> None:
    time.sleep(seconds)
    while FROZEN.exists():
        time.sleep(0.05)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024  # 5 by default: a crowd that comes at once would be reset


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    FROZEN.unlink(missing_ok=True)
    print(f"fast engine: {MODE}", flush=True)
    time.sleep(float(os.environ.get("FAST_DELAY", "0")))
    if MODE == "exits":
        print("fast engine: out of something", flush=True)
        sys.exit(3)
    if MODE == "oom":
        taken = [b"x" * 2**20 for _ in range(10_000)]
        print(len(taken))
    if MODE == "silent":
        time.sleep(3600)
    server = Server(("", int(os.environ.get("FAST_PORT", "8000"))), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hung up
    server.serve_forever()


if __name__ == "__main__":
    main()
