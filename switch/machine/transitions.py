"""The phases of a change and which may follow which, as data: `docs/architecture.md` shows this table."""

from dataclasses import dataclass
from typing import Literal

Phase = Literal[
    "checking", "draining", "stopping", "loading", "prepared", "starting", "retiring", "restoring",
    "committed", "failed", "unchanged",
]  # fmt: skip
"""`checking` to `restoring` are under way; the others are ends. `unchanged` is a change to what already
serves: it begins and ends at once."""

PREPARING: tuple[Phase, ...] = ("checking", "draining", "stopping", "loading", "prepared")
"""The phases of `prepare`, in which the new engine gets ready."""

LEASED: tuple[Phase, ...] = (*PREPARING, "starting")
"""Where a change needs a coordinator that follows it. Each of these can fail, and then leads back."""

UNDER_WAY: tuple[Phase, ...] = (*LEASED, "retiring", "restoring")


@dataclass(frozen=True)
class Transition:
    """A step from one phase to the next, and when it is taken, in words for the diagram."""

    source: Phase
    target: Phase
    when: str = ""


TRANSITIONS = (
    Transition("checking", "draining", "hold"),
    Transition("checking", "loading", "overlap"),
    Transition("checking", "prepared", "the engine stays"),
    Transition("checking", "failed", "refused, nothing was changed"),
    Transition("draining", "stopping"),
    Transition("stopping", "loading"),
    Transition("loading", "prepared", "the gate is passed"),
    Transition("prepared", "starting", "commit is asked"),
    Transition("starting", "retiring", "a completion came through the new gateway"),
    Transition("retiring", "committed"),
    Transition("checking", "restoring"),
    Transition("draining", "restoring", "the drain takes too long"),
    Transition("stopping", "restoring"),
    Transition("loading", "restoring", "the gate is not passed in time"),
    Transition("prepared", "restoring", "the lease has run out"),
    Transition("starting", "restoring", "no completion in time"),
    Transition("restoring", "failed", "what served serves"),
)

STEPS = frozenset((each.source, each.target) for each in TRANSITIONS)
"""The phases of each transition, from and to, to look up whether a step is allowed."""
