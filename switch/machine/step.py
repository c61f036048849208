"""`advance`: which event is handled where, and what a tick does in which order."""

from switch.machine.change import fail
from switch.machine.coordinator import abandoned, change_requested, followed, journal_write_failed, started
from switch.machine.events import (
    Abandoned,
    Action,
    ActionFinished,
    ChangeRequested,
    Event,
    Followed,
    JournalWriteFailed,
    StackReleased,
    Started,
    Tick,
)
from switch.machine.phases import PHASES
from switch.machine.repair import forget_ended, give_up_hanging, reconnect, shift_deadlines
from switch.machine.results import action_finished
from switch.machine.state import State, Transaction, copied
from switch.machine.steady import bring_back, converge, serves
from switch.machine.turn import Turn
from switch.machine.views import gated, route


def advance(state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """The state after `event`, and what to do, in order. The package's docstring says what the caller owes.

    `now` is in seconds since the epoch. Raises Refused, for ChangeRequested and Abandoned only. The given
    state is never changed.
    """
    turn = Turn(copied(state), now)
    match event:
        case Started():
            started(turn, event)
        case Tick():
            _tick(turn, event)
        case ChangeRequested():
            change_requested(turn, event)
        case Followed():
            followed(turn, event)
        case Abandoned():
            abandoned(turn, event)
        case ActionFinished():
            action_finished(turn, event)
        case JournalWriteFailed():
            journal_write_failed(turn, event)
        case StackReleased():
            _let_go(turn.state)
    return turn.state, turn.actions


def _let_go(state: State) -> None:
    state.active = state.transaction = state.waiting = state.held = state.damage = None
    state.trouble = ""


def _tick(turn: Turn, event: Tick) -> None:
    """Takes in what was seen, holds requests where they must not go on, and does what is next."""
    state, turn.world, turn.proxies, turn.beside = turn.state, event.world, event.proxies, event.beside
    turn.silent = event.silent
    if event.route is not None:
        turn.route = route(state, event.route, 0)
    if event.stalled:
        shift_deadlines(turn, event.stalled)
    if state.held is not None and turn.change:
        waiting = sum(each.held for each in event.proxies.values())
        turn.change.most_waiting = max(turn.change.most_waiting, waiting)
    state.also = {name: until for name, until in state.also.items() if until is None or turn.now < until}
    forget_ended(turn)
    reconnect(turn)
    give_up_hanging(turn, event)
    if state.active and state.held is None and not serves(turn, state.active):
        state.held = turn.now
    while _do_next(turn):
        pass


def _do_next(turn: Turn) -> bool:
    """Does what is next. True where that has led to another phase, or to another change: then more may be
    next."""
    change = turn.state.transaction
    before = change.phase if change else ""
    if turn.change is None:
        converge(turn)
    else:
        _do_phase(turn, turn.change)
    return turn.state.transaction is not change or (change is not None and change.phase != before)


def _do_phase(turn: Turn, change: Transaction) -> None:
    if turn.leased and turn.now > change.lease:
        fail(turn, "`pulumi up` was interrupted: nobody follows the change any more")
        return
    waits_for_commit = (change.phase, change.asked) == ("prepared", "prepare")
    if turn.leased and change.unheard and not waits_for_commit:
        return  # it may be that nobody wants it any more
    active = turn.state.active
    if active and not turn.ordered and _serves_meanwhile(turn, change):
        bring_back(turn, active)
    if not turn.ordered:
        PHASES[change.phase](turn, change)


def _serves_meanwhile(turn: Turn, change: Transaction) -> bool:
    """Whether requests go on while the change does: what serves them is looked after then.

    An old engine that has ended is none of that, since the change itself leads back to it. Nor is a new one
    that has ended beside another, which by hold has to be stopped first.
    """
    serves = gated(turn.state, turn.world)
    if change.phase == "retiring":
        new = change.plan.engine.container
        alone = not any(each.up and each.name != new for each in turn.role("engine"))
        return serves or alone or change.way != "hold"
    return serves and change.way in ("overlap", "gateway") and turn.leased is not None
