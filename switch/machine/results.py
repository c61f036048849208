"""What the result of an action means."""

from dataclasses import replace

from switch.machine.change import fail
from switch.machine.events import Action, ActionFinished
from switch.machine.gating import engine_probed, gateway_probe_failed
from switch.machine.phases import decide
from switch.machine.traps import hints
from switch.machine.turn import Turn

LOG_LINES, LOG_SHOWN = 400, 15
"""Of the output of what failed: how many lines are read, to look for known traps, and how many are shown."""
COUNT_AGAIN_SECONDS = 0.25
"""Between two looks at the free memory of the GPU."""


def action_finished(turn: Turn, result: ActionFinished) -> None:
    """Takes in a result. That of a job which was given up in the meantime means nothing."""
    state, action = turn.state, result.action
    if action.do == "logs":
        _logs_read(turn, result)
    if action.do in ("signal", "restart") and not result.ok and action.container in state.terminating:
        state.terminating[action.container].sent = False
    if state.busy and state.busy.job == action.job:
        took, state.busy = turn.now - state.busy_since, None
        _job_finished(turn, result, took)


def _logs_read(turn: Turn, result: ActionFinished) -> None:
    """The last lines of what failed, and what they say of a known trap."""
    change = turn.state.transaction
    if change and change.logs_of == result.action.container:
        text = result.text if result.ok else ""
        change.logs = text.splitlines()[-LOG_SHOWN:]
        change.hints = hints(change.plan.gate, f"{change.error}\n{text}")


def _job_finished(turn: Turn, result: ActionFinished, took: float) -> None:
    """`took` is in seconds."""
    state, leased = turn.state, turn.leased
    wait, gating = state.memory_wait, state.gating
    match result.action:
        case _ if result.stalled:
            _job_stalled(turn, result.action)
        case Action(do="check") if leased:
            if result.ok:
                turn.say(f"{result.text} ({took:.1f} s)")
                leased.checked = True
            else:
                fail(turn, result.text)
        case Action(do="memory", container=name) if wait and wait.container == name:
            free, next_at = result.facts.get("free", 0), turn.now + COUNT_AGAIN_SECONDS
            state.memory_wait = replace(wait, free=free, why=result.text, next_at=next_at)
        case Action(do="probe", through="gateway") if leased:
            if not result.ok:
                gateway_probe_failed(turn, leased, result.text)
            elif not leased.unheard and turn.now <= leased.lease:
                decide(turn, leased)
        case Action(do="probe", container=name) if gating and gating.container == name:
            engine_probed(turn, gating, result)
        case Action(do="stop", container=name):
            _stopped(turn, name, result, took)
        case Action(do="start", container=name) if not result.ok:
            text = f"{name} could not be started: {result.text}"
            if turn.change and turn.change.phase == "restoring" and name not in _active(turn):
                turn.say(text)  # it is not wanted any more
            else:
                _order_failed(turn, text, name, logs_of=name)


def _stopped(turn: Turn, name: str, result: ActionFinished, took: float) -> None:
    change = turn.change
    if not result.ok:
        _order_failed(turn, f"{name} could not be stopped: {result.text}", name)
    elif change and change.phase in ("stopping", "retiring"):
        turn.say(f"{turn.kind(name)} stopped ({took:.1f} s)")
    elif change and change.phase == "restoring" and name == change.plan.engine.container:
        change.cleared = True


def _job_stalled(turn: Turn, action: Action) -> None:
    """Docker may have done it or not: it is looked at, and asked for again where it was not."""
    state, change = turn.state, turn.state.transaction
    if action.do == "start" and state.gating and state.gating.container == action.container:
        state.gating = None
    if action.do == "start" and change and change.plan.gateway_container == action.container:
        change.opened = False


def _order_failed(turn: Turn, text: str, name: str, logs_of: str = "") -> None:
    """An order about the container `name` that Docker did not carry out. A change is given up for it, unless
    `name` serves and the change goes on beside it; anything else is tried again."""
    leased = turn.leased
    if leased and (leased.way == "hold" or name not in _active(turn)):
        fail(turn, text, logs_of)
    else:
        turn.trouble(text)


def _active(turn: Turn) -> tuple[str, ...]:
    """The containers of the engine and of the gateway that serve."""
    active = turn.state.active
    return (active.plan.engine.container, active.plan.gateway_container) if active else ()
