"""The edge's contract, on the real Caddy: what it does with a request on the way to the proxy and back.

Behind it stands a double of the proxy that tells what reached it. Everything is made here, on a network of
its own, and removed.
"""

import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from components import caddyfile, pins
from components.containers import DNS_OPTIONS
from proxy.route import COPY_BYTES as COPY
from tests.conformance.asking import read_all
from tests.support import recording_upstream
from tests.support.containers import put_files, remove_labelled

pytestmark = pytest.mark.engine

LARGE = 4 * 2**20
"""A body of which the edge keeps no copy."""
PATH = "/v1/chat/completions"

Json = dict[str, Any]


def docker(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def told(self) -> Json:
        """What the double says it was asked."""
        assert self.status == 200, self
        value: Json = json.loads(self.text)
        return value

    @property
    def error(self) -> Json:
        """The error, which has exactly the fields of OpenAI's."""
        assert self.headers["content-type"].startswith("application/json"), self
        value: Json = json.loads(self.text)
        assert set(value) == {"error"}
        error: Json = value["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


@dataclass
class Edge:
    """An edge and doubles of the proxy on a Docker network of their own."""

    run: str = field(default_factory=lambda: f"edge-contract-{uuid.uuid4().hex[:8]}")
    config: caddyfile.EdgeConfig = field(
        default_factory=lambda: caddyfile.EdgeConfig(listen=":8080", proxy="proxy:8080")
    )
    port: int = 0

    def start(self) -> None:
        docker("network", "create", "--label", f"test={self.run}", self.run)
        self.start_proxy("proxy")
        dns = [word for option in DNS_OPTIONS for word in ("--dns-option", option)]
        self._create("edge", pins.EDGE.offline, "-p", "127.0.0.1::8080", *dns)
        self._start("edge", "/etc/caddy/Caddyfile", caddyfile.render(self.config))
        self.port = int(docker("port", self.name("edge"), "8080").splitlines()[0].rpartition(":")[2])
        eventually(lambda: self.request("GET", caddyfile.HEALTH_PATH).status == 200)
        self.apply(self.config)
        assert self.request("GET", PATH).status == 200

    def start_proxy(self, name: str) -> None:
        command = ["python3", "/upstream.py", "8080"]
        self._create(name, pins.SWITCH.offline, "--network-alias", "proxy", command=command)
        self._start(name, "/upstream.py", Path(recording_upstream.__file__).read_text())

    def name(self, role: str) -> str:
        return f"{self.run}-{role}"

    def _create(self, role: str, image: str, *options: str, command: Iterable[str] = ()) -> None:
        labels = ["--label", f"test={self.run}", "--name", self.name(role)]
        docker("create", "--network", self.run, *labels, *options, image, *command)

    def _start(self, role: str, path: str, content: str) -> None:
        put_files(self.name(role), {path: content})
        docker("start", self.name(role))

    def remove(self) -> None:
        remove_labelled(f"test={self.run}")

    def inside(self, *command: str, **env: str) -> str:
        words = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        return docker("exec", *words, self.name("edge"), *command)

    def apply(self, config: caddyfile.EdgeConfig, seen: str = "as declared") -> None:
        self.inside("sh", "-c", caddyfile.APPLY, CADDYFILE=caddyfile.render(config), SEEN=seen)

    def seen(self) -> str:
        return self.inside("sh", "-c", caddyfile.SEEN)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent, encode_chunked=not isinstance(body, bytes))
            response = connection.getresponse()
            text = response.read().decode()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, text)
        finally:
            connection.close()

    def post(self, body: bytes = b"{}", query: str = "", **headers: str) -> Answer:
        return self.request("POST", PATH + query, body, **headers)

    def chunked(self, body: bytes, query: str = "") -> Answer:
        parts = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
        return self.request("POST", PATH + query, parts, Transfer_Encoding="chunked")

    def open(self, query: str) -> socket.socket:
        """A connection on which a request was sent, to be closed at will."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST {PATH}{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        connection.sendall(head.encode() + b"{}")
        return connection

    @contextlib.contextmanager
    def sending(self, size: int) -> Iterator[socket.socket]:
        """A connection on which a body of `size` bytes is to follow."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=90) as connection:
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode())
            yield connection

    def asked(self, name: str = "proxy") -> list[Json]:
        """What a double was asked so far; from inside, where its port can be reached."""
        script = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/record').read().decode())"
        )
        found: list[Json] = json.loads(docker("exec", self.name(name), "python3", "-c", script))
        return found

    def log(self) -> str:
        words = ["docker", "logs", self.name("edge")]
        lines = subprocess.run(words, capture_output=True, text=True, check=True)
        return lines.stdout + lines.stderr


class Load:
    """Clients that ask without a pause, each on a connection that it keeps."""

    def __init__(self, edge: Edge, *, clients: int) -> None:
        self.edge = edge
        self.good = 0
        self.bad: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, timeout=120)
        while not self._stop.is_set():
            try:
                connection.request("POST", f"{PATH}?wait=0.05", b"{}")
                response = connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.bad.append(repr(error))
                connection.close()
                continue
            if response.status == 200 and json.loads(text)["length"] == 2:
                self.good += 1
            else:
                self.bad.append(f"{response.status} {text[-300:]}")
        connection.close()


def eventually(true: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if true():
                return
        assert time.monotonic() < limit, "not within the time given"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    edge = Edge()
    try:
        edge.start()
        yield edge
    finally:
        edge.remove()


def test_the_health_path_is_the_edges_own(edge: Edge) -> None:
    before = len(edge.asked())
    answer = edge.request("GET", caddyfile.HEALTH_PATH)
    assert (answer.status, answer.text) == (200, "")
    assert len(edge.asked()) == before


@pytest.mark.parametrize("size", [0, 2, COPY - 1, COPY, COPY + 1, LARGE])
def test_a_body_arrives_as_it_was_sent_and_once(edge: Edge, size: int) -> None:
    body = bytes(at * 7 % 256 for at in range(1000)) * (size // 1000 + 1)
    body, before = body[:size], len(edge.asked())
    for told in (edge.post(body).told, edge.chunked(body).told):
        assert (told["length"], told["sha256"]) == (size, hashlib.sha256(body).hexdigest())
    assert len(edge.asked()) == before + 2


def test_path_query_and_headers_are_sent_on_for_the_proxy_to_judge(edge: Edge) -> None:
    told = edge.post(
        b"{}", "?wait=0", Authorization="Bearer x", X_Tenant_ID="acme", Content_Type="text/x"
    ).told
    assert told["path"] == f"{PATH}?wait=0"
    headers = told["headers"]
    assert (headers["authorization"], headers["x-tenant-id"]) == ("Bearer x", "acme")
    assert headers["content-type"] == "text/x"


def test_what_a_client_does_not_ask_for_is_not_asked_for(edge: Edge) -> None:
    with edge.open("") as connection:
        told = json.loads(connection.recv(65_536).partition(b"\r\n\r\n")[2])
    assert "accept-encoding" not in told["headers"], "an answer would be unpacked on the way"


def test_headers_that_are_about_the_first_connection_only_end_there(edge: Edge) -> None:
    told = edge.post(b"{}", Expect="100-continue", Incremental="?1").told
    assert not {"expect", "incremental"} & set(told["headers"])


def test_a_stream_arrives_as_it_is_made(edge: Edge) -> None:
    with edge.open("?events=4&pace=0.5") as connection:
        times = []
        data = b""
        while b"data: 3" not in data:
            data += connection.recv(65_536)
            times.append(time.monotonic())
    assert times[-1] - times[0] > 1.2


@pytest.mark.parametrize("query", ["?wait=20", "?events=100&pace=0.2"])
@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_hangs_up_is_gone_for_the_proxy_too(edge: Edge, query: str, half: bool) -> None:
    before = len(edge.asked())
    connection = edge.open(query)
    eventually(lambda: len(edge.asked()) == before + 1)
    if half:
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    began = time.monotonic()
    eventually(lambda: edge.asked()[before]["ended"] == "hung up", 5)
    assert time.monotonic() - began < 2, "a second, and what it takes to look"
    connection.close()


@pytest.mark.parametrize("sent", [2, LARGE // 2])
def test_what_a_client_sent_who_hangs_up_in_the_middle_of_its_body_is_not_taken_for_one(
    edge: Edge, sent: int
) -> None:
    before = len(edge.asked())
    with edge.sending(LARGE) as connection:
        connection.sendall(b"x" * sent)
        time.sleep(0.3)
    time.sleep(2)
    assert len(edge.asked()) == before


def test_what_has_no_byte_of_an_answer_is_asked_again_when_the_proxy_is_killed(edge: Edge) -> None:
    largest = b"x" * (COPY - 1)
    with ThreadPoolExecutor(8) as pool:
        waiting = [
            pool.submit(edge.post, b"{}", "?wait=3"),
            pool.submit(edge.post, largest, "?wait=3"),
            pool.submit(edge.chunked, largest, "?wait=3"),
            pool.submit(edge.request, "GET", f"{PATH}?wait=3"),
        ]
        with edge.open("?events=100&pace=0.1") as begun:
            begun.recv(65_536)
            eventually(lambda: len([each for each in edge.asked() if not each["ended"]]) == 5)
            docker("kill", edge.name("proxy"))
            begun.settimeout(5)
            while begun.recv(65_536):
                pass  # what had begun is cut
        time.sleep(1)
        docker("start", edge.name("proxy"))
        lengths = [request.result().told["length"] for request in waiting]
    assert lengths == [2, COPY - 1, COPY - 1, 0]


def test_a_large_body_is_not_asked_for_again_and_its_client_is_told_to_try_again(edge: Edge) -> None:
    """Whether it waits for its answer when the proxy is killed, or still sends, and reads nothing before."""
    large, before = b"x" * LARGE, len(edge.asked())
    with ThreadPoolExecutor(2) as pool, edge.sending(LARGE) as line:
        waiting = [
            pool.submit(edge.post, large, "?wait=20"),
            pool.submit(edge.chunked, large, "?wait=20"),
        ]
        line.sendall(large[: LARGE // 2])
        eventually(lambda: len(edge.asked()) == before + 2)
        docker("kill", edge.name("proxy"))
        time.sleep(0.5)
        docker("start", edge.name("proxy"))
        with contextlib.suppress(ConnectionError):
            line.sendall(large[LARGE // 2 :])
        said = read_all(line)
        assert said.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 5\r\n" in said, said[:300]
        for answer in (each.result() for each in waiting):
            assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
            assert int(answer.headers["retry-after"]) > 0
    eventually(lambda: edge.post().status == 200)
    assert {each["length"] for each in edge.asked()} <= {0, 2}, "no part of a body was taken for one"


def test_a_large_body_waits_for_a_proxy_to_be_there(edge: Edge) -> None:
    large = b"y" * LARGE
    docker("stop", "-t", "0", edge.name("proxy"))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(edge.post, large), pool.submit(edge.chunked, large)]
        time.sleep(3)
        docker("start", edge.name("proxy"))
        for told in (each.result().told for each in waiting):
            assert (told["length"], told["sha256"]) == (LARGE, hashlib.sha256(large).hexdigest())


def test_a_proxy_that_is_killed_under_load_loses_nothing(edge: Edge) -> None:
    with Load(edge, clients=24) as load:
        for _ in range(3):
            docker("kill", edge.name("proxy"))
            time.sleep(0.5)
            docker("start", edge.name("proxy"))
            time.sleep(2)
    assert load.good > 100
    assert load.bad == []


def test_a_new_proxy_beside_the_old_one_takes_over_and_nothing_is_lost(edge: Edge) -> None:
    with Load(edge, clients=24) as load:
        edge.start_proxy("proxy-2")
        time.sleep(2)
        docker("kill", edge.name("proxy"))
        time.sleep(2)
        docker("start", edge.name("proxy"))
        time.sleep(1)
        docker("rm", "-f", edge.name("proxy-2"))
        time.sleep(1)
    assert load.good > 100
    assert load.bad == []


def test_without_a_proxy_a_client_is_told_when_to_come_back_and_the_log_tells_no_secret(edge: Edge) -> None:
    docker("stop", "-t", "0", edge.name("proxy"))
    try:
        began = time.monotonic()
        answer = edge.post(b"{}", "?key=a-private-query", Authorization="Bearer a-private-key")
        assert time.monotonic() - began > 25
        assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
        assert int(answer.headers["retry-after"]) > 0
    finally:
        docker("start", edge.name("proxy"))
    eventually(lambda: edge.post().status == 200)
    assert PATH in edge.log()
    assert "a-private" not in edge.log()


def test_a_configuration_that_is_not_valid_changes_nothing(edge: Edge) -> None:
    text = caddyfile.render(edge.config) + ":9 {\n\tnonsense\n}\n"
    with pytest.raises(RuntimeError, match="nonsense"):
        edge.inside("sh", "-c", caddyfile.APPLY, CADDYFILE=text)
    assert edge.post().status == 200


def test_the_same_configuration_reloads_nothing_and_streams_live_through_another(edge: Edge) -> None:
    def reloads() -> int:
        return edge.log().count('"servers shutting down')

    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(edge.post, b"{}", "?events=30&pace=0.1")
        time.sleep(0.5)
        before = reloads()
        edge.apply(edge.config)
        assert reloads() == before
        edge.apply(replace(edge.config, proxy=f"{edge.name('proxy')}:8080"))
        assert reloads() == before + 1
        assert "data: 29" in stream.result().text
    edge.apply(edge.config)


def test_an_edit_shows_once_and_its_repair_leaves_no_difference(edge: Edge) -> None:
    edge.apply(edge.config)
    assert edge.seen() == "as declared"
    change = "wget -q -O /dev/null --header 'Content-Type: application/json' --post-data '\"5m\"' "
    edge.inside("sh", "-c", f"{change} http://localhost:2019/config/apps/http/grace_period")
    seen = edge.seen()
    assert seen.startswith("edited in place ")
    edge.apply(edge.config, seen)
    assert edge.seen() == seen


def test_what_an_older_version_kept_of_keys_does_not_stay_in_the_volume(edge: Edge) -> None:
    edge.inside(
        "sh", "-c", "mkdir -p /config/api-keys && : >/config/api-keys/a-key:acme && : >/config/applied"
    )
    edge.apply(edge.config)
    assert edge.inside("ls", "/config").split() == ["caddy", "caddyfile.applied"]
