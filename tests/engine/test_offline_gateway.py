"""The offline gateway's image behaves as the public one: it unpacks bodies, and ends no request early."""

import base64
import gzip
import http.client
import json
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components import pins, tensorzero
from tests.support import recording_engine
from tests.support.containers import put_files, remove_labelled
from tests.support.project import docker
from tests.support.recording_engine import PIECES, STREAM_HEADERS, Record, Script, recorded, script

pytestmark = pytest.mark.engine

MODEL = "tiny"
PATH = "/openai/v1/chat/completions"
BODY = b'{"model":"tensorzero::model_name::tiny","messages":[{"role":"user","content":"packed"}]}'
BROTLI = (
    "G1cAYIzDdKtxN0L4zk5EsDzyF4w0LW1326zWYenq65QDh8DK2moeHg9uw+cUFF1pmT5+zzsXrYKIazB8QWX4yAXA6BCJMmidLt8B"
)
ZSTD = (
    "KLUv/SBYVQIAMoUQFaAZcyBaVhLQRHa/cSaargqS4lHVh0WgqHmhEEPdrGdZ6egdD3V/7JoALn5AEI86iihC2kekBL"
    "bdE2dYz7rnxlBTAQBOmE0="
)
PACKED = {
    "gzip": gzip.compress(BODY),
    # There is no packer for these in the project's environment: BODY, packed elsewhere.
    "br": base64.b64decode(BROTLI),
    "zstd": base64.b64decode(ZSTD),
}
EVENT_S = 1.0


@dataclass
class Stage:
    """The gateway's image with the rendered TOML, and a recording engine behind it."""

    run: str = field(default_factory=lambda: f"gateway-{uuid.uuid4().hex[:8]}")

    def start(self) -> None:
        docker("network", "create", "--label", f"test={self.run}", self.run)
        source = Path(recording_engine.__file__).read_text()
        command = ["python3", "/engine.py", "--model", MODEL]
        self._start("engine", pins.SWITCH.offline, 8000, {"/engine.py": source}, command)
        provider = tensorzero.Provider(kind="vllm", api_base="http://engine:8000/v1/", model_name=MODEL)
        limits = tensorzero.Timeouts(total=60, first_token=60, stream=60)
        model = tensorzero.ChatModel(name=MODEL, providers=(provider,), timeouts=limits)
        text = tensorzero.render(tensorzero.GatewayConfig(models=(model,)))
        files = {tensorzero.CONFIG_FILE: text}
        self._start("gateway", pins.GATEWAY.offline, 3000, files, list(tensorzero.COMMAND))

    def _start(self, role: str, image: str, port: int, files: dict[str, str], command: list[str]) -> None:
        """Start a container with these files, and wait until it can be asked at its port."""
        name = f"{self.run}-{role}"
        of_test = ["--label", f"test={self.run}", "--name", name]
        reached = ["--network", self.run, "--network-alias", role, "-p", f"127.0.0.1::{port}"]
        docker("create", *of_test, *reached, image, *command)
        put_files(name, files)
        docker("start", name)
        limit = time.monotonic() + 30
        while self._status(role) != 200:
            assert time.monotonic() < limit, f"{role} does not start"
            time.sleep(0.1)

    def _status(self, role: str) -> int:
        try:
            return self.ask(role, "GET", "/health")[0]
        except (OSError, http.client.HTTPException):
            return 0

    def port(self, role: str) -> int:
        inside = {"engine": 8000, "gateway": 3000}[role]
        return int(docker("port", f"{self.run}-{role}", str(inside)).splitlines()[0].rpartition(":")[2])

    def ask(
        self, role: str, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, str, bytes]:
        """Status, Accept-Encoding and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(role), timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.getheader("accept-encoding", ""), answer.read()
        finally:
            connection.close()

    def records(self) -> list[Record]:
        return recorded(self.ask("engine", "GET", "/recorded")[2])

    def tell(self, answer: Script) -> None:
        assert self.ask("engine", "POST", "/script", script("", answer))[0] == 200

    def remove(self) -> None:
        remove_labelled(f"test={self.run}")


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    try:
        stage.start()
        yield stage
    finally:
        stage.remove()


def test_packed_bodies_are_unpacked_and_other_encodings_refused(stage: Stage) -> None:
    for number, (encoding, packed) in enumerate(PACKED.items(), start=1):
        status, _, text = stage.ask("gateway", "POST", PATH, packed, Content_Encoding=encoding)
        assert status == 200, text
        records = stage.records()
        assert len(records) == number
        assert json.loads(records[-1].body)["messages"][0]["content"] == "packed"
    for encoding in ("deflate", "gzip, br"):
        status, takes, _ = stage.ask("gateway", "POST", PATH, b"x", Content_Encoding=encoding)
        assert (status, takes) == (415, "zstd,gzip,br")


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_whose_client_has_gone_runs_to_its_end_also_when_the_gateway_is_stopped(
    stage: Stage, stream: bool
) -> None:
    stage.tell(slow_stream() if stream else slow_answer())
    asked = {"model": f"tensorzero::model_name::{MODEL}", "messages": [{"role": "user", "content": "x"}]}
    body = json.dumps({**asked, "stream": stream}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", stage.port("gateway"))) as client:
        client.sendall(head + body)
        if stream:
            assert client.recv(1).startswith(b"H")
        end = time.monotonic() + 30
        while not stage.records():
            assert time.monotonic() < end, "the gateway does not ask"
            time.sleep(0.05)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(docker, "stop", "-t", "60", f"{stage.run}-gateway")
        time.sleep(1)
        assert not stopping.done()
        stopping.result()
    (record,) = stage.records()
    assert record.hung_up_after_seconds is None
    assert record.ended


def slow_stream() -> Script:
    """A second between two pieces."""
    events = []
    for number, piece in enumerate(PIECES):
        delta = {"role": "assistant", "content": piece}
        events.append(chunk([{"index": 0, "delta": delta, "finish_reason": None if number < 4 else "stop"}]))
    parts = [(EVENT_S, f"data: {event}\n\n".encode()) for event in (*map(json.dumps, events), "[DONE]")]
    return Script(headers=STREAM_HEADERS, framing="chunked", parts=tuple(parts))


def slow_answer() -> Script:
    message = {"role": "assistant", "content": "late"}
    answer = chunk([{"index": 0, "message": message, "finish_reason": "stop"}]) | {
        "usage": recording_engine.USAGE
    }
    return Script(parts=((5 * EVENT_S, json.dumps(answer).encode()),))


def chunk(choices: list[dict[str, object]]) -> dict[str, object]:
    return {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices}
