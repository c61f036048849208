"""How a change begins, fails and ends, and what its coordinator is told of the end."""

from typing import Literal

from switch.machine.events import Action
from switch.machine.state import State, Transaction, copied
from switch.machine.turn import Turn
from switch.machine.views import gated

REPAIR = "`pulumi up --refresh` creates what is missing again."


def begin(turn: Turn, fresh: Transaction) -> None:
    """The change is under way from now on, or ends at once where what it wants serves already."""
    state, active, plan = turn.state, turn.state.active, fresh.plan
    state.transaction, state.waiting, fresh.since = fresh, None, turn.now
    state.images += [image for image in dict.fromkeys(plan.about.all_images) if image not in state.images]
    turn.give_up_job()
    if active is None:
        return
    fresh.old_kind, fresh.old_engine = active.plan.engine.kind, active.plan.engine.container
    fresh.old_gateway, fresh.old_plan = active.plan.gateway_container, active.plan
    gateway = turn.world.get(fresh.old_gateway)
    same = (fresh.old_gateway, active.plan.routing) == (plan.gateway_container, plan.routing)
    runs = gateway is not None and gateway.running and gateway.name not in state.terminating
    stays = same and (plan.gateway is None or runs)
    serves = plan.engine == active.plan.engine and gated(state, turn.world)
    if serves and (fresh.asked == "prepare" or stays):
        fresh.phase = "unchanged"
        state.seen = fresh.seen or state.seen
        if fresh.asked == "commit":
            state.damage = None
        fresh.lines.append(f"{plan.engine.kind} ({plan.engine.container}) is already serving")


def fail(turn: Turn, why: str, container: str = "") -> None:
    """Gives up the change that is under way, which leads back to what was active.

    The last lines of `container` belong to the reason. Where nothing was changed yet, or where nothing was
    active, the change ends at once.
    """
    state, change = turn.state, turn.state.transaction
    assert change is not None
    change.error, change.logs_of = why, container
    turn.give_up_job()
    turn.say(why if change.abandoned else f"failed: {why}")
    if change.phase == "checking" and (change.asked == "prepare" or state.active is None):
        end(turn, "failed")
    else:
        state.tries, state.retry_at, state.trouble = 0, 0, ""
        turn.to("restoring")


def end(turn: Turn, phase: Literal["committed", "failed"]) -> None:
    """Ends the change that is under way. One that waits for this begins now, if its coordinator is there."""
    state, change = turn.state, turn.state.transaction
    assert change is not None
    restored = change.phase == "restoring"
    turn.to(phase)
    change.ended = turn.now
    if phase == "committed":
        state.seen, state.commits = change.seen, state.commits + 1
        if state.damage and change.began >= state.damage.since:  # not one that only the previous state ended
            state.damage = None
    else:
        if restored and change.held is not None and not state.trouble and state.active:
            change.held_seconds = turn.now - change.held
        change.lines += _last_lines(state, change)
    state.last = copied(change)
    turn.actions.append(Action("archive"))
    if state.waiting and turn.now <= state.waiting.lease:
        begin(turn, state.waiting)
    state.waiting = None


def _last_lines(state: State, change: Transaction) -> list[str]:
    """What a coordinator is told at the end of a change that has failed."""
    lines = [f"a known trap: {hint}" for hint in change.hints] + [what_serves(state, change.held_seconds)]
    if change.logs:
        lines = [f"the last lines of {change.logs_of}:", *(f"  {line}" for line in change.logs), *lines]
    return lines if change.abandoned else [*lines, f"next: {_what_to_do(state, change)}"]


def what_serves(state: State, held_seconds: float | None = None) -> str:
    """What serves after a change that has failed or was refused, as a sentence."""
    active = state.active
    if active is None and state.damage:
        return "What serves is not known for certain: the journal was damaged, and `make status` says more."
    if active is None:
        return "Nothing serves: no engine was active before."
    named = f"{active.plan.engine.kind} ({active.plan.engine.container})"
    if state.trouble:
        return f"NOTHING SERVES: {named} is not back: {state.trouble.rstrip('.')}. The switch keeps trying."
    held = f" again, requests were held for {held_seconds:.1f} s" if held_seconds else ", as before"
    return f"{named} serves{held}."


def _what_to_do(state: State, change: Transaction) -> str:
    active = state.active
    again = "fix what failed, and run `pulumi up` again"
    if change.way == "overlap" and not change.gated_at:
        again += " (after `pulumi config set cutover hold`, if there was too little memory for both engines)"
    if active is None or active.plan.engine.kind == change.plan.engine.kind:
        return f"{again}; or take back what was changed in the settings, and run `pulumi up`."
    kind = active.plan.engine.kind
    return f"{again}. To stay with {kind}, run: pulumi config set engine {kind}"
