"""Who is let in to the engine, in which order, and what happens to the others."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

import pytest

from proxy.admission import PACE_SECONDS, Admission, Dropped
from proxy.route import GatewayAddress, Limits, ProxyRoute, RoutedEngine, TenantKeys, parse, parse_keys

ENGINE = RoutedEngine("vllm-00000001", "vllm", "stack-vllm-00000001-a", 8000, "tiny", 2, 1024)
OPEN = ProxyRoute(1, False, ENGINE, None, "tiny")


def run(story: Callable[[Admission], Awaitable[None]]) -> None:
    async def go() -> None:
        await story(Admission())

    asyncio.run(go())


async def settle() -> None:
    """All that is let in is in."""
    await asyncio.sleep(5 * PACE_SECONDS)


def test_no_more_are_at_an_engine_than_it_works_on_and_the_rest_follows_in_order() -> None:
    async def story(admission: Admission) -> None:
        admission.change(OPEN)
        order: list[int] = []

        async def ask(number: int) -> None:
            route = await admission.enter()
            order.append(number)
            assert admission.running[ENGINE.name] <= 2
            await asyncio.sleep(0.001)
            admission.leave(route)

        await asyncio.gather(*(ask(number) for number in range(50)))
        assert order == list(range(50))
        assert (admission.waiting, dict(admission.running)) == (0, {})

    run(story)


def test_nobody_counts_twice_not_even_in_the_moment_of_being_let_in() -> None:
    async def story(admission: Admission) -> None:
        def there() -> int:
            return admission.waiting + sum(admission.running.values())

        asks = [asyncio.create_task(admission.enter()) for _ in range(3)]
        await settle()
        assert there() == 3
        admission.change(OPEN)
        assert there() == 3 and admission.running[ENGINE.name] == 1
        admission.leave(await asks[0])
        assert there() == 2 and admission.running[ENGINE.name] == 1

    run(story)


def test_a_hold_lets_nobody_in_and_a_release_lets_in_those_who_waited() -> None:
    async def story(admission: Admission) -> None:
        asks = [asyncio.create_task(admission.enter()) for _ in range(3)]
        await settle()
        admission.change(replace(OPEN, held=True))
        await settle()
        assert admission.waiting == 3 and not admission.running
        admission.change(replace(OPEN, number=2))
        await settle()
        assert [ask.done() for ask in asks] == [True, True, False]
        admission.leave(asks[0].result())
        await asyncio.wait_for(asks[2], 1)

    run(story)


def test_who_hangs_up_while_waiting_costs_nothing() -> None:
    async def story(admission: Admission) -> None:
        admission.change(replace(OPEN, held=True))
        asks = [asyncio.create_task(admission.enter()) for _ in range(1000)]
        await settle()
        for ask in asks[:-1]:
            ask.cancel()
        await settle()
        assert admission.waiting == 1
        admission.change(replace(OPEN, number=2))
        await asyncio.wait_for(asks[-1], 1)
        assert admission.running == {ENGINE.name: 1}

    run(story)


def test_who_hangs_up_in_the_moment_of_being_let_in_leaves_the_place() -> None:
    async def story(admission: Admission) -> None:
        ask = asyncio.create_task(admission.enter())
        await settle()
        admission.change(OPEN)
        ask.cancel()
        await settle()
        assert ask.cancelled() and not admission.running

    run(story)


def test_who_was_let_in_before_comes_first_again() -> None:
    async def story(admission: Admission) -> None:
        admission.change(replace(OPEN, held=True))
        late = asyncio.create_task(admission.enter())
        await settle()
        again = asyncio.create_task(admission.enter(first=True))
        await settle()
        admission.change(replace(OPEN, engine=replace(ENGINE, at_a_time=1)))
        await settle()
        assert again.done() and not late.done()
        admission.leave(again.result())
        await late

    run(story)


def test_a_pause_ends_with_another_route_or_by_itself() -> None:
    async def story(admission: Admission) -> None:
        admission.change(OPEN)
        admission.pause(30)
        ask = asyncio.create_task(admission.enter())
        await settle()
        assert not ask.done()
        admission.change(replace(OPEN, number=2))
        await asyncio.wait_for(ask, 1)
        admission.pause(0.02)
        await asyncio.wait_for(admission.enter(), 1)

    run(story)


def test_another_route_is_waited_for_as_long_as_is_said() -> None:
    async def story(admission: Admission) -> None:
        admission.change(OPEN)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await admission.another(OPEN, 0.05)
        assert 0.05 <= loop.time() - began < 1
        waits = asyncio.create_task(admission.another(OPEN, 30))
        await settle()
        admission.change(replace(OPEN, number=2))
        await asyncio.wait_for(waits, 1)

    run(story)


def test_what_is_at_the_old_engine_takes_no_place_at_the_new_one() -> None:
    async def story(admission: Admission) -> None:
        admission.change(OPEN)
        old = [await admission.enter() for _ in range(2)]
        new = replace(ENGINE, name="ollama-00000002")
        admission.change(replace(OPEN, number=2, engine=new))
        await asyncio.wait_for(admission.enter(), 1)
        assert admission.running == {ENGINE.name: 2, new.name: 1}
        for route in old:
            admission.leave(route)
        assert admission.running == {new.name: 1}

    run(story)


def test_what_waits_in_a_proxy_that_ends_is_dropped_and_what_comes_too() -> None:
    async def story(admission: Admission) -> None:
        ask = asyncio.create_task(admission.enter())
        await settle()
        admission.end()
        for each in (ask, admission.enter()):
            with pytest.raises(Dropped):
                await each

    run(story)


ROUTING = """
[models.tiny]
engines = ["vllm-00000001", "ollama-00000002"]

[engines.ollama-00000002]
kind = "ollama"
port = 8000
model = "tiny"
at_a_time = 6

[engines.vllm-00000001]
kind = "vllm"
port = 8000
model = "tiny"
at_a_time = 2
context = 1024

[gateway]
kind = "tensorzero"
port = 3000

[limits]
hold_seconds = 1
first_token_seconds = 2
answer_seconds = 3
request_bytes = 4
"""
FILE = {
    "number": 7,
    "held_since": None,
    "engine": ENGINE.name,
    "container": ENGINE.host,
    "gateway": "stack-gateway-b",
    "also": ["old"],
    "routing": ROUTING,
}


def test_the_switchs_file_says_who_is_asked() -> None:
    route = parse(json.dumps(FILE).encode())
    gateway = GatewayAddress("stack-gateway-b", 3000)
    assert route == ProxyRoute(7, False, ENGINE, gateway, "tiny", ("old",), Limits(1, 2, 3, 4))
    assert route.engine and not route.held and route.names == ("tiny", "old")


@pytest.mark.parametrize(
    "changed",
    [
        {"held_since": 1.5},
        {"routing": ""},
        {"engine": None},
        {"engine": "ollama-00000002"},  # the routing of another change
        {"gateway": None},  # the routing wants one
    ],
)
def test_nobody_is_let_in_where_the_file_does_not_name_an_engine_that_serves(
    changed: dict[str, object],
) -> None:
    route = parse(json.dumps({**FILE, **changed}).encode())
    assert route.held or route.engine is None


def test_a_routing_of_before_says_no_context() -> None:
    before = ROUTING.replace("context = 1024\n", "")
    engine = parse(json.dumps({**FILE, "routing": before}).encode()).engine
    assert engine == replace(ENGINE, context=None)


def test_a_routing_without_a_gateway_needs_none() -> None:
    without = ROUTING.replace('[gateway]\nkind = "tensorzero"\nport = 3000\n', "")
    route = parse(json.dumps({**FILE, "routing": without, "gateway": None}).encode())
    assert route.engine and not route.held and route.gateway is None


KEY = "sk-acme-0123456789"


def keys(**said: object) -> TenantKeys:
    return parse_keys(json.dumps({"open": False, "keys": {}, **said}).encode())


def test_a_key_decides_the_tenant_and_only_that() -> None:
    closed = keys(keys={sha256(KEY.encode()).hexdigest(): "acme", sha256(b"other").hexdigest(): "globex"})
    assert closed.tenant({"Authorization": f"Bearer {KEY}", "X-Tenant-ID": "globex"}) == "acme"
    assert closed.tenant({"Authorization": f"bearer {KEY}"}) == "acme"
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"X-Tenant-ID": "acme"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY}x"},
    )
    for headers in wrong:
        assert closed.tenant(headers) is None


def test_an_open_endpoint_takes_the_tenant_that_a_client_says() -> None:
    said = {"acme": "acme", "not a tenant": "-", "": "-", "a" * 65: "-"}
    assert {text: keys(open=True).tenant({"X-Tenant-ID": text}) for text in said} == said


def test_nobody_may_pass_before_there_are_keys() -> None:
    assert TenantKeys().tenant({"Authorization": f"Bearer {KEY}"}) is None
    assert keys().tenant({"Authorization": "Bearer "}) is None
