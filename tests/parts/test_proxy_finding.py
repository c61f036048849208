"""Which pods there are on a cluster: found by a name, and asked themselves."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from components import routing
from components.engines import build
from proxy import finding
from proxy.admission import Admission
from proxy.finding import ASK_SECONDS, SILENT_SECONDS, Finder, Wanted, parse_wanted
from proxy.pods import Fleet, Pods
from proxy.route import GatewayAddress, Limits, ProxyRoute, RoutedEngine, parse_routing
from switch import pod as switch_pod
from tests.support.project import free_port
from tests.unit.test_gpu_memory import TINY_ON_CPU

HOST = "127.0.0.1"
ENGINE: dict[str, Any] = {
    "name": "vllm-00000001",
    "kind": "vllm",
    "port": 8000,
    "model": "tiny",
    "at_a_time": 4,
    "context": 1024,
}
WANTED = {"service": "fleet-engines", "preferred": ENGINE["name"], "flip": False}


@dataclass
class Cluster:
    """One pod, which is what it is told to be, a name server that knows it, and a proxy's finder."""

    finder: Finder
    admission: Admission
    pod: switch_pod.OwnPod
    lost: list[str]
    there: set[str] | None = field(default_factory=lambda: {HOST})

    @property
    def fleet(self) -> Fleet:
        assert self.admission.pods is not None
        return self.admission.pods.fleet

    @property
    def hosts(self) -> list[str]:
        return [pod.host for pod in self.fleet.pods]


def run(story: Callable[[Cluster], Awaitable[None]]) -> None:
    async def go() -> None:
        port, pod = free_port(), switch_pod.OwnPod(dict(ENGINE), gated=True)
        server, admission = switch_pod.listen(pod, port), Admission(Pods())
        admission.change(ProxyRoute(1, False, None, None, "tiny"))

        async def resolve(service: str) -> set[str]:
            assert service == WANTED["service"]
            if cluster.there is None:
                raise OSError("no such name")
            return cluster.there

        lost = list[str]()
        finder = Finder(admission, "one", lost.append, port=port, resolve=resolve)
        cluster = Cluster(finder, admission, pod, lost)
        watching = asyncio.create_task(cluster.finder.watch())
        try:
            cluster.finder.take(json.dumps(WANTED).encode())
            await story(cluster)
        finally:
            watching.cancel()
            await cluster.finder.close()
            server.shutdown()
            server.server_close()

    asyncio.run(go())


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_a_pod_is_asked_once_it_is_ready_and_no_more_once_it_is_not() -> None:
    async def story(cluster: Cluster) -> None:
        await until(lambda: cluster.hosts == [HOST])
        cluster.pod.gated = False
        await until(lambda: cluster.hosts == [])
        cluster.pod.gated = True
        route = await asyncio.wait_for(cluster.admission.enter(), 5)
        assert route.engine == RoutedEngine(**ENGINE, host=HOST)

    run(story)


def test_a_pod_that_drains_knows_when_this_proxy_has_nothing_there_any_more() -> None:
    async def story(cluster: Cluster) -> None:
        route = await asyncio.wait_for(cluster.admission.enter(), 5)
        loop = asyncio.get_running_loop()
        cluster.pod.drain(loop.time())
        await until(lambda: cluster.hosts == [])
        await asyncio.sleep(3 * ASK_SECONDS)
        assert not cluster.pod.drained(loop.time())
        cluster.admission.leave(route)
        began = loop.time()
        await until(lambda: cluster.pod.drained(loop.time()))
        assert loop.time() - began < switch_pod.FORGET_SECONDS, "it was told, and did not give up"

    run(story)


def test_a_pod_hears_how_long_ago_something_came_from_it_and_not_from_another_one() -> None:
    async def story(cluster: Cluster) -> None:
        await until(lambda: cluster.hosts == [HOST])
        cluster.admission.heard(ENGINE["name"], "127.0.0.2")
        await asyncio.sleep(3 * ASK_SECONDS)
        assert cluster.pod.heard_at == float("-inf")
        cluster.admission.heard(ENGINE["name"], HOST)
        await until(lambda: cluster.pod.heard_at > float("-inf"))
        first = cluster.pod.heard_at
        await asyncio.sleep(2)
        assert cluster.pod.heard_at - first < 1, "what is said again is no newer"

    run(story)


def test_pods_that_are_known_go_on_where_nobody_knows_their_name() -> None:
    async def story(cluster: Cluster) -> None:
        await until(lambda: cluster.hosts == [HOST])
        cluster.there = None
        await asyncio.sleep(finding.LOOK_SECONDS + SILENT_SECONDS)
        assert cluster.hosts == [HOST]

    run(story)


def test_a_pod_that_says_nothing_is_not_asked() -> None:
    async def story(cluster: Cluster) -> None:
        await until(lambda: cluster.hosts == [HOST])
        cluster.pod.lock.acquire()
        try:
            await until(lambda: cluster.hosts == [])
        finally:
            cluster.pod.lock.release()
        await until(lambda: cluster.hosts == [HOST])

    run(story)


def test_a_pod_of_which_nothing_is_heard_any_more_is_lost_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "LOST_SECONDS", 1.5)

    async def story(cluster: Cluster) -> None:
        for _ in range(2):
            await until(lambda: cluster.hosts == [HOST])
            with cluster.pod.lock:
                cluster.lost.clear()
                await until(lambda: cluster.lost)
                assert cluster.hosts == []
                await asyncio.sleep(4 * ASK_SECONDS)
            assert cluster.lost == [HOST]

    run(story)


def test_a_flip_and_what_is_preferred_are_told_as_they_change() -> None:
    async def story(cluster: Cluster) -> None:
        await until(lambda: cluster.hosts == [HOST])
        assert (cluster.fleet.flip, cluster.fleet.preferred) == (False, ENGINE["name"])
        cluster.finder.take(json.dumps({**WANTED, "flip": True, "preferred": "ollama-00000002"}).encode())
        assert (cluster.fleet.flip, cluster.fleet.preferred) == (True, "ollama-00000002")
        assert cluster.hosts == [HOST]

    run(story)


def test_what_is_wanted_is_read_or_refused() -> None:
    assert parse_wanted(json.dumps(WANTED).encode()) == Wanted("fleet-engines", "vllm-00000001", False)
    for wrong in (b"", b"[]", b"{}", json.dumps({**WANTED, "flip": 1}).encode()):
        with pytest.raises((ValueError, KeyError, TypeError)):
            parse_wanted(wrong)


def test_the_routing_is_the_route_on_a_cluster() -> None:
    text = routing.render(
        routing.Routing(
            name="chat",
            engines=(build("ollama", TINY_ON_CPU),),
            gateway=routing.RoutingGateway(kind="tensorzero", port=3000),
            limits=Limits(hold_seconds=1, first_token_seconds=2, answer_seconds=3, request_bytes=4),
            aliases=("talk",),
            origins=("*",),
        )
    )
    route = parse_routing(text.encode())
    assert route.names == ("chat", "talk") and not route.held and route.engine is None
    assert route.gateway == GatewayAddress("127.0.0.1", 3000) and route.limits == Limits(1, 2, 3, 4)
    assert route.origins == ("*",)
