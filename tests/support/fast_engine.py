"""An engine that starts in a tenth of a second and does what its environment says; a test double.

FAST_NAMES (tiny; the models that it has, any other is 404), FAST_PORT (8000), FAST_DELAY (seconds before it
listens, as an engine that loads), FAST_TOKENS (seconds for each token), FAST_PROMPT (seconds that it reads a
prompt), FAST_READS (seconds for each token of a prompt, in which it does nothing else), FAST_SLOTS (requests
that it works on at one time), FAST_CACHE (tokens that its cache holds), and FAST_MODE:

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
    zeros, alike    embeddings that say nothing, and the same for every text

A token of a prompt is a word. It does one instruction: to say only one word. It speaks chat, completions,
responses (as vLLM does: `incomplete` at its limit), messages and its `count_tokens`. Given tools, it calls
the first, once, with what the tool's schema asks for; given a schema for its answer, it keeps to it. It
embeds, too: length and first letter of a text.

It refuses what either engine refuses, as vLLM 0.32 does: a path that none of them has (404), another method
than that of a path (405), and a body that is no JSON object, isn't said to be JSON, or lacks what the path
needs (400).

A prompt may say what it does: `[[say TEXT]]` and `[[call NAME ARGUMENTS]]`, TEXT and ARGUMENTS as JSON. It
makes such a call where it was given a tool of that name, and once its result has come back, says that. With
FAST_KEEP the last so many requests are kept, and GET /asked gives them.

GET /metrics is what vLLM says of its queue and cache, and GET /api/ps Ollama's word of where the model is. It
falls ill while there is a file in /tmp:

    frozen    no completion goes on, as where the process behind an engine's HTTP server hangs; everything
              else is answered. A start removes it.
    closed    no completion begins: all of them wait in its queue
    failing   HTTP 500
    slow      it reads a prompt for so many seconds as the file says
    spilled   the share of the model that is on the GPU, as the file says
    exits     it ends with status 3 when it is started

SIGTERM ends it at once, whatever it is doing, as Ollama does; with FAST_END after so many seconds, as vLLM.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]

MODE = os.environ.get("FAST_MODE", "ok")
NAMES = os.environ.get("FAST_NAMES", "tiny").split()
MODEL = NAMES[0] if NAMES else ""
TOKEN_SECONDS = float(os.environ.get("FAST_TOKENS", "0"))
PROMPT_SECONDS = float(os.environ.get("FAST_PROMPT", "0"))
READ_SECONDS = float(os.environ.get("FAST_READS", "0"))
READING = threading.Lock()
SLOTS = threading.Semaphore(int(os.environ.get("FAST_SLOTS", "1000")))
END_SECONDS = float(os.environ.get("FAST_END", "0"))
CACHE_TOKENS = int(os.environ.get("FAST_CACHE", "1000000"))
FROZEN, CLOSED, FAILING, SLOW, SPILLED, EXITS = (
    Path("/tmp", name) for name in ("frozen", "closed", "failing", "slow", "spilled", "exits")
)
KEPT = deque[dict[str, Any]](maxlen=int(os.environ.get("FAST_KEEP", "0")))
"""What was asked, oldest first: `path` and `body`."""
TOLD = re.compile(r"\[\[(say|call [\w-]+) (?=[\"{])")
"""The beginning of what a prompt has it do."""
BUSY: Counter[str] = Counter()
"""Requests that are `waiting` and `running`, and the `tokens` that these may take of the cache."""
MODEL_BYTES = 2**30
LOCK = threading.Lock()


@dataclass
class FastAnswer:
    """What is said to one request. `used` and `total` are its counts of tokens, true or not."""

    asked: Json
    base: Json
    words: list[str]
    call: tuple[str, str] | None
    finish: str
    given: int
    used: int
    total: int

    @property
    def text(self) -> str:
        return "".join(self.words)


Event = tuple[bool, Json]
"""Whether it takes the time of a token, and what it says."""


def openai_usage(answer: FastAnswer) -> Json:
    return {"prompt_tokens": answer.given, "completion_tokens": answer.used, "total_tokens": answer.total}


def chat(answer: FastAnswer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text}
    if answer.call:
        message["tool_calls"] = [chat_call(answer.call)]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish}
    return {**answer.base, "object": "chat.completion", "choices": [choice], "usage": openai_usage(answer)}


def chat_call(call: tuple[str, str]) -> Json:
    name, arguments = call
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def chat_events(answer: FastAnswer) -> Iterator[Event]:
    base = {**answer.base, "object": "chat.completion.chunk"}
    deltas: list[Json] = [{"content": word} for word in answer.words]
    if answer.call:
        deltas = [{"tool_calls": [{"index": 0, **chat_call(answer.call)}]}]
    for delta in deltas:
        choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}
        yield True, {**base, "choices": [choice]}
    yield False, {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]}
    if (answer.asked.get("stream_options") or {}).get("include_usage"):
        yield False, {**base, "choices": [], "usage": openai_usage(answer)}


def completion(answer: FastAnswer) -> Json:
    choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": answer.finish}
    return {**answer.base, "object": "text_completion", "choices": [choice], "usage": openai_usage(answer)}


def completion_events(answer: FastAnswer) -> Iterator[Event]:
    base = {**answer.base, "object": "text_completion"}
    for word in answer.words:
        yield True, {**base, "choices": [{"index": 0, "text": word, "logprobs": None, "finish_reason": None}]}
    end = {"index": 0, "text": "", "logprobs": None, "finish_reason": answer.finish}
    yield False, {**base, "choices": [end]}
    if (answer.asked.get("stream_options") or {}).get("include_usage"):
        yield False, {**base, "choices": [], "usage": openai_usage(answer)}


def response(answer: FastAnswer, *, ended: bool = True) -> Json:
    cut = ended and answer.finish == "length"
    base = {key: value for key, value in answer.base.items() if key != "created"}
    return {
        **base,
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if cut else "completed" if ended else "in_progress",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "error": None,
        "instructions": answer.asked.get("instructions"),
        "metadata": {},
        "output": [response_item(answer)] if ended else [],
        "parallel_tool_calls": True,
        "temperature": 0,
        "tool_choice": "auto",
        "tools": answer.asked.get("tools") or [],
        "top_p": 1,
        "text": {"format": {"type": "text"}},
        "usage": {
            "input_tokens": answer.given,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.used,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.total,
        }
        if ended
        else None,
    }


def response_item(answer: FastAnswer, *, begun: bool = False) -> Json:
    status = "in_progress" if begun else "completed"
    if answer.call:
        name, arguments = answer.call
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name}
        return {**item, "arguments": "" if begun else arguments, "status": status}
    content = [] if begun else [response_part(answer.text)]
    return {"type": "message", "id": "msg_1", "role": "assistant", "content": content, "status": status}


def response_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_events(answer: FastAnswer) -> Iterator[Event]:
    def events() -> Iterator[tuple[bool, str, Json]]:
        yield False, "response.created", {"response": response(answer, ended=False)}
        yield False, "response.in_progress", {"response": response(answer, ended=False)}
        item: Json = {"item_id": response_item(answer)["id"], "output_index": 0}
        part: Json = {**item, "content_index": 0}
        begun: Json = {"output_index": 0, "item": response_item(answer, begun=True)}
        yield False, "response.output_item.added", begun
        if answer.call:
            name, arguments = answer.call
            yield True, "response.function_call_arguments.delta", {**item, "delta": arguments}
            done = {**item, "name": name, "arguments": arguments}
            yield False, "response.function_call_arguments.done", done
        else:
            yield False, "response.content_part.added", {**part, "part": response_part("")}
            for word in answer.words:
                yield True, "response.output_text.delta", {**part, "delta": word, "logprobs": []}
            yield False, "response.output_text.done", {**part, "text": answer.text, "logprobs": []}
            yield False, "response.content_part.done", {**part, "part": response_part(answer.text)}
        yield False, "response.output_item.done", {"output_index": 0, "item": response_item(answer)}
        yield False, "response.completed", {"response": response(answer)}

    for number, (token, kind, event) in enumerate(events()):
        yield token, {"type": kind, "sequence_number": number, **event}


def message(answer: FastAnswer) -> Json:
    content: list[Json] = [{"type": "text", "text": answer.text}]
    if answer.call:
        name, arguments = answer.call
        content = [{"type": "tool_use", "id": "toolu_1", "name": name, "input": json.loads(arguments)}]
    base = {key: value for key, value in answer.base.items() if key != "created"}
    reason = {"length": "max_tokens", "tool_calls": "tool_use"}.get(answer.finish, "end_turn")
    usage = {"input_tokens": answer.given, "output_tokens": answer.used}
    about = {"type": "message", "role": "assistant", "stop_sequence": None}
    return {**base, **about, "content": content, "stop_reason": reason, "usage": usage}


def message_events(answer: FastAnswer) -> Iterator[Event]:
    whole = message(answer)
    begun: Json = {"content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 0}}
    yield False, {"type": "message_start", "message": {**whole, **begun}}
    (block,) = whole["content"]
    deltas: list[Json] = [{"type": "text_delta", "text": word} for word in answer.words]
    empty: Json = {"text": ""}
    if answer.call:
        deltas, empty = [{"type": "input_json_delta", "partial_json": answer.call[1]}], {"input": {}}
    yield False, {"type": "content_block_start", "index": 0, "content_block": {**block, **empty}}
    for delta in deltas:
        yield True, {"type": "content_block_delta", "index": 0, "delta": delta}
    yield False, {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield False, {"type": "message_delta", "delta": end, "usage": whole["usage"]}
    yield False, {"type": "message_stop"}


Way = tuple[Callable[[FastAnswer], Json], Callable[[FastAnswer], Iterator[Event]]]
WAYS: dict[str, Way] = {
    "/v1/chat/completions": (chat, chat_events),
    "/v1/completions": (completion, completion_events),
    "/v1/responses": (response, response_events),
    "/v1/messages": (message, message_events),
}
NEEDED: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("messages",),
    "/v1/completions": ("prompt",),
    "/v1/responses": ("input",),
    "/v1/messages": ("messages", "max_tokens"),
    "/v1/messages/count_tokens": ("messages",),
    "/v1/embeddings": ("input",),
}
"""What is asked by POST, each path with the fields that a body must have there."""
PAGES = ("/", "/health", "/v1/models", "/metrics", "/api/ps", "/asked")
"""What is asked by GET. The first is Ollama's, and the last is of no real engine."""
METHODS = dict.fromkeys(NEEDED, "POST") | dict.fromkeys(PAGES, "GET")


def prompt_of(asked: Json) -> str:
    """All of what is asked, in any protocol."""
    items = [{"content": asked[key]} for key in ("system", "instructions", "prompt") if asked.get(key)]
    given = asked.get("messages") or asked.get("input") or []
    items += [{"content": given}] if isinstance(given, str) else given
    texts = []
    for item in items:
        content = item.get("content", item.get("output", ""))
        parts = content if isinstance(content, list) else [content]
        texts += [str(part.get("text", "") if isinstance(part, dict) else part) for part in parts]
    return " ".join(texts)


def call_of(asked: Json) -> tuple[str, str] | None:
    """The call of the first tool, unless its result is the last that was said."""
    tools, choice = asked.get("tools"), asked.get("tool_choice")
    if not tools or choice == "none" or (isinstance(choice, dict) and choice.get("type") == "none"):
        return None
    given = asked.get("messages") or asked.get("input") or []
    last = given[-1] if isinstance(given, list) and given else {}
    content = last.get("content")
    results = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if (
        last.get("role") == "tool"
        or last.get("type") == "function_call_output"
        or any(part.get("type") == "tool_result" for part in results)
    ):
        return None
    tool = tools[0].get("function") or tools[0]
    schema = tool.get("parameters") or tool.get("input_schema") or {}
    return str(tool["name"]), json.dumps(sample(schema))


def told(asked: Json, prompt: str) -> tuple[str, tuple[str, str] | None] | None:
    """The text to say and the call to make, if the prompt has `[[…]]`; the last such counts."""
    plain = prompt.replace('\\"', '"')  # an agent may send it as one quoted word
    for begins in reversed(list(TOLD.finditer(plain))):
        try:
            given, end = json.JSONDecoder().raw_decode(plain, begins.end())
        except ValueError:
            continue
        what, _, name = begins[1].partition(" ")
        if plain[end : end + 2] != "]]":
            continue
        if what == "say":
            return str(given), None
        if results := results_of(asked):
            return f"{name} gave: {results[-1]}", None
        tools = {str((tool.get("function") or tool).get("name")) for tool in asked.get("tools") or []}
        return ("", (name, json.dumps(given))) if name in tools else (f"There is no {name}.", None)
    return None


def results_of(asked: Json) -> list[str]:
    """What the tools gave that were called, in any protocol."""
    given = asked.get("messages") or asked.get("input") or []
    found = list[Any]()
    for item in given if isinstance(given, list) else []:
        if item.get("role") == "tool":
            found.append(item.get("content"))
        elif str(item.get("type", "")).endswith("_call_output"):
            found.append(item.get("output"))
        elif isinstance(item.get("content"), list):
            parts = [part for part in item["content"] if isinstance(part, dict)]
            found += [part.get("content") for part in parts if part.get("type") == "tool_result"]
    return [
        "".join(str(part.get("text", "")) for part in each) if isinstance(each, list) else str(each)
        for each in found
    ]


def schema_of(asked: Json) -> Json | None:
    """The schema that the answer has to keep to; an empty one is any object."""
    form = asked.get("response_format") or (asked.get("text") or {}).get("format") or {}
    if form.get("type") == "json_object":
        return {}
    schema: Json | None = form.get("schema") or (form.get("json_schema") or {}).get("schema")
    return schema


def sample(schema: Json) -> Any:
    """Something that keeps to it."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: sample(each) for name, each in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [sample(schema.get("items") or {"type": "string"})]
    return {"string": "w0", "integer": 1, "number": 1.5, "boolean": True}.get(kind)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as both engines: else what comes in two parts is 40 ms late

    @property
    def at(self) -> str:
        return urlsplit(self.path).path

    def lost(self) -> bool:
        """Whether it has refused, as FastAPI does for vLLM, since no engine has this path, or not for this
        method."""
        method = METHODS.get(self.at)
        if method == self.command:
            return False
        status = HTTPStatus.METHOD_NOT_ALLOWED if method else HTTPStatus.NOT_FOUND
        said = json.dumps({"detail": status.phrase}).encode()
        self.answer(status, "application/json", said, {"Allow": method} if method else {})
        return True

    def do_other(self) -> None:
        """Any method that no engine takes anywhere."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert self.lost()

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_other

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.lost():
            return None
        try:  # what a real engine refuses in words
            if self.headers.get_content_type() != "application/json":
                raise ValueError("Unsupported Media Type: Only 'application/json' is allowed")
            asked = json.loads(raw)
            if missing := [name for name in NEEDED[self.at] if asked.get(name) in (None, [])]:
                raise ValueError(f"{missing[0]}: Field required")
            limits = ("max_tokens", "max_output_tokens", "max_completion_tokens")
            count = int(next((asked[name] for name in limits if asked.get(name) is not None), 8))
            if count < 1:
                raise ValueError("max_tokens must be 1 or more")
        except (ValueError, TypeError, AttributeError) as error:
            return self.refuse(400, f"fast engine: {error!r}")
        KEPT.append({"path": self.path, "body": asked})
        if self.at.endswith("/count_tokens"):  # by the HTTP server itself, whatever the model does
            return (
                None
                if self.refused(asked)
                else self.whole(200, {"input_tokens": len(prompt_of(asked).split())})
            )
        with counted(waiting=1):
            while CLOSED.exists():
                time.sleep(0.05)
            SLOTS.acquire()
        with released(SLOTS), counted(running=1, tokens=count):
            work(number(SLOW, PROMPT_SECONDS))
            if READ_SECONDS:
                with READING:
                    time.sleep(READ_SECONDS * len(prompt_of(asked).split()))
            if self.at == "/v1/embeddings":
                return self.embed(asked)
            return self.complete(asked, count)

    def refused(self, asked: Json) -> bool:
        """Whether it has answered with an error, as its mode or its models say."""
        if MODE in ("error", "missing") or FAILING.exists():
            self.refuse(404 if MODE == "missing" else 500, f"fast engine: {MODE}")
        elif MODE == "garbage":
            self.whole(200, {"hello": "world"})
        elif asked.get("model") not in NAMES:
            self.refuse(404, f"model {asked.get('model')!r} not found")
        else:
            return False
        return True

    def embed(self, asked: Json) -> None:
        if self.refused(asked):
            return None
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        given = sum(len(text.split()) for text in texts)
        if MODE == "short" and given > 100:
            return self.refuse(500, "fast engine: EngineDeadError")
        vectors = [[float(len(text)), float(ord(text[0]))] for text in texts]
        if MODE in ("zeros", "alike"):
            vectors = [[0.0, float(MODE == "alike")] for _ in texts]
        model = "other" if MODE == "other" else asked["model"]
        used = min(given, 100) if MODE == "cuts" else given
        data = [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(vectors)]
        usage = {"prompt_tokens": used, "total_tokens": used}
        return self.whole(200, {"object": "list", "model": model, "data": data, "usage": usage})

    def complete(self, asked: Json, count: int) -> None:
        if self.refused(asked):
            return None
        model = "other" if MODE == "other" else asked["model"]
        base = {"id": "fast", "created": int(time.time()), "model": model}
        if MODE == "nameless":
            del base["model"]
        prompt = prompt_of(asked)
        given = len(prompt.split())
        if MODE == "short" and given > 100:
            return self.refuse(500, "fast engine: EngineDeadError")
        given = {"promptless": 0, "cuts": min(given, 100)}.get(MODE, given)
        words = [] if MODE == "empty" else [f"w{n} " for n in range(count)]
        if MODE == "endless":
            words = ["!"] * count
        _, instructed, word = prompt.rpartition("Say only this one word: ")
        if instructed and MODE not in ("empty", "endless", "deaf"):
            words = [word]
        call, schema, finish = call_of(asked), schema_of(asked), "length"
        if does := told(asked, prompt):
            words, call, schema, finish = [does[0]], does[1], None, "stop"
        if call:
            words, finish = [], "tool_calls"
        elif schema is not None:
            words, finish = [json.dumps(sample(schema))], "stop"
        used = 10_000 if MODE == "lying" else len(words) or count
        total = 99 if MODE == "sumless" else given + used
        answer = FastAnswer(asked, base, words, call, finish, given, used, total)
        one, events = WAYS[self.at]
        if not asked.get("stream"):
            work(3600 if MODE == "hangs" else TOKEN_SECONDS * count)
            return self.whole(200, one(answer))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token, event in events(answer):
            if token:
                work(TOKEN_SECONDS)
            self.event(event)
            if token and MODE == "hangs":
                time.sleep(3600)
            if token and MODE == "breaks":
                self.close_connection = True
                return None
        if "choices" in event:
            self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
        return None

    def refuse(self, status: int, message: str) -> None:
        """An error in the form of the protocol that was spoken."""
        error: Json = {"error": {"message": message}}
        if self.at.startswith("/v1/messages"):
            error = {"type": "error", "error": {"type": "api_error", "message": message}}
        self.whole(status, error)

    def do_GET(self) -> None:
        if self.lost():
            return None
        if self.at == "/asked":
            return self.whole(200, list(KEPT))
        if self.at == "/health":
            return self.answer(200, "application/json", b"")
        if self.at == "/":
            return self.answer(200, "text/plain", b"Ollama is running")
        if self.at == "/metrics":
            return self.answer(200, "text/plain", metrics().encode())
        if self.at == "/api/ps":
            on_gpu = round(MODEL_BYTES * number(SPILLED, 1))
            return self.whole(200, {"models": [{"name": MODEL, "size": MODEL_BYTES, "size_vram": on_gpu}]})
        return self.whole(
            200, {"object": "list", "data": [{"id": name, "object": "model"} for name in NAMES]}
        )

    def whole(self, status: int, content: Json | list[Json]) -> None:
        self.answer(status, "application/json", json.dumps(content).encode())

    def answer(self, status: int, kind: str, raw: bytes, more: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(raw)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def event(self, content: Json) -> None:
        name = f"event: {content['type']}\n" if "type" in content else ""
        self.chunk(f"{name}data: {json.dumps(content)}\n\n".encode())

    def chunk(self, raw: bytes) -> None:
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def counted(**more: int) -> Iterator[None]:
    """So many more are `BUSY` meanwhile."""
    with LOCK:
        BUSY.update(more)
    try:
        yield
    finally:
        with LOCK:
            BUSY.subtract(more)


@contextmanager
def released(slots: threading.Semaphore) -> Iterator[None]:
    """A slot that was taken is free afterwards."""
    try:
        yield
    finally:
        slots.release()


def number(file: Path, otherwise: float) -> float:
    """What a file says, where it is there."""
    try:
        return float(file.read_text())
    except OSError:
        return otherwise


def metrics() -> str:
    """What vLLM exposes, by its names, as far as it is known here."""
    values = {
        "num_requests_running": BUSY["running"],
        "num_requests_waiting": BUSY["waiting"],
        "kv_cache_usage_perc": min(1, BUSY["tokens"] / CACHE_TOKENS),
    }
    return "".join(f'vllm:{name}{{model_name="{MODEL}"}} {value}\n' for name, value in values.items())


def work(seconds: float) -> None:
    time.sleep(seconds)
    with READING:
        pass
    while FROZEN.exists():
        time.sleep(0.05)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024  # 5 by default: a crowd that comes at once would be reset


def end() -> None:
    time.sleep(END_SECONDS)
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: end())
    FROZEN.unlink(missing_ok=True)
    print(f"fast engine: {MODE}", flush=True)
    time.sleep(float(os.environ.get("FAST_DELAY", "0")))
    if MODE == "exits" or EXITS.exists():
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
