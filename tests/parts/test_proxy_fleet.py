"""Requests before several engines: in order, nobody for ever, and none lost where an engine dies."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from proxy.admission import PACE_SECONDS, Admission
from proxy.pods import GONE_SECONDS, Fleet, Pod, Pods
from proxy.route import ROUTING_FILE, GatewayAddress, ProxyRoute, RoutedEngine
from proxy.server import ProxyServer
from tests.parts.test_proxy_serving import CHAT, Bench, gateway, listening, quiet, request, until
from tests.support.project import free_port

assert quiet, "a fixture that is used in this module too"

ENGINE = RoutedEngine("vllm-00000001", "vllm", "", 8000, "tiny", 2, 1024)
OPEN = ProxyRoute(1, False, None, None, "tiny")
HOSTS = ("127.0.0.1", "localhost")
"""Two names of this machine, as addresses of two pods; their ports differ, too."""

ROUTING = """
[models.tiny]
engines = ["vllm-00000001"]
[limits]
hold_seconds = 20
first_token_seconds = 10
answer_seconds = 20
request_bytes = 1000000
"""


def fleet(*hosts: str, ports: Mapping[str, int] | None = None) -> Fleet:
    pods = [Pod(engine=replace(ENGINE, host=host, port=(ports or {}).get(host, 8000))) for host in hosts]
    return Fleet(pods=tuple(pods), preferred=ENGINE.name)


def run(story: Callable[[Admission], Awaitable[None]]) -> None:
    async def go() -> None:
        admission = Admission(Pods())
        admission.change(OPEN)
        await story(admission)

    asyncio.run(go())


async def settle() -> None:
    """All that is let in is in."""
    await asyncio.sleep(5 * PACE_SECONDS)


def where(route: ProxyRoute) -> str:
    assert route.engine is not None
    return route.engine.host


def test_requests_wait_while_there_is_no_pod_and_are_let_in_once_there_is_one() -> None:
    async def story(admission: Admission) -> None:
        asks = [asyncio.create_task(admission.enter()) for _ in range(3)]
        await settle()
        assert admission.waiting == 3
        admission.change_fleet(fleet("a"))
        await settle()
        assert [ask.done() for ask in asks] == [True, True, False], "one pod works on two"
        admission.change_fleet(fleet("a", "b"))
        assert where(await asks[2]) == "b"

    run(story)


def test_a_route_that_holds_lets_nobody_in_whatever_pods_there_are() -> None:
    async def story(admission: Admission) -> None:
        admission.change(replace(OPEN, held=True))
        admission.change_fleet(fleet("a"))
        ask = asyncio.create_task(admission.enter())
        await settle()
        assert not ask.done()
        admission.change(OPEN)
        assert where(await ask) == "a"

    run(story)


def test_another_pod_may_be_asked_at_once_and_the_only_one_a_little_later() -> None:
    async def story(admission: Admission) -> None:
        admission.change_fleet(fleet("a", "b"))
        route = await admission.enter()
        assert admission.gone(route, asked=True) == 0
        admission.leave(route)
        other = await admission.enter(first=True)
        assert where(other) != where(route)
        assert admission.gone(other, asked=False) == 0
        admission.leave(other)
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(admission.enter(first=True), 2 * GONE_SECONDS)
        assert asyncio.get_running_loop().time() - began >= GONE_SECONDS / 2

    run(story)


def test_who_waits_for_another_route_is_not_told_of_a_change_of_pods() -> None:
    async def story(admission: Admission) -> None:
        admission.change_fleet(fleet("a"))
        route = await admission.enter()
        waits = asyncio.create_task(admission.another(route, 30))
        admission.change_fleet(fleet("a", "b"))
        await asyncio.sleep(0.05)
        assert not waits.done()
        admission.change(replace(OPEN, number=2, gateway=GatewayAddress("127.0.0.1", 3000)))
        await asyncio.wait_for(waits, 1)

    run(story)


class Noting(Pods):
    """Notes who is let in, at that moment: whoever need not wait goes on before who is just woken up."""

    def __init__(self) -> None:
        super().__init__()
        self.let_in = list[int]()

    def pick(self, conversation: bytes, now: float) -> RoutedEngine | None:
        engine = super().pick(conversation, now)
        if engine is not None:
            self.let_in.append(int(conversation))
        return engine


@pytest.mark.parametrize("seed", range(4))
def test_all_come_to_their_turn_in_order_whatever_comes_ends_hangs_up_and_dies(seed: int) -> None:
    chance = random.Random(seed)
    hosts = ("a", "b", "c")

    async def story() -> None:
        pods, came = Noting(), list[int]()
        admission = Admission(pods)
        admission.change(OPEN)

        async def ask(number: int) -> None:
            came.append(number)
            route = await admission.enter(conversation=b"%d" % number)
            try:
                assert all(count <= ENGINE.at_a_time for count in pods.running.values())
                await asyncio.sleep(chance.random() * 0.01)
                if chance.random() < 0.02:
                    admission.gone(route, asked=True)
            finally:
                admission.leave(route)

        asks = list[asyncio.Task[None]]()
        for number in range(80):
            asks.append(asyncio.create_task(ask(number)))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.01)
            if chance.random() < 0.1:
                chance.choice(asks).cancel()
            if chance.random() < 0.1:
                admission.change_fleet(fleet(*chance.sample(hosts, chance.randrange(4))))
        admission.change_fleet(fleet(*hosts))
        ended = await asyncio.gather(*asks, return_exceptions=True)
        assert all(each is None or isinstance(each, asyncio.CancelledError) for each in ended), ended
        assert pods.let_in == sorted(pods.let_in), "each was let in after all that came before it"
        assert set(came) - set(pods.let_in) <= {n for n, each in enumerate(ended) if each is not None}
        assert admission.waiting == 0 and not admission.running and not pods.running

    asyncio.run(story())


@dataclass
class Two:
    """A proxy and two engines, which answer with their own address or die as `dies` says."""

    proxy: ProxyServer
    bench: Bench
    asked: list[str] = field(default_factory=list)
    dies: dict[str, int] = field(default_factory=dict)
    """How many bytes of an answer each gives before it dies."""
    hangs: dict[str, int] = field(default_factory=dict)
    """How many bytes of an answer each gives before nothing more comes."""

    async def serve(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = (
                int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if b"ength" in head else 0
            )
            await reader.readexactly(length)
            self.asked.append(host)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(host), host.encode())
            writer.write(answer[: self.dies.get(host, self.hangs.get(host, len(answer)))])
            await writer.drain()
            if host in self.hangs:
                await reader.read()  # until the proxy hangs up
        writer.close()

    async def ask(self, text: str = "hello") -> bytes:
        body = b'{"model":"tiny","messages":[{"role":"user","content":"%s"}]}' % text.encode()
        return await self.bench.ask(request(body=body))


@contextlib.asynccontextmanager
async def two(folder: Path) -> AsyncIterator[Two]:
    outer, inside, ports = free_port(), free_port(), {host: free_port() for host in HOSTS}
    proxy = ProxyServer(folder, None, inner_port=inside, on_cluster=True)
    made = Two(proxy, Bench(proxy, None, folder, outer, inside, 0))  # type: ignore[arg-type]
    made.bench.keys({"open": True, "keys": {}})
    made.bench.write(ROUTING_FILE, ROUTING)

    def behind(host: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        return lambda reader, writer: made.serve(host, reader, writer)

    servers = [await asyncio.start_server(behind(host), HOSTS[0], port) for host, port in ports.items()]
    proxy.admission.change_fleet(fleet(*HOSTS, ports=ports))
    async with listening(proxy, outer, inside, *servers):
        yield made


def serving(story: Callable[[Two], Awaitable[None]], folder: Path) -> None:
    async def go() -> None:
        async with two(folder) as made:
            await story(made)

    asyncio.run(go())


def test_a_conversation_is_answered_by_one_pod_and_others_by_others(tmp_path: Path) -> None:
    async def story(made: Two) -> None:
        answers = {text: {(await made.ask(text))[-9:] for _ in range(3)} for text in map(str, range(10))}
        assert all(len(each) == 1 for each in answers.values())
        assert set(made.asked) == set(HOSTS)

    serving(story, tmp_path)


@pytest.mark.parametrize("given", [0, 20])
def test_what_had_no_answer_when_its_pod_died_is_answered_by_the_other(tmp_path: Path, given: int) -> None:
    """Also where its head had begun to come: nothing of it has reached the client."""

    async def story(made: Two) -> None:
        await made.ask()
        home = made.asked.pop()
        (other,) = set(HOSTS) - {home}
        made.dies[home] = given
        began = asyncio.get_running_loop().time()
        assert (await made.ask()).endswith(other.encode())
        assert made.asked == [home, other]
        assert asyncio.get_running_loop().time() - began < GONE_SECONDS, "it waits for nothing"
        assert (await made.ask()).endswith(other.encode()) and made.asked[2:] == [other]

    serving(story, tmp_path)


def test_who_has_lost_two_pods_is_told_so_and_not_to_come_again(tmp_path: Path) -> None:
    async def story(made: Two) -> None:
        made.dies = dict.fromkeys(HOSTS, 0)
        answer = await made.ask()
        assert answer.startswith(b"HTTP/1.1 502 ") and b"x-should-retry: false" in answer
        assert sorted(made.asked) == list(HOSTS)
        assert not made.proxy.admission.running

    serving(story, tmp_path)


def test_a_gateway_falls_back_to_the_kind_that_was_chosen(tmp_path: Path) -> None:
    """It asks by its own order, and is refused where the pod that was chosen is of the other kind."""

    async def story(made: Two) -> None:
        heard = dict[str, bytes]()

        async def ask(bench: Bench, number: str) -> bytes:
            for kind in ("ollama", "vllm"):
                line = f"x-changeover-id: {number}"
                heard[kind] = await bench.ask(request(f"/{kind}{CHAT}", b"{}", line), bench.inner)
            return heard["vllm"]

        async with await gateway(ask, made.bench) as server:
            port = server.sockets[0].getsockname()[1]
            made.bench.write(ROUTING_FILE, f'{ROUTING}[gateway]\nkind = "tensorzero"\nport = {port}\n')
            assert (await made.ask()).startswith(b"HTTP/1.1 200 ")
            await until(lambda: "vllm" in heard and not made.proxy.exchanges.asking)
        assert heard["ollama"].startswith(b"HTTP/1.1 503 ") and heard["vllm"].startswith(b"HTTP/1.1 200 ")
        assert len(made.asked) == 1

    serving(story, tmp_path)


def test_what_had_no_byte_of_a_pod_that_is_lost_is_answered_by_the_other(tmp_path: Path) -> None:
    async def story(made: Two) -> None:
        await made.ask()
        home = made.asked.pop()
        (other,) = set(HOSTS) - {home}
        made.hangs[home] = 0
        asking = asyncio.create_task(made.ask())
        await until(lambda: made.asked == [home])
        made.proxy._lose(other)
        await asyncio.sleep(0.05)
        assert not asking.done()
        made.proxy._lose(home)
        assert (await asking).endswith(other.encode()) and made.asked == [home, other]

    serving(story, tmp_path)


def test_what_has_begun_of_a_pod_that_is_lost_goes_on(tmp_path: Path) -> None:
    """It may be the gate alone that says nothing."""

    async def story(made: Two) -> None:
        made.hangs = dict.fromkeys(HOSTS, 45)
        asking = asyncio.create_task(made.ask())
        await until(lambda: made.asked)
        await until(made.proxy.admission.silent)
        made.proxy._lose(made.asked[0])
        await asyncio.sleep(0.05)
        assert not asking.done() and len(made.asked) == 1
        asking.cancel()

    serving(story, tmp_path)


def test_a_proxy_that_is_to_end_asks_its_clients_to_come_by_other_connections(tmp_path: Path) -> None:
    """No edge is there to ask again what comes by a connection that ends in the same moment."""

    async def story(made: Two) -> None:
        body = b'{"model":"tiny","messages":[]}'
        asked = request(body=body).replace(b"Connection: close", b"Connection: keep-alive")
        for leaving in (False, True):
            made.proxy.leaving = leaving
            reader, writer = await asyncio.open_connection(HOSTS[0], made.bench.outer)
            writer.write(asked)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and (b"Connection: close" in head) is leaving
            writer.close()

    serving(story, tmp_path)


def test_what_waits_in_a_proxy_that_ends_is_answered_by_it(tmp_path: Path) -> None:
    async def story(made: Two) -> None:
        there = made.proxy.admission.pods
        assert there is not None
        pods = there.fleet
        made.proxy.admission.change_fleet(Fleet(pods=(), preferred=ENGINE.name))
        asking = asyncio.create_task(made.ask())
        await until(lambda: made.proxy.admission.waiting == 1)
        ending = asyncio.create_task(made.proxy.drain())
        await asyncio.sleep(0.05)
        assert not ending.done()
        made.proxy.admission.change_fleet(pods)
        assert (await asking).startswith(b"HTTP/1.1 200 ")
        await asyncio.wait_for(ending, 1)

    serving(story, tmp_path)
