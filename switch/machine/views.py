"""What others ask of a state. Nothing here changes one."""

from dataclasses import dataclass
from typing import Literal

from switch.machine.events import World
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
