"""A flip across three pods under a load, on this machine: the real proxy, its finder and the real gate's
answers, and engines that end without a word once they are told to."""

import asyncio
import contextlib
import functools
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from proxy import http
from proxy.finding import Finder
from proxy.route import FLEET_FILE, ROUTING_FILE
from proxy.server import ProxyServer
from switch import pod as gate
from switch.pod_plan import DRAIN
from switch.shared import PROXY_PORT
from tests.parts.test_proxy_serving import Bench, quiet, request, until
from tests.support import plain_gateway
from tests.support.listening import listening
from tests.support.objects import plan
from tests.support.plain_gateway import read
from tests.support.project import free_port

assert quiet, "a fixture that is used in this module too"

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
OLD, NEW = "ollama-00000001", "vllm-00000002"
PIECES = 5
ROUTING = f"""
[models.tiny]
engines = ["{OLD}", "{NEW}"]
[limits]
hold_seconds = 20
first_token_seconds = 10
answer_seconds = 20
request_bytes = 1000000
"""


def there(host: str) -> bool:
    """Whether this machine has the address: Linux has all of 127.0.0.0/8, and others do not."""
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


pytestmark = pytest.mark.skipif(not all(map(there, HOSTS)), reason="the pods need addresses of their own")


@dataclass
class Pod:
    """A pod: its engine, which streams, and the gate's answers beside it."""

    host: str
    ports: tuple[int, int]
    state: gate.OwnPod = field(default_factory=lambda: gate.OwnPod({}))
    answered: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    """Streams that the engine had not ended when it was."""
    name: str = ""
    engine: asyncio.Server | None = None
    server: ThreadingHTTPServer | None = None
    writers: dict[asyncio.StreamWriter, asyncio.StreamReader] = field(default_factory=dict)
    open: int = 0
    """Connections that are there, asked by or not yet."""

    async def start(self, name: str) -> None:
        """An engine has started and passed its gate."""
        self.name = name
        self.state.engine = {
            "name": name,
            "kind": name.partition("-")[0],
            "port": self.ports[0],
            "model": "tiny",
            "at_a_time": 4,
            "context": 1024,
        }
        self.engine = await asyncio.start_server(self.serve, self.host, self.ports[0])
        if self.server is None:
            self.server = gate.listen(self.state, self.ports[1], self.host)
        self.state.gated = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.stream(reader, writer)
        finally:
            self.writers.pop(writer, None)
            writer.close()
            self.open -= 1

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        self.writers[writer] = reader
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Run: text/event-stream\r\nConnection: close\r\n\r\n")
        for piece in range(PIECES):
            chunk = {"choices": [{"index": 0, "delta": {"content": f"{self.name} {piece};"}}]}
            writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await writer.drain()
            await asyncio.sleep(0.03)
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        self.answered[self.name] += 1

    def has_answered(self, name: str, times: int) -> bool:
        return self.answered[name] >= times

    async def flip(self, name: str) -> None:
        """As the cluster does it: the hook before the end, then the end, then the next engine."""
        loop, url = asyncio.get_running_loop(), DRAIN
        status, _ = await loop.run_in_executor(None, gate.answer, self.state, url)
        assert status == 200
        assert self.engine is not None
        self.engine.close()
        for _ in range(10):  # what a client hung up on a moment ago is seen when the loop turns
            await asyncio.sleep(0)
        self.cut += sum(not reader.at_eof() for reader in self.writers.values())
        for writer in list(self.writers):
            writer.transport.abort()
        self.state.started()
        await asyncio.sleep(0.2)
        await self.start(name)

    async def end(self) -> None:
        """What a client hung up on a moment ago may still be answered: it is waited for, or its connection
        would be left open when the event loop ends."""
        if self.engine is not None:
            self.engine.close()
        for writer in list(self.writers):
            writer.transport.abort()
        await until(lambda: not self.open)
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


@contextlib.asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[tuple[Bench, list[Pod]]]:
    ports = free_port(), free_port()
    pods = [Pod(host, ports) for host in HOSTS]
    for pod in pods:
        await pod.start(OLD)
    outer, inside = free_port(), free_port()
    proxy = ProxyServer(folder, None, inner_port=inside, on_cluster=True)

    async def resolve(service: str) -> set[str]:
        return set(HOSTS)

    assert proxy.finder is not None
    await proxy.finder.close()
    proxy.finder = Finder(proxy.admission, "one", proxy._lose, port=ports[1], resolve=resolve)
    proxy.live._takers = {**proxy.live._takers, FLEET_FILE: proxy.finder.take}
    bench = Bench(proxy, None, folder, outer, inside, 0)  # type: ignore[arg-type]
    bench.keys({"open": True, "keys": {}})
    bench.write(ROUTING_FILE, ROUTING)
    tell(bench, OLD, flip=False)
    watching = asyncio.create_task(proxy.finder.watch())
    runners = [await http.listen(proxy.inner, inside), await http.listen(proxy.outer, outer)]
    try:
        yield bench, pods
    finally:
        watching.cancel()
        for runner in runners:
            await runner.cleanup()
        await proxy.close()
        for pod in pods:
            await pod.end()
        await asyncio.sleep(0.01)  # a transport that was closed is gone at the loop's next turn


def tell(bench: Bench, preferred: str, *, flip: bool) -> None:
    bench.write(FLEET_FILE, json.dumps({"service": "pods", "preferred": preferred, "flip": flip}))


def run(story: Callable[[Bench, list[Pod]], Awaitable[None]], folder: Path) -> None:
    async def go() -> None:
        async with fleet(folder) as (bench, pods):
            await story(bench, pods)

    asyncio.run(go())


def whole(answer: bytes) -> bool:
    """Whether a stream came from one engine, all of it."""
    pieces = [[f"{name} {n};".encode() in answer for n in range(PIECES)] for name in (OLD, NEW)]
    return b"[DONE]" in answer and sorted(map(sum, pieces)) == [0, PIECES]


@dataclass
class Load:
    """Clients that stream without end. Every seventh hangs up in the middle of its answer."""

    bench: Bench
    whole: int = 0
    aborted: int = 0
    bad: list[bytes] = field(default_factory=list)
    ends: bool = False

    async def client(self, number: int) -> None:
        asked = 0
        while not self.ends:
            asked += 1
            text = f"user {number}"
            body = json.dumps(
                {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": text}]}
            ).encode()
            asking = asyncio.create_task(self.bench.ask(request(body=body)))
            if (asked + number) % 7 == 0:
                await asyncio.sleep(0.05)
                asking.cancel()
                self.aborted += 1
                continue
            answer = await asking
            if whole(answer):
                self.whole += 1
            else:
                self.bad.append(answer)


async def flip(bench: Bench, pods: list[Pod]) -> None:
    """Pod by pod, under a load of which nothing is lost."""
    load = Load(bench)
    clients = [asyncio.create_task(load.client(number)) for number in range(8)]
    await until(lambda: load.whole > 20)
    tell(bench, OLD, flip=True)
    for pod in pods:
        await pod.flip(NEW)
        await until(functools.partial(pod.has_answered, NEW, 4))
    tell(bench, NEW, flip=False)
    after = load.whole
    await until(lambda: load.whole > after + 20)
    load.ends = True
    await asyncio.gather(*clients)
    assert load.bad == [] and load.aborted > 5
    assert sum(pod.cut for pod in pods) == 0, "no engine was ended while it answered"
    assert all(pod.answered[OLD] and pod.answered[NEW] for pod in pods)
    assert not bench.proxy.admission.running


def test_nothing_is_lost_in_a_flip_of_three_pods_and_each_takes_part_in_it(tmp_path: Path) -> None:
    run(flip, tmp_path)


def test_gateways_of_before_let_requests_through_to_the_new_engine(tmp_path: Path) -> None:
    """They keep the TOML of before until the flip has ended, in a stack without a standby, too."""
    toml = plan("cpu", engine="ollama", gateway="tensorzero", standby=False).gateway_config
    assert toml is not None
    with listening(plain_gateway.Handler) as server, pytest.MonkeyPatch.context() as patched:

        async def story(bench: Bench, pods: list[Pod]) -> None:
            here = read(toml.replace(f":{PROXY_PORT}/", f":{bench.inner}/"))
            patched.setattr(plain_gateway, "config", here)
            beside = f'[gateway]\nkind = "tensorzero"\nport = {server.server_port}\n'
            bench.write(ROUTING_FILE, ROUTING + beside)
            await flip(bench, pods)

        run(story, tmp_path)


def test_a_conversation_keeps_its_pod_and_all_pods_have_some(tmp_path: Path) -> None:
    async def story(bench: Bench, pods: list[Pod]) -> None:
        await until(lambda: bench.proxy.admission.pods and len(bench.proxy.admission.pods.fleet.pods) == 3)
        homes = dict[int, set[str]]()
        for number in range(12):
            for _ in range(3):
                before = [pod.answered[OLD] for pod in pods]
                body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": f"{number}"}]})
                await bench.ask(request(body=body.encode()))
                (home,) = (pod.host for pod, n in zip(pods, before, strict=True) if pod.answered[OLD] > n)
                homes.setdefault(number, set()).add(home)
        assert all(len(each) == 1 for each in homes.values())
        assert {home for each in homes.values() for home in each} == set(HOSTS)

    run(story, tmp_path)


def test_pods_that_die_lose_what_had_begun_and_nothing_else(tmp_path: Path) -> None:
    async def story(bench: Bench, pods: list[Pod]) -> None:
        load = Load(bench)
        clients = [asyncio.create_task(load.client(number)) for number in range(8)]
        await until(lambda: load.whole > 20)
        dies = pods[0]
        assert dies.engine is not None
        dies.engine.close()
        begun = len(dies.writers)
        for writer in list(dies.writers):
            writer.transport.abort()
        dies.state.started()
        after = load.whole
        await until(lambda: load.whole > after + 30)
        load.ends = True
        await asyncio.gather(*clients)
        assert len(load.bad) <= begun, load.bad
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in load.bad), "they had begun"

    run(story, tmp_path)
