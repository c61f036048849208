"""One call of `advance`: the new state and the actions so far, what was seen, and the small things that all
parts do with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from switch.machine.events import ORDERS, Action, Container, Order, Question, Silence, World
from switch.machine.route import Route
from switch.machine.state import State, Transaction
from switch.machine.transitions import LEASED, STEPS, UNDER_WAY, Phase
from switch.plan import Plan
from switch.proxies import Status

MOST_PAUSE_SECONDS = 60
"""The longest pause between two tries to bring back what serves."""


@dataclass
class Turn:
    """What one event makes of a state. `state` is a copy that belongs to this turn."""

    state: State
    now: float
    actions: list[Action] = field(default_factory=list)
    world: World = field(default_factory=dict)
    beside: World = field(default_factory=dict)
    proxies: Mapping[str, Status] = field(default_factory=dict)
    silent: Mapping[str, Silence] = field(default_factory=dict)
    route: Route | None = None
    """The published one, if that was just what the state said when the turn began."""
    healed: list[str] = field(default_factory=list)
    """What was put right in this turn."""

    @property
    def change(self) -> Transaction | None:
        """The change that is under way."""
        change = self.state.transaction
        return change if change and change.phase in UNDER_WAY else None

    @property
    def leased(self) -> Transaction | None:
        """The change that is under way, where it needs a coordinator that follows it."""
        change = self.state.transaction
        return change if change and change.phase in LEASED else None

    @property
    def ordered(self) -> bool:
        """Whether an order to Docker is being carried out."""
        return bool(self.state.busy and self.state.busy.do in ORDERS)

    def job(
        self,
        do: Order | Question,
        container: str = "",
        *,
        seconds: float = 0,
        plan: Plan | None = None,
        stream: bool = False,
        through: Literal["engine", "gateway"] = "engine",
        strict: bool = False,
        last: bool = False,
    ) -> None:
        """Begins a job, unless one runs that has to be waited for.

        A question that runs is given up for an order, and an order for nothing.
        """
        state = self.state
        if state.busy and (do not in ORDERS or self.ordered):
            return
        state.jobs += 1
        state.busy = Action(do, container, state.jobs, seconds, plan, stream, through, strict, last)
        state.busy_since = self.now
        self.actions.append(state.busy)

    def give_up_job(self) -> None:
        """Nobody waits for the answer to a question any more. An order to Docker is always waited for."""
        if not self.ordered:
            self.state.busy = None
        self.state.gating = self.state.memory_wait = None

    def role(self, role: str) -> list[Container]:
        """The containers of a role."""
        return [each for each in self.world.values() if each.role == role]

    def kind(self, name: str) -> str:
        """The kind of an engine for a message; its container's name where the kind is not known."""
        change, active = self.state.transaction, self.state.active
        if change and name == change.old_engine:
            return change.old_kind
        return active.plan.engine.kind if active and name == active.plan.engine.container else name

    def seconds_in_phase(self, change: Transaction) -> float:
        """How long this phase has lasted, without the time in which the switch could not look."""
        return self.now - change.since - change.stalled

    def to(self, phase: Phase) -> None:
        """The change's next phase."""
        change = self.state.transaction
        assert change is not None
        assert (change.phase, phase) in STEPS, f"{phase} must not follow {change.phase}"
        seconds = round(self.now - change.since, 3)
        change.steps.append({"phase": change.phase, "at": change.since, "seconds": seconds})
        change.phase, change.since, change.stalled = phase, self.now, 0
        if phase == "prepared" and change.asked == "prepare":
            change.lease = max(change.lease, self.now + change.plan.seconds.lease_prepared)

    def say(self, line: str) -> None:
        """Tells the coordinator of the change that is under way, if there is one."""
        if change := self.change:
            change.lines.append(line)

    def trouble(self, text: str) -> None:
        """Why what serves is not back yet. It is tried again, after a pause that grows each time."""
        state = self.state
        state.tries, state.gating = state.tries + 1, None
        state.trouble, state.retry_at = text, self.now + pause(state.tries)

    def heal(self, what: str) -> None:
        """Notes what was put right without a change."""
        self.healed.append(what)
        self.state.healed, self.state.healed_at = "; ".join(self.healed), self.now


def pause(tries: int) -> float:
    """Seconds until the next try to bring back what serves, after so many."""
    seconds: int = 2**tries  # a float would overflow at the thousandth try
    return min(MOST_PAUSE_SECONDS, seconds)
