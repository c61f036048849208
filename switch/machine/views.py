"""What others ask of a state. Nothing here changes one."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from switch.machine.events import World
from switch.machine.route import Route
from switch.machine.state import State
from switch.machine.transitions import LEASED, UNDER_WAY
from switch.plan import Plan
from switch.shared import PROXY_PORT


@dataclass(frozen=True)
class Watch:
    """A run of a container that has to answer all the time."""

    container: str
    started_at: str
    address: str
    port: int
    plan: Plan
    """Of an engine its own; of a gateway one that has its port; of a proxy that of what serves."""
    role: Literal["engine", "gateway", "proxy"]
    ending: bool = False
    """It was told to end, or may have been, and need not listen any more."""


def answer(state: State) -> tuple[list[str], int]:
    """The lines that nobody has read yet, and the exit status of `follow`: 75 under way, 0 done, 1 failed."""
    if state.waiting:
        return state.waiting.lines[state.waiting.cursor :], 75
    change = state.transaction
    if change is None:
        return ["nothing was asked of the switch"], 1
    prepared = change.phase == "prepared" and change.asked == "prepare"
    code = (
        0 if prepared or change.phase in ("committed", "unchanged") else 1 if change.phase == "failed" else 75
    )
    return change.lines[change.cursor :], code


def gated(state: State, world: World) -> bool:
    """Whether the active engine is still in the run that has passed the gate."""
    active = state.active
    engine = world.get(active.plan.engine.container) if active else None
    return bool(
        active
        and engine
        and engine.running
        and engine.started_at == active.gated_at
        and engine.name not in state.terminating
    )


def watched(state: State, world: World) -> list[Watch]:
    """What has to answer now: the engine that serves, one that is ready to, and what still ends."""
    active, change, found = state.active, state.transaction, list[Watch]()
    plans = [active.plan] if active else []
    if change and change.phase in UNDER_WAY:
        # one that was led to and is left: what it has begun it must be able to end
        plans += [plan for plan in (change.plan if change.gated_at else None, change.old_plan) if plan]
    passed = (active.gated_at if active else "", change.gated_at if change else "")
    for plan in {plan.engine.container: plan for plan in plans}.values():
        engine = world.get(plan.engine.container)
        if engine is None or not engine.running:
            continue
        left = change is not None and change.phase == "retiring" and engine.name == change.old_engine
        if engine.started_at in passed or left:
            address = engine.address or engine.name
            found.append(Watch(engine.name, engine.started_at, address, plan.engine.port, plan, "engine"))
    asked = next((plan for plan in plans if plan.gateway), None)
    # it has a time-out of its own
    new = change.plan.gateway_container if change and change.phase in LEASED else ""
    for each in world.values():
        address = each.address or each.name
        if asked and asked.gateway and each.role == "gateway" and each.running and each.name != new:
            ending, port = each.name in state.terminating, asked.gateway.port
            found.append(Watch(each.name, each.started_at, address, port, asked, "gateway", ending))
        if active and each.role == "proxy" and each.running:
            found.append(Watch(each.name, each.started_at, address, PROXY_PORT, active.plan, "proxy", True))
    return found


def given_up(state: State) -> list[str]:
    """Names of engines, and containers of gateways, in whose present run nothing can end any more. Pure."""
    active, change = state.active, state.transaction
    known = (active and active.plan, change and change.plan, change and change.old_plan)
    plans = [plan for plan in known if plan]
    hang = {container for container, ending in state.terminating.items() if ending.hangs}
    names = {plan.engine.name for plan in plans if plan.engine.container in hang}
    names |= {plan.gateway_container for plan in plans} & hang
    if active and not active.gated_at:
        names.add(active.plan.engine.name)
    return sorted(names)


def route(state: State, number: int, first: float) -> Route:
    """The route that a state means. Pure.

    Requests wait from `first` on where it names nothing that proxies could ask: nothing was committed yet,
    or only what a version without proxies made. After a damage that left nothing else known, they go on with
    what they were told, until a change begins.
    """
    active, change, damage = state.active, state.transaction, state.damage
    begun = change is not None and change.phase not in ("checking", "failed")
    if active is None and damage and damage.route and not begun:
        return dataclasses.replace(damage.route, number=number)
    if active is None or not active.plan.routing:
        return Route(number, first, None, None, None, [], "", release=state.releases)
    engine, also = active.plan.engine, sorted(state.also)
    gateway = active.plan.gateway_container or None
    name, where, lost = engine.name, engine.container, given_up(state)
    return Route(number, state.held, name, where, gateway, also, active.plan.routing, lost, state.releases)
