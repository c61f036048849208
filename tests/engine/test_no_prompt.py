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
from tests.support.project import CommandFailed, Project, docker, offline_settings, patched, pid_of
from tests.support.switch_stack import wait

pytestmark = pytest.mark.engine

MARKER = "xyzzymarker"
KEY = f"{MARKER}0123456789abcdef"
"""Of a tenant: what looks for the marker finds it, too."""
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
    # what hangs is given up after 20 s, so that less time goes by in waiting for that
    with patched(project, "switch/plan.py", "answers: float = 45", "answers: float = 20"):
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


def others() -> Iterator[tuple[str, bytes]]:
    """Path and body of requests in every other protocol: good ones, and some that are refused on the way."""
    said = [{"role": "user", "content": f"Say {MARKER}."}]
    wrong = [{"role": MARKER, "content": [{"type": MARKER, "text": MARKER}]}]
    tool = {"name": MARKER, "description": MARKER, "input_schema": {"type": MARKER}}
    text = {"format": {"type": "json_schema", "name": MARKER, "schema": {"type": MARKER}}}
    message = {"max_tokens": 8, "system": MARKER, "messages": said}
    asks: dict[str, list[dict[str, Any]]] = {
        "/v1/completions": [
            {"prompt": MARKER, "max_tokens": 8},
            {"prompt": [MARKER, MARKER], "max_tokens": 8, "stream": True},
            {"prompt": {MARKER: MARKER}},
            {"prompt": MARKER, "suffix": MARKER, "logprobs": MARKER},
            {"prompt": f"{MARKER} " * 4000},
        ],
        "/v1/responses": [
            {"input": MARKER, "instructions": MARKER, "max_output_tokens": 8},
            {"input": said, "max_output_tokens": 8, "stream": True},
            {"input": wrong, "metadata": {MARKER: MARKER}},
            {"input": {MARKER: MARKER}, "previous_response_id": MARKER},
            {"input": MARKER, "text": text, "tools": [{"type": MARKER, "name": MARKER}]},
        ],
        "/v1/messages": [
            message,
            {**message, "stream": True},
            {**message, "messages": wrong},
            {**message, "messages": MARKER},
            {**message, "system": {MARKER: MARKER}, "max_tokens": MARKER},
            {**message, "tools": [tool], "tool_choice": {"type": MARKER, "name": MARKER}},
            {"messages": said, "metadata": {"user_id": MARKER}},
        ],
        "/v1/messages/count_tokens": [{"messages": said}, {"messages": wrong}, {"messages": MARKER}],
        "/v1/embeddings": [
            {"input": MARKER},
            {"input": [MARKER, 1]},
            {"input": {MARKER: MARKER}},
            {"input": MARKER, "encoding_format": MARKER, "dimensions": MARKER},
        ],
    }
    for path, each in asks.items():
        for ask in each:
            yield path, json.dumps({"model": "tiny", **ask}).encode()
        yield path, json.dumps({"model": MARKER, **each[0]}).encode()
        yield path, json.dumps({"model": "tiny", **each[0]}).encode()[:-3]


class Client:
    """Asks the endpoint and looks at no answer: what is wanted here is what it leaves behind."""

    def __init__(self, url: str, key: str = "none") -> None:
        self.host, self.port = str(urlsplit(url).hostname), urlsplit(url).port or 0
        self.key, self.statuses = key, set[int]()

    def ask(self, body: bytes, path: str = "/v1/chat/completions") -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=240)
        headers = {"Content-Type": "application/json", "X-Request-Id": "id"}
        headers["Authorization"] = f"Bearer {self.key}"
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
        done = subprocess.run(look, capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stderr  # 1: it is nowhere
        lines = done.stdout.splitlines()
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
    os.kill(pid_of(name), signal.SIGKILL)


def ready(project: Project) -> bool:
    """`settled`, where the switch may be away just now."""
    try:
        return project.settled()
    except (CommandFailed, ValueError):
        return False


def broken(project: Project) -> None:
    """The process that computes is killed; the server in front of it says an error after what it has sent."""
    name, started = project.live(), "{{.State.StartedAt}}"
    before = docker("inspect", "-f", started, name)
    rows = docker("top", name, "-eo", "pid,ppid,rss").splitlines()[1:]
    processes = [[int(each) for each in row.split()] for row in rows]
    parents = {parent for _, parent, _ in processes}
    os.kill(max((rss, pid) for pid, _, rss in processes if pid not in parents)[1], signal.SIGKILL)
    with suppress(AssertionError):  # Ollama's server goes on, and vLLM's ends after a while
        wait(lambda: docker("inspect", "-f", started, name) != before, 15)
    wait(lambda: ready(project), 180, "nothing serves again")


def given_up(project: Project) -> None:
    """The engine that serves hangs, until it has been started anew."""
    name, started = project.live(), "{{.State.StartedAt}}"
    before = docker("inspect", "-f", started, name)
    docker("pause", name)
    wait(lambda: docker("inspect", "-f", started, name) != before, 120, "it is not given up")
    wait(lambda: ready(project), 180, "nothing serves again")


def ask_everything(client: Client) -> None:
    """Sends all `bodies` and `others`, of which some are refused on each part of the way."""
    for body in bodies():
        client.ask(body)
    for path, body in others():
        client.ask(body, path)
    assert {200, 400, 404, 413} <= client.statuses


@pytest.mark.parametrize(
    ("engine", "gateway"),
    [
        ("ollama", "tensorzero"),
        pytest.param("ollama", "none", marks=pytest.mark.long),
        pytest.param("vllm", "none", marks=pytest.mark.long),
        pytest.param("vllm", "tensorzero", marks=pytest.mark.long),
    ],
)
def test_no_failure_puts_a_prompt_into_a_log(project: Project, engine: str, gateway: str) -> None:
    project.configure(engine=engine, gateway=gateway, cutover="hold")
    project.up()
    client = Client(project.outputs()["endpoint"])
    ask_everything(client)
    whole = json.dumps(chat(max_tokens=200, stream=True)).encode()
    for seconds in (0.0, 0.05, 0.5):
        client.broken_off(whole, seconds)
    client.broken_off(whole, 0.2, length=len(whole) + 100)
    client.broken_off(whole, 0.2, length=len(whole) - 60)  # the rest is read as another request

    def settled(role: str) -> None:
        kill(project, role)
        wait(lambda: ready(project), 180, f"{role}: nothing serves again")

    roles = ["engine", "proxy", *(["gateway"] if gateway != "none" else []), "edge", "switch"]
    for role in roles:
        client.while_asking(lambda role=role: settled(role))  # type: ignore[misc]
    client.while_asking(lambda: broken(project))
    client.while_asking(lambda: given_up(project))
    found = leaks(project)
    project.configure(engine="ollama" if engine == "vllm" else "vllm")
    project.pulumi("config", "set", "--secret", "--path", "apiKeys.tester", KEY)
    client.while_asking(project.up)  # held, and answered by the other one
    for key in (KEY, KEY[:-1]):
        with_key = Client(project.outputs()["endpoint"], key)
        with_key.ask(json.dumps(chat()).encode())
        assert with_key.statuses == {200 if key == KEY else 401}
    ask_everything(Client(project.outputs()["endpoint"], KEY))  # of the other engine
    project.pulumi("config", "rm", "--path", "apiKeys.tester")
    assert not (found + leaks(project)), "\n".join(found + leaks(project))


@pytest.mark.long
def test_a_prompt_that_has_waited_for_too_long_is_in_no_log(project: Project) -> None:
    """With a budget that a change that succeeds would exceed, which is refused otherwise."""
    with patched(project, "components/fit.py", "if budget >= bounds.worst:", "if budget >= 1:"):
        project.configure(holdBudgetSeconds=1)
        project.up()
        client = Client(project.outputs()["endpoint"])

        def held() -> None:
            kill(project, "engine")
            time.sleep(0.5)
            client.ask(json.dumps(chat()).encode())
            wait(lambda: ready(project), 180, "nothing serves again")

        client.while_asking(held)
        assert 503 in client.statuses
        assert not leaks(project), "\n".join(leaks(project))
        project.configure(holdBudgetSeconds=None)
    project.up()
