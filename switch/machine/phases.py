"""What is done in each phase of a change, in the order in which a change goes through them.

A phase's function is called in every tick. It looks at what is there, asks for the next thing that is
missing, and moves the change to its next phase once nothing is. `transitions` says which phase may follow
which.
"""

from collections.abc import Callable, Mapping

from switch.machine.change import end, fail
from switch.machine.drain import at_work, silent_with_requests, without_note
from switch.machine.events import Action
from switch.machine.gating import gateway_probes, old_engine_serves, pass_gate
from switch.machine.memory import memory_is_free, too_small_for_both
from switch.machine.state import Active, ChangeMode, Gating, Transaction
from switch.machine.steady import bring_back, converge, start_as_told
from switch.machine.stopping import (
    end_gateways,
    other_gateways,
    patience,
    stop,
    stop_others,
    unrouted_gateways,
)
from switch.machine.transitions import Phase
from switch.machine.turn import Turn
from switch.machine.views import gated

TAKE_NOTE_SECONDS = 5
"""Within which a proxy that works has long taken note of a new route."""
FORMER_NAME_SECONDS = 900
"""For how long the model's former name is still answered after a commit: longer than the rest of that `pulumi
up`, which waits for the last answers that the old gateway decides about."""


def checking(turn: Turn, change: Transaction) -> None:
    """What the new engine needs is looked at, and the way of the change is decided."""
    if not change.checked:
        turn.job("check", plan=change.plan)
        return
    active = turn.state.active
    way = _way(turn, change)
    crowded = too_small_for_both(turn, change) if way == "overlap" else ""
    if crowded and change.plan.insist and active and active.plan.cutover == "overlap":
        # after a hold, what it has left has to make room first, whatever the settings say
        fail(
            turn,
            f"{crowded}, and the setting `cutover` allows nothing but overlap. To let requests wait during "
            "such a change, run: pulumi config set cutover auto",
        )
        return
    change.crowded, change.way = crowded, "hold" if crowded else way
    if crowded:
        turn.say(f"one at a time: {crowded}")
    if change.way == "gateway":
        change.gated_at = active.gated_at if active else ""
        turn.to("prepared")
    else:
        turn.to("draining" if change.way == "hold" else "loading")


def _way(turn: Turn, change: Transaction) -> ChangeMode:
    """How the change would go if there were memory for everything."""
    active = turn.state.active
    if active is None or not gated(turn.state, turn.world):
        return "hold"
    if active.plan.engine.container == change.plan.engine.container:
        return "gateway"
    return "overlap" if change.plan.cutover == "overlap" else "hold"


def draining(turn: Turn, change: Transaction) -> None:
    """Requests are held, and those that were let through before have time to end."""
    state = turn.state
    if state.active and state.held is None:
        state.held = turn.now
    change.held = state.held
    gateways = unrouted_gateways(turn)
    ended = end_gateways(turn, gateways)
    left = [f"{gateway.name} still had requests" for gateway in gateways] + at_work(turn)
    if ended and not left:
        if change.held is not None:
            turn.say(f"drained in {turn.now - change.since:.1f} s")
        turn.to("stopping")
    elif turn.seconds_in_phase(change) > change.plan.seconds.drain:
        why = f"{' and '.join(left)} after {change.plan.seconds.drain:g} s; no engine was stopped"
        fail(turn, ". ".join(filter(None, [why, silent_with_requests(turn)])))


def stopping(turn: Turn, change: Transaction) -> None:
    """The old engine is stopped."""
    if stop_others(turn, change):
        turn.to("loading")


def loading(turn: Turn, change: Transaction) -> None:
    """The new engine is started and goes through its gate."""
    state, name = turn.state, change.plan.engine.container
    engine = turn.world.get(name)
    if not stop_others(turn, change) or not old_engine_serves(turn, change):
        return
    if state.gating is None:
        if engine is None or not engine.up:
            if memory_is_free(turn, change.plan):
                state.gating = Gating(name, turn.now, 0)
                turn.job("start", name)
            return
        state.gating = Gating(name, turn.now, engine.restarts, engine.started_at)
    outcome = pass_gate(turn, change.plan, strict=True)
    if outcome is True:
        change.gated_at, state.gating = engine.started_at if engine else "", None
        turn.to("prepared")
        _say_until_when_requests_wait(turn, change)
    elif outcome:
        fail(turn, str(outcome), name)


def _say_until_when_requests_wait(turn: Turn, change: Transaction) -> None:
    """The last word of a prepare by hold: after an interruption before the commit, nobody could say it."""
    active, lease = turn.state.active, change.plan.seconds.lease_prepared
    if active and change.held is not None and change.asked == "prepare":
        kind, load = active.plan.engine.kind, active.plan.seconds.load
        turn.say(
            f"requests stay held until the change goes on; if it is interrupted now, for {lease:g} s at most "
            f"and until {kind} has loaded again ({load:g} s at most)"
        )


def prepared(turn: Turn, change: Transaction) -> None:
    """The new engine is ready and waits for the commit."""
    if _new_engine_stands(turn, change) and change.asked == "commit":
        turn.to("starting")


def _new_engine_stands(turn: Turn, change: Transaction) -> bool:
    """Whether the new engine is still in the run that has passed the gate. If it is not, the change fails."""
    name = change.plan.engine.container
    engine, ending = turn.world.get(name), turn.state.terminating.get(name)
    if engine is None or not engine.running or engine.started_at != change.gated_at or ending:
        said = engine.exited if engine else f"the container {name} is gone"
        if engine and ending and ending.hangs:
            said = f"{engine.kind} hung ({ending.hangs})"
        fail(turn, f"{said} after its gate", name)
        return False
    return stop_others(turn, change) and old_engine_serves(turn, change)


def starting(turn: Turn, change: Transaction) -> None:
    """The new gateway is started, and has to give a completion. Then it is decided."""
    name, seconds = change.plan.gateway_container, change.plan.seconds.gateway
    gateway = turn.world.get(name)
    if not _new_engine_stands(turn, change):
        return
    if not change.plan.gateway:
        decide(turn, change)
    elif gateway is None:
        fail(turn, f"the gateway {name} is gone")
    elif not gateway.up and not change.opened:
        change.opened = True
        turn.job("start", name)
    elif not gateway.up:
        fail(turn, gateway.exited, name)
    elif turn.seconds_in_phase(change) > seconds:
        why = turn.state.gating.why if turn.state.gating else ""
        fail(turn, f"the gateway gave no completion within {seconds:g} s: {why or 'no answer'}", name)
    elif turn.now >= gateway_probes(turn, change).next_at:
        change.opened = True
        turn.job("probe", name, plan=change.plan, through="gateway")


def decide(turn: Turn, change: Transaction) -> None:
    """The only place where `active` changes, and with it where requests go. A completion has come through the
    new gateway, or there is none."""
    state, plan, old = turn.state, change.plan, change.old_plan
    if plan.gateway:
        turn.say("gateway answers")
    if change.held is not None:
        change.held_seconds = turn.now - change.held
        turn.say(f"released after {change.held_seconds:.1f} s held")
    if old and old.engine.container != plan.engine.container:
        state.back = old
    if old and old.engine.model != plan.engine.model:
        state.also[old.engine.model] = None
    state.also.pop(plan.engine.model, None)
    state.active, state.releases = Active(plan, change.gated_at, turn.now), state.releases + 1
    state.gating, state.held = None, None
    state.trouble, state.tries, state.retry_at = "", 0, 0
    turn.to("retiring")


def retiring(turn: Turn, change: Transaction) -> None:
    """The old gateway and the old engine end, once nothing of them is left to be answered."""
    new, engine = change.plan.gateway_container, change.plan.engine
    late = turn.seconds_in_phase(change) >= TAKE_NOTE_SECONDS
    if turn.route is None or (not late and without_note(turn)):
        return  # a gateway that was told to end takes no more requests
    if not end_gateways(turn, other_gateways(turn, new), patience(change.plan)):
        return
    old = [each for each in turn.role("engine") if each.up and each.name != engine.container]
    if old and at_work(turn, engine.name) and turn.seconds_in_phase(change) < patience(change.plan):
        return
    if not stop(turn, old):
        return
    _remove_orphans(turn, change)
    for name, until in turn.state.also.items():
        turn.state.also[name] = turn.now + FORMER_NAME_SECONDS if until is None else until
    if change.old_engine not in ("", engine.container):
        turn.say(f"{turn.kind(change.old_engine)} ({change.old_engine}) is the standby")
    end(turn, "committed")


def _remove_orphans(turn: Turn, change: Transaction) -> None:
    """Removes the gateways that were nobody's at the commit before this one.

    Pulumi deletes the gateways that it knows at the end of its update, and fails on one that is gone. Only
    what was nobody's already at the commit before can't be Pulumi's any more.
    """
    keep = (change.plan.gateway_container, change.old_gateway)
    orphans = [
        each.name for each in turn.role("gateway") if each.name not in keep and each.created < change.began
    ]
    turn.actions += [Action("remove", name) for name in orphans if name in turn.state.orphans]
    turn.state.orphans = orphans


def restoring(turn: Turn, change: Transaction) -> None:
    """The way back: the new gateway and the new engine end, and what was active serves again."""
    state, active, new = turn.state, turn.state.active, change.plan.engine.container
    if trouble := state.trouble:
        if active and gated(state, turn.world) and bring_back(turn, active):
            turn.say(trouble)  # of what is not wanted any more: what was active serves
        end(turn, "failed")
        return
    keep = active.plan.gateway_container if active else ""
    serves = gated(state, turn.world)
    seconds = patience(change.plan) if serves else change.plan.seconds.drain
    if not end_gateways(turn, other_gateways(turn, keep), seconds):
        return
    if change.logs_of and change.logs is None:
        turn.actions.append(Action("logs", change.logs_of))
    elif not change.cleared and not (active and active.plan.engine.container == new):
        # Even one that does not run: Docker may still be starting it for a switch that was killed. At once:
        # no client was ever led to it, and an engine that is loading would use up its grace.
        turn.job("stop", new, seconds=0)
    elif start_as_told(turn) if active is None else converge(turn):
        end(turn, "failed")


PHASES: Mapping[Phase, Callable[[Turn, Transaction], None]] = {
    "checking": checking,
    "draining": draining,
    "stopping": stopping,
    "loading": loading,
    "prepared": prepared,
    "starting": starting,
    "retiring": retiring,
    "restoring": restoring,
}
"""The function of each phase that is under way."""
