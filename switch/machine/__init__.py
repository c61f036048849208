"""What the switch does next: a pure function from a state and an event to the new state and its actions.

`advance(state, event, now)` does no I/O and reads no clock. Its caller (`switch.daemon`) keeps a contract:

1. It writes the new state to the journal, and what that says to the proxies into their file, before it
   carries out any of the actions. If that fails, it hands the machine `JournalWriteFailed` first, and then
   the same event again: from then on nothing goes forward that a kill would forget.
2. It carries out the actions in their order, and hands back an `ActionFinished` for each. Those that take
   time (`JOBS`) run one at a time.
3. It looks at the containers and at the proxies about once a second, or as soon as one has ended, and hands
   that in as a `Tick`. All decisions are made in ticks, from what is there now: so a step that a kill cut off
   is simply asked for again.

A change (`Transaction`) goes through the phases in `transitions`, each of which is a function in `phases`. It
goes one of three ways: `hold` (one engine at a time), `overlap` (the new engine is ready before the old one
stops) or `gateway` (the engine stays). `State.active` changes at one point only, `phases.decide`: when a
completion has come through the new gateway. Before that, every failure leads back to `active`; after it, a
change only goes forward.

While no change is under way, and on the way back, `steady.converge` makes the host match `active`. What
serves while a change goes on beside it is looked after as well: see `step`.

The proxies hold and release requests, and `views.route` makes of a state what they are told. Requests are
held from the tick on that finds the active engine outside of its gated run, or its gateway gone.

`switch.pulse` finds what runs and gives no answer. The run of such a container counts as one that was told to
end: the proxies end what they have there, and nothing waits for it. Time in which the switch itself could not
look, because it or Docker was stopped, counts for no deadline.

| module | what it has |
|---|---|
| `state` | what is known, most of which the journal keeps |
| `events` | what can happen, and what the machine can ask for |
| `transitions` | the phases of a change, and which may follow which |
| `step` | `advance`: which event is handled where, and what a tick does in which order |
| `coordinator` | what `pulumi up` asks for, and what a start of the switch means for a change |
| `results` | what the result of an action means |
| `phases` | what is done in each phase of a change |
| `steady` | how the host is brought to match `active` |
| `change` | how a change begins, fails and ends |
| `repair` | what is put right without a change: hangs, networks, and deadlines after a stall |
| `gating`, `memory`, `stopping`, `drain` | what phases and the steady state share |
| `turn` | one call of `advance`: the state and actions so far, and what was seen |
| `views` | what others ask of a state, and the route that it means |
| `route` | what proxies are told |
| `traps` | hints for known failures of an engine |
"""

from switch.machine.events import (
    JOBS,
    Abandoned,
    Action,
    ActionFinished,
    ChangeRequested,
    Container,
    Event,
    Followed,
    JournalWriteFailed,
    Occupied,
    Refused,
    Silence,
    StackReleased,
    Started,
    Tick,
    World,
)
from switch.machine.state import Active, Damage, State, Terminating, Transaction
from switch.machine.step import advance
from switch.machine.transitions import UNDER_WAY, Phase
from switch.machine.views import Watch, answer, gated, watched

__all__ = [
    "JOBS",
    "UNDER_WAY",
    "Abandoned",
    "Action",
    "ActionFinished",
    "Active",
    "ChangeRequested",
    "Container",
    "Damage",
    "Event",
    "Followed",
    "JournalWriteFailed",
    "Occupied",
    "Phase",
    "Refused",
    "Silence",
    "StackReleased",
    "Started",
    "State",
    "Terminating",
    "Tick",
    "Transaction",
    "Watch",
    "World",
    "advance",
    "answer",
    "gated",
    "watched",
]
