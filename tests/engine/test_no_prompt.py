"""What a client sends is in no log: a marker goes through everything that can fail, on the real engines, with
the gateway and without, and is then looked for in all that is kept.

"All" is the log of every container of the stack, whatever its volumes hold (the access log, the journal,
caches of engines), and the certificates.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from components import pins
from tests.support.project import Project, docker, offline_settings
from tests.support.switch_stack import wait

pytestmark = pytest.mark.engine

MARKER = "xyzzymarker"
STACK = "noprompt"
MAX_MIB = 1


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(
        tmp_path_factory.mktemp("project"),
        STACK,
        **offline_settings(parallel=2, maxRequestMiB=MAX_MIB),
    )
    project.wipe()
    yield project
    project.wipe()


def chat(**more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": MARKER}, {"role": "user", "content": f"Say {MARKER}."}]
    return {"model": "tiny", "max_tokens": 8, "messages": messages, **more}


def bodies() -> Iterator[bytes]:
    """Bodies that are good, and that each part of the way refuses."""
    function = {"name": MARKER, "description": MARKER, "parameters": {"type": "object", "properties": {}}}
    schema = {"name": MARKER, "schema": {"type": MARKER, "properties": {MARKER: {"type": [MARKER]}}}}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MARKER}"}}
    asks: list[dict[str, Any]] = [
        chat(),
        chat(stream=True),
        chat(model=MARKER),
        chat(model=["tiny", MARKER]),
        chat(messages=MARKER),
        chat(messages=[MARKER]),
        chat(messages=[{"role": MARKER, "content": MARKER}]),
        chat(messages=[{"role": "user", "content": [{"type": MARKER, "text": MARKER}]}]),
        chat(messages=[{"role": "user", "content": [picture]}]),
        chat(messages=[{"role": "user", "content": f"{MARKER} " * 4000}]),
        chat(messages=[{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": MARKER}}]}]),
        chat(messages=[{"role": "tool", "tool_call_id": MARKER, "content": MARKER}]),
        chat(temperature=MARKER),
        chat(max_tokens=MARKER),
        chat(max_tokens=-1, user=MARKER),
        chat(max_tokens=10**9),
        chat(stop=[MARKER], seed=MARKER),
        chat(logit_bias={MARKER: MARKER}),
        chat(stream=MARKER),
        chat(stream=True, stream_options=MARKER),
        chat(tools=[{"type": "function", "function": function}], tool_choice=MARKER),
        chat(tools=[{"type": MARKER, "function": MARKER}]),
        chat(tools=MARKER, tool_choice={"type": "function", "function": {"name": MARKER}}),
        chat(response_format={"type": "json_schema", "json_schema": schema}),
        chat(response_format={"type": MARKER}),
        chat(format=MARKER, guided_json=MARKER, chat_template=f"{{{{ {MARKER}() }}}}"),
        chat(structured_outputs={"regex": f"({MARKER}"}),
        chat(**{MARKER: MARKER}),
    ]
    for ask in asks:
        yield json.dumps(ask).encode()
    whole = json.dumps(chat()).encode()
    yield whole[:-3]
    yield whole + MARKER.encode()
    yield b"\xff" + MARKER.encode()
    yield MARKER.encode()
    yield b"[" * 5000 + MARKER.encode()
    yield json.dumps(chat(user=MARKER * (MAX_MIB * 2**20 // len(MARKER)))).encode()


class Client:
    """Asks the endpoint and looks at no answer: what is wanted here is what it leaves behind."""

    def __init__(self, url: str) -> None:
        self.host, self.port = str(urlsplit(url).hostname), urlsplit(url).port or 0
        self.statuses = set[int]()

    def ask(self, body: bytes, path: str = "/v1/chat/completions") -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=240)
        headers = {"Content-Type": "application/json", "X-Request-Id": "id", "Authorization": "Bearer none"}
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            self.statuses.add(answer.status)
            answer.read()
        connection.close()

    def broken_off(self, body: bytes, seconds: float, length: int | None = None) -> None:
        """A request whose client goes after a while; with `length` it promised another size of its body."""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n\r\n"
        )
        with suppress(OSError), socket.create_connection((self.host, self.port)) as sent:
            sent.sendall(head.encode() + body)
            time.sleep(seconds)

    def while_asking(self, what: Callable[[], object]) -> None:
        """Does something while streams and whole answers are under way."""
        long = [json.dumps(chat(max_tokens=400, stream=stream)).encode() for stream in (True, False)] * 2
        threads = [threading.Thread(target=self.ask, args=(body,)) for body in long]
        for thread in threads:
            thread.start()
        time.sleep(1)
        what()
        for thread in threads:
            thread.join()


def kept(project: Project, folder: Path) -> dict[str, bytes]:
    """All that could have the marker, by where it is."""
    found = {
        name: subprocess.run(["docker", "logs", name], capture_output=True, check=True)
        for name in project.everything()
    }
    texts = {f"the log of {name}": done.stdout + done.stderr for name, done in found.items()}
    marks = ["--filter", f"label=changeover.stack={STACK}", "--format", "{{.Name}}"]
    for volume in docker("volume", "ls", *marks).split():
        look = ["docker", "run", "--rm", "--volume", f"{volume}:/volume:ro", "--entrypoint", "grep"]
        look += [pins.SWITCH.offline, "-rac", MARKER, "/volume"]
        lines = subprocess.run(look, capture_output=True, check=False).stdout.splitlines()
        texts |= {
            f"the volume {volume}, {line!r}": MARKER.encode() for line in lines if not line.endswith(b":0")
        }
    for file in (folder / "certificates").rglob("*"):
        if file.is_file():
            texts[str(file)] = file.read_bytes()
    return texts


def leaks(project: Project) -> list[str]:
    return [
        f"{where}: {line[:300]!r}"
        for where, text in kept(project, project.folder).items()
        for line in text.splitlines()
        if MARKER.encode() in line
    ]


def kill(project: Project, role: str) -> None:
    (name,) = project.containers(role, running=True)
    os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", name)), signal.SIGKILL)


@pytest.mark.parametrize(
    ("engine", "gateway"),
    [
        ("ollama", "tensorzero"),
        ("vllm", "none"),
        pytest.param("ollama", "none", marks=pytest.mark.long),
        pytest.param("vllm", "tensorzero", marks=pytest.mark.long),
    ],
)
def test_no_failure_puts_a_prompt_into_a_log(project: Project, engine: str, gateway: str) -> None:
    project.configure(engine=engine, gateway=gateway, cutover="hold")
    project.up()
    client = Client(project.outputs()["endpoint"])
    for body in bodies():
        client.ask(body)
    client.ask(json.dumps({"model": "tiny", "input": [MARKER]}).encode(), "/v1/embeddings")
    client.ask(json.dumps(chat()).encode(), "/v1/completions")
    assert {200, 400, 404, 413} <= client.statuses
    whole = json.dumps(chat(max_tokens=200, stream=True)).encode()
    for seconds in (0.0, 0.05, 0.5):
        client.broken_off(whole, seconds)
    client.broken_off(whole, 0.2, length=len(whole) + 100)
    client.broken_off(whole, 0.2, length=len(whole) - 60)  # the rest is read as another request

    def settled(role: str) -> None:
        kill(project, role)
        wait(project.settled, 180, f"{role}: nothing serves again")

    roles = ["engine", "proxy", *(["gateway"] if gateway != "none" else [])]
    for role in roles:
        client.while_asking(lambda role=role: settled(role))  # type: ignore[misc]
    found = leaks(project)
    project.configure(engine="ollama" if engine == "vllm" else "vllm")
    client.while_asking(project.up)  # held, and answered by the other one
    assert not (found + leaks(project)), "\n".join(found + leaks(project))
