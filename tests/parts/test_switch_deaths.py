"""The switch's machine in thousands of hours of trouble: whatever dies, stalls, or sets the clock."""

import dataclasses
import os
import random
from typing import Any

import pytest

from switch.machine import Abandoned, Active, Refused, State, state
from switch.machine.state import PARTS, Gating, Transaction, copied
from switch.machine.views import route
from switch.plan import Plan
from tests.support.simulated_host import (
    NEW,
    NEW_GATEWAY,
    OLD,
    OLD_GATEWAY,
    OTHER_PROXY,
    PROXY,
    Cutover,
    Requests,
    SimulatedHost,
    before_proxies,
    plan,
)
from tests.unit.test_switch_machine import old_serves

SEEDS = int(os.environ.get("SWITCH_SEEDS", "60"))
CLOCKS = [(0.0,), (0.0,), (-3600.0, 0.0, 3600.0)]
"""What the host's clock may be ahead of the true time whenever the switch is started again, in seconds."""
SETTLES_SECONDS = 2000
"""At most, with all kills and stalls: after a kill, what still has answers has its whole patience again."""


def trouble(host: SimulatedHost, rng: random.Random, rate: float) -> None:
    """From now on the switch is killed at this rate. In some runs the host's clock is set each time; in some,
    the switch or Docker stands still five times."""
    clocks, often, stalls = rng.choice(CLOCKS), rng.choice([0, 0, 0.01]), iter(range(5))

    def killed() -> bool:
        if host.kills >= 12 or rng.random() >= rate:
            return False
        host.clock_set = rng.choice(clocks)
        return True

    def stalled() -> float:
        return rng.choice([5, 20, 90]) if rng.random() < often and next(stalls, None) is not None else 0

    host.kill_at, host.stall_at = killed, stalled


def no_more_trouble(host: SimulatedHost) -> None:
    host.kill_at, host.stall_at = lambda: False, lambda: 0.0


def test_a_copy_of_a_state_has_nothing_in_common_with_it_that_can_be_changed() -> None:
    found = set()

    def look(part: Any, copy: Any) -> None:
        found.add(type(part))
        if isinstance(part, str | int | float | None):
            return
        if dataclasses.is_dataclass(part) and type(part) not in PARTS:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, dataclasses.fields(part)[0].name, None)
            return
        assert part is not copy and type(part) is type(copy)
        if isinstance(part, list):
            sides = [*zip(part, copy, strict=True)]
        elif isinstance(part, dict):
            sides = [(part[key], copy[key]) for key in part]
        else:
            sides = [(value, copy.__dict__[key]) for key, value in part.__dict__.items()]
        for one, other in sides:
            look(one, other)

    for seed in range(20):
        host = SimulatedHost(random.Random(f"copied {seed}"))
        trouble(host, host.rng, 0.05)
        host.ask("prepare", plan(NEW, "hold"))
        for _ in range(40):
            copy = copied(host.state)
            assert copy == host.state
            look(host.state, copy)
            host.follow(2)
    assert {State, Transaction, Active, Gating, Plan, list, dict} <= found
    of_module = [each for each in vars(state).values() if getattr(each, "__module__", "") == state.__name__]
    assert {each for each in of_module if dataclasses.is_dataclass(each)} == PARTS


@pytest.mark.parametrize("cutover", ["hold", "overlap", "tight"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_dies_a_change_that_is_given_up_leaves_the_old_engine(seed: int, cutover: Cutover) -> None:
    rng = random.Random(f"given up {cutover} {seed}")
    host = SimulatedHost(rng, overlap=cutover == "overlap")
    host.pass_time(10_000)  # the clock is set back by less than that
    host.boxes[NEW].mode = rng.choice(["good", "good", "good", "exits", "error", "silent"])
    host.drain_seconds = rng.choice([0, 0.5, 5, 50])
    trouble(host, rng, rng.choice([0, 0.02, 0.1]))
    host.ask("prepare", plan(NEW, cutover))
    host.follow(rng.choice([600, rng.uniform(0, 30)]))
    host.run(rng.uniform(0, 20))
    try:
        host.apply(Abandoned(NEW))
    except Refused:
        assert host.phase() == "failed", "only what has already gone back can't be given up"
    if rng.random() < 0.3:
        host.boxes[OLD].running = False
    host.run(rng.uniform(0, 20))
    no_more_trouble(host)
    assert host.run(900, lambda: old_serves(host)), (host.state, host.boxes)
    host.boxes[NEW].mode, host.drain_seconds = "good", 0.5
    host.proxies[PROXY].running.clear()  # as if the longest answer had ended
    assert host.flip(cutover) == 0, host.lines()
    assert host.serves() == ([NEW], [NEW_GATEWAY])


@pytest.mark.parametrize("cutover", ["hold", "overlap", "tight"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_dies_exactly_the_old_or_exactly_the_new_serves_in_the_end(
    seed: int, cutover: Cutover
) -> None:
    rng = random.Random(f"{cutover} {seed}")
    host = SimulatedHost(rng, overlap=cutover == "overlap")
    host.pass_time(10_000)  # the clock is set back by less than that
    host.boxes[NEW].mode = rng.choice(["good", "good", "good", "exits", "error", "silent"])
    host.drain_seconds = rng.choice([0, 0.5, 0.5, 5, 50, 400])
    host.boxes[OLD].loads = rng.choice([0, 0, 20, 50])
    host.reboots, host.docker_starts = rng.choice([0, 0.3]), rng.random() < 0.5
    old_gateway = rng.choice([OLD_GATEWAY, OLD_GATEWAY, None])
    new_gateway = rng.choice([NEW_GATEWAY, NEW_GATEWAY, None])
    if old_gateway is None:
        assert host.flip(to=OLD, gateway=None) == 0
    elif rng.random() < 0.2:
        host.state.active = Active(before_proxies(plan(OLD, gateway=OLD_GATEWAY)), "run 0", host.now)
        host.journal, host.file = host.state, route(host.state, 1, host.now)
        host.proxies[PROXY] = Requests(host.file)
    if rng.random() < 0.3:
        host.another_proxy().hangs_until = host.now + rng.choice([0, 3, 30, 1000])
    for name in (OLD, OLD_GATEWAY, PROXY):
        if rng.random() < 0.15:
            host.boxes[name].hangs_since = host.now + rng.uniform(-50, 30)
    trouble(host, rng, rng.choice([0, 0.005, 0.02, 0.1]))
    freed = 0.0
    if rng.random() < 0.4:
        fills = host.now + rng.uniform(0, 20)
        freed = fills + rng.choice([1, 10, 100])
        host.full = lambda: fills <= host.now < freed
        if rng.random() < 0.5:
            host.no_room = lambda: fills <= host.now < freed and rng.random() < 0.9
    patience = rng.choice([600, 600, rng.uniform(0, 30)])
    committed: int | None = None
    asked = False

    def crash() -> None:
        for name in (OLD, NEW, PROXY):
            if rng.random() < 0.2 and host.boxes[name].running:
                host.boxes[name].running = False
        if not host.boxes[PROXY].running:  # Docker starts it again, and what it had is gone
            host.boxes[PROXY].running, host.proxies[PROXY] = True, Requests(host.file)

    try:
        host.ask("prepare", plan(NEW, cutover, new_gateway and ""))
        code = host.follow(patience)
        crash()
        if code == 0 and rng.random() < 0.9:
            if new_gateway:
                host.make_gateway(mode=rng.choice(["good", "good", "good", "exits", "silent"]))
            host.run(rng.choice([0, 1, 50]))
            asked = True
            host.ask("commit", plan(NEW, cutover, new_gateway))
            committed = host.follow(rng.choice([600, 600, rng.uniform(0, 10)]))
    except Refused:
        pass
    crash()
    assert host.run(SETTLES_SECONDS, host.settled), (host.state, host.boxes)
    no_more_trouble(host)
    host.run(max(0, freed - host.now))
    assert host.run(300, host.settled), (host.state, host.boxes)
    active = host.state.active
    assert active is not None
    engine, gateway = active.plan.engine.container, active.plan.gateway_container
    assert (engine, gateway) in [(OLD, old_gateway or ""), (NEW, new_gateway or "")]
    engines, gateways = host.serves()
    assert engines == [engine] and (not gateway or gateway in gateways)
    if committed == 0:
        assert engine == NEW
    if committed == 1 or not asked:
        assert engine == OLD
    # and the next `up`, with either value, converges, once no hang is left that is not yet known
    for box in host.boxes.values():
        if box.hangs_since > host.now:  # one that was still to come
            box.hangs_since = float("inf")
    assert host.run(300, lambda: host.settled() and not host.hanging()), (host.state, host.boxes)
    host.boxes[NEW].mode = "good"
    host.drain_seconds = 0.5
    host.boxes.pop("stack-gateway-5", None)
    host.boxes.pop(OTHER_PROXY, None)
    host.proxies.pop(OTHER_PROXY, None)
    host.proxies[PROXY].running.clear()  # as if the longest answer had ended
    wanted = rng.choice([OLD, NEW])
    assert host.flip(cutover, wanted, "stack-gateway-5") == 0, host.lines()
    assert host.serves() == ([wanted], ["stack-gateway-5"])
    assert host.file == route(host.state, host.file.number, 0) and not host.holds()
    host.run(2)
    assert not host.proxies[PROXY].waiting, "requests wait, and nothing is under way"
