"""How the host is brought to match `active`: while no change is under way, and on the way back from one.

It is looked at in every tick, and the next thing that is missing is asked for.
"""

from switch.machine.change import REPAIR
from switch.machine.drain import published
from switch.machine.gating import pass_gate
from switch.machine.memory import memory_is_free
from switch.machine.state import Active, Gating, Terminating
from switch.machine.stopping import end_gateways, patience, stop, unrouted_gateways
from switch.machine.turn import Turn, pause
from switch.machine.views import gated

STEADY_SECONDS = 30
"""Of good service, besides what it takes to find a hang, after which the next trouble counts as a first
one."""


def converge(turn: Turn) -> bool:
    """One step towards `active`: its engine alone, gated, its gateway up, and only then requests.

    True when all of that is so, and published.
    """
    active = turn.state.active
    if active is None:
        return True  # nothing is known to be ours: stop nothing
    if turn.ordered:
        return False
    name = active.plan.engine.container
    if not stop(turn, (each for each in turn.role("engine") if each.up and each.name != name)):
        return False
    return bring_back(turn, active) and published(turn)


def bring_back(turn: Turn, active: Active) -> bool:
    """One step towards what serves: its engine gated, its gateway up, and only then requests. True when that
    is so. Other engines are let alone."""
    state = turn.state
    if not gated(state, turn.world) and not _regate(turn, active):
        return False
    if not _open(turn, active):
        return False
    state.held, state.trouble = None, ""
    found_after = max(active.plan.seconds.answers, active.plan.seconds.tokens)
    if turn.now > state.retry_at + STEADY_SECONDS + found_after:
        state.tries = 0
    return True


def serves(turn: Turn, active: Active) -> bool:
    """Whether requests may go on: the active engine is in its gated run, and its gateway is there."""
    gateway = turn.world.get(active.plan.gateway_container)
    opened = active.plan.gateway is None or bool(
        gateway and gateway.up and gateway.name not in turn.state.terminating
    )
    return opened and gated(turn.state, turn.world)


def _regate(turn: Turn, active: Active) -> bool:
    """Brings the active engine back through its gate while requests wait. True once it has passed."""
    state, name = turn.state, active.plan.engine.container
    engine = turn.world.get(name)
    ended = end_gateways(turn, unrouted_gateways(turn), active.plan.seconds.drain)
    if not ended or turn.now < state.retry_at:
        return False
    if engine is None:
        turn.trouble(f"the container {name} is gone. {REPAIR}")
    elif engine.up and name in state.terminating:
        stop(turn, [engine])
    elif state.gating is None or state.gating.container != name:
        if engine.running:
            state.gating = Gating(name, turn.now, engine.restarts, engine.started_at)
        elif not engine.up and memory_is_free(turn, active.plan):
            state.gating = Gating(name, turn.now, 0)
            turn.job("start", name)
    else:
        # not strict: an engine that answers slowly is better than none
        outcome = pass_gate(turn, active.plan, strict=False)
        if outcome is True:
            active.gated_at, state.gating, state.retry_at = engine.started_at, None, turn.now
            return True
        if outcome:
            if engine.up:  # the next try begins with a fresh start
                state.terminating[name] = Terminating(engine.started_at, turn.now)
            turn.trouble(str(outcome))
    return False


def _open(turn: Turn, active: Active) -> bool:
    """Starts the active gateway where it does not run. True when it does, or where there is none."""
    state = turn.state
    if active.plan.gateway is None:
        return True
    gateway = turn.world.get(active.plan.gateway_container)
    if gateway is None:
        turn.trouble(f"the gateway {active.plan.gateway_container} is gone. {REPAIR}")
    elif gateway.name in state.terminating:
        end_gateways(turn, [gateway], patience(active.plan))
    elif gateway.up:
        return True
    elif turn.now >= state.retry_at:
        state.tries += 1
        state.retry_at = turn.now + pause(state.tries)
        turn.job("start", gateway.name)
    return False


def start_as_told(turn: Turn) -> bool:
    """Where nothing is known but what the proxies were told, starts its engine. True when that runs."""
    told = turn.state.damage.route if turn.state.damage else None
    engine = turn.world.get(told.container or "") if told else None
    if engine is None or engine.up:
        return True
    turn.job("start", engine.name)
    return False
