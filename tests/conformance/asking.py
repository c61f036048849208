"""A client that sees bytes, and the test's side of the recording engine."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.gpu_memory import EngineKind
from tests.support import recording_engine
from tests.support.recording_engine import Record, Script
from tests.support.way import Way, eventually

CHAT = "/v1/chat/completions"
ECHO = "?answer=echo"
"""The query by which the recording engine answers a request with its own body."""
ENGINE = Path(recording_engine.__file__)
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """`body` is whole; `cut` says that it isn't. Header names are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False

    @property
    def error(self) -> dict[str, Any]:
        """An error of the endpoint itself, which has exactly the fields of OpenAI's."""
        assert self.headers["content-type"].startswith("application/json"), self
        (said,) = json.loads(self.body).values()
        assert set(said) == {"message", "type", "param", "code"}, said
        return dict(said)

    @property
    def anthropic(self) -> dict[str, Any]:
        """The same of a path of Anthropic's protocol."""
        assert self.headers["content-type"].startswith("application/json"), self
        said = json.loads(self.body)
        assert set(said) == {"type", "error"} and said["type"] == "error", said
        return dict(said["error"])


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = JSON
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        try:
            raw, cut = answer.read(), False
        except (http.client.HTTPException, OSError) as error:
            raw, cut = getattr(error, "partial", b""), True
        return Answer(answer.status, raw, {key.lower(): value for key, value in answer.getheaders()}, cut)
    finally:
        connection.close()


def body(**fields: Any) -> bytes:
    """A chat. It says how long its answer may be, since a limit is added for Ollama where there is none."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
    return json.dumps({**asked, **fields}).encode()


class Engine:
    """One recording engine of a way."""

    def __init__(self, way: Way, kind: EngineKind) -> None:
        self.way, self.kind, self._scripts = way, kind, 0
        way.start_engine(kind, ENGINE, "--model", way.name)
        self.ready()

    @property
    def port(self) -> int:
        return self.way.ports[self.kind]

    def ready(self) -> None:
        eventually(lambda: ask(self.port, "GET", "/health").status == 200, 30, f"{self.kind} listens")

    def tell(self, answer: Script) -> str:
        """The query by which a request gets this answer."""
        self._scripts += 1
        told = ask(self.port, "POST", "/script", recording_engine.script(f"s{self._scripts}", answer))
        assert told.status == 200, told
        return f"?answer=s{self._scripts}"

    def forget(self) -> None:
        ask(self.port, "DELETE", "/recorded")

    def taken(self) -> list[Record]:
        """The records, which are forgotten."""
        return recording_engine.recorded(ask(self.port, "DELETE", "/recorded?give").body)

    def records(self) -> list[Record]:
        return recording_engine.recorded(ask(self.port, "GET", "/recorded").body)

    def record(self) -> Record:
        """The only request since `forget`, once there is one."""
        eventually(self.records, 10, "the engine is asked")
        (record,) = self.records()
        return record


@contextlib.contextmanager
def sent(port: int, raw: bytes, *, host: str = "127.0.0.1", seconds: float = 60) -> Any:
    """A connection on which these bytes were sent."""
    with socket.create_connection((host, port), timeout=seconds) as client:
        client.sendall(raw)
        yield client


def request(path: str, raw: bytes, *lines: str, host: str = "test") -> bytes:
    """A request of HTTP/1.1, to the byte."""
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *lines]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"Content-Length: {len(raw)}")
    return "\r\n".join([*head, "", ""]).encode() + raw


def read_all(client: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_until(client: socket.socket, text: bytes) -> bytes:
    """What comes until this has."""
    raw = b""
    while text not in raw:
        part = client.recv(65536)
        assert part, raw
        raw += part
    return raw


def within(seconds: float, record: Any) -> float:
    """How long after it was whole a request's client hung up, as the engine saw it, in seconds."""
    end = time.monotonic() + seconds + 5
    while time.monotonic() < end:
        found = record()
        if found is not None and found.hung_up_after_seconds is not None:
            return float(found.hung_up_after_seconds)
        time.sleep(0.05)
    raise AssertionError("the engine goes on")
