"""What a coordinator (`pulumi up`) asks for, and what comes in between it and its change."""

from switch.machine.change import REPAIR, begin, fail, what_serves
from switch.machine.events import (
    Abandoned,
    ChangeRequested,
    Followed,
    JournalWriteFailed,
    Occupied,
    Refused,
    Started,
)
from switch.machine.repair import no_later_than_now
from switch.machine.state import Transaction
from switch.machine.transitions import PREPARING
from switch.machine.turn import Turn


def change_requested(turn: Turn, event: ChangeRequested) -> None:
    """Begins a change, goes on with the same one, or has it wait for one that is being undone.

    Raises Refused, of which Occupied while another one is under way.
    """
    turn.world = event.world
    lease = turn.now + event.plan.seconds.lease_following
    fresh = Transaction(
        f"{turn.now:.3f}",
        event.plan,
        event.verb,
        turn.now,
        lease,
        seen=event.seen,
        coordinator=event.coordinator,
    )
    change = turn.change
    if change is None:
        _refuse_impossible(turn, event)
        begin(turn, fresh)
    elif _is_same(change, event):
        _go_on(change, fresh)
    elif change.phase == "restoring" and (change.abandoned or change.lease <= turn.now):
        turn.state.waiting = fresh
        fresh.lines = [f"waiting until the change to {change.plan.engine.container} is undone"]
    else:
        to, left = change.plan.engine, max(0.0, change.lease - turn.now)
        soon = f" If its `pulumi up` was interrupted, it is undone within {left:.0f} s." if left else ""
        raise Occupied(
            f"a change to {to.kind} ({to.container}) is under way: it has been {change.phase} for "
            f"{turn.now - change.since:.0f} s.{soon}"
        )


def _is_same(change: Transaction, event: ChangeRequested) -> bool:
    """Whether the change that is requested is the one that is under way, in a phase in which it can go on."""
    if change.plan.engine != event.plan.engine or change.plan.cutover != event.plan.cutover:
        return False
    decided = change.phase in ("starting", "retiring") and change.plan == event.plan
    return change.phase in PREPARING or decided


def _go_on(change: Transaction, fresh: Transaction) -> None:
    """A coordinator that died and was started again, or the commit that follows a prepare."""
    if fresh.asked == "commit":
        change.asked, change.plan, change.seen = fresh.asked, fresh.plan, fresh.seen
    else:
        change.cursor = 0
    change.lease, change.unheard = max(change.lease, fresh.lease), False
    change.coordinator = fresh.coordinator


def _refuse_impossible(turn: Turn, event: ChangeRequested) -> None:
    """Raises Refused for a change that can't be carried out, before anything begins."""
    state, plan, active = turn.state, event.plan, turn.state.active
    serves = what_serves(state)
    if plan.engine.container not in event.world:
        raise Refused(f"the container {plan.engine.container} does not exist. {serves} {REPAIR}")
    if active and not active.plan.routing and active.plan.engine.model != plan.engine.model:
        # an edge from before there were proxies asks for the old name until the end of the update
        old = active.plan.engine.model
        raise Refused(
            f"the endpoint's name of the model is {old!r}, and an edge of the version before this one knows "
            f"no other name until it has been updated. Run `pulumi config set name {old}` and `pulumi up` "
            f"first, and give the model its new name after that. {serves}"
        )
    if event.verb == "commit" and plan.gateway and plan.gateway.container not in event.world:
        raise Refused(f"the gateway {plan.gateway.container} does not exist. {serves} {REPAIR}")


def followed(turn: Turn, event: Followed) -> None:
    """Somebody waits for the change: its lease is renewed, also that of one which has ended."""
    change = turn.state.waiting or turn.state.transaction
    if change:
        change.cursor = len(change.lines) if event.read else change.cursor
        change.lease = max(change.lease, turn.now + change.plan.seconds.lease_following)
        change.unheard = False


def abandoned(turn: Turn, event: Abandoned) -> None:
    """Back to what was active. A change that is already going back is left to it, and one that waits does not
    begin. Raises Refused, also where the change that is under way is another coordinator's."""
    change, waiting = turn.change, turn.state.waiting
    if waiting and waiting.plan.engine.container == event.engine and _is_of(waiting, event):
        turn.state.waiting = None
        return
    if change is None or change.plan.engine.container != event.engine:
        raise Refused(f"no change to {event.engine} is under way")
    if not _is_of(change, event):
        raise Refused(f"the change to {event.engine} is another `pulumi up`'s")
    if change.phase == "restoring":
        return
    if change.asked == "commit":
        raise Refused(f"the change to {event.engine} is being committed; only its `pulumi up` can end it")
    change.abandoned = True
    fail(turn, "given up as asked")


def _is_of(change: Transaction, event: Abandoned) -> bool:
    """Whether it may be the change that is given up, by the coordinator that asked for it last."""
    return event.coordinator in ("", change.coordinator)


def journal_write_failed(turn: Turn, event: JournalWriteFailed) -> None:
    """A change that is not yet decided leads back, for which no journal is needed."""
    if turn.leased:
        fail(turn, event.why)


def started(turn: Turn, event: Started) -> None:
    """The switch was away. What it was doing leads back, unless it was already decided, or is prepared."""
    state = turn.state
    state.held = state.held or (event.held if state.active and state.active.plan.routing else None)
    no_later_than_now(turn)
    if state.waiting:
        state.waiting.unheard = True  # it has a new lease, and its coordinator may have gone with the host
    state.busy = state.gating = state.memory_wait = None
    for ending in state.terminating.values():
        ending.sent = False  # a kill may have come between writing it down and the signal
    change = turn.leased
    if change and change.phase == "checking":
        fail(turn, "the switch was restarted while it checked the change")
    elif change and (change.phase != "prepared" or change.asked == "commit"):
        # one that was asked to commit may have been told to have failed, by a state that was not kept
        fail(turn, "the switch was restarted in the middle of the change")
