"""What the machine knows. The journal keeps all of it but `busy`, `gating` and `memory_wait`, which belong to
this process alone.

Times are in seconds since the epoch, sizes in bytes. The file's keys are those of `switch.journal`, where a
field that is called otherwise here has its old name.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from switch.machine.events import Action
from switch.machine.route import Route
from switch.machine.transitions import Phase
from switch.plan import Plan

ChangeMode = Literal["", "hold", "overlap", "gateway"]
"""How a change goes: one engine at a time, both for a moment, or without touching the engine. Empty: not
decided yet."""


@dataclass
class Active:
    """What serves, as the last commit left it."""

    plan: Plan
    gated_at: str
    """`started_at` of the engine's run that has passed the gate: another run has to pass it again. Empty
    where this run has to, too."""
    since: float


@dataclass
class Terminating:
    """A run of a container that was told to end: from then on it counts as gone, even while it still
    works."""

    started_at: str
    at: float
    sent: bool = True
    """Whether it is known to have been told. A kill may come between writing this down and the signal."""
    hangs: str = ""
    """How it shows that it hangs, which means that it can't end by itself what it has begun; empty: it does
    not."""


@dataclass
class NetworkEndpoint:
    """The names of a container on the stack's networks, so that it can be put back there if it is taken off.

    Docker calls the place of a container on a network its endpoint.
    """

    created: float
    """Of the container: it tells it from another one of its name."""
    aliases: list[str]
    """On the stack's own network."""
    asked: float = 0
    """When Docker was last told to put it back on those of its networks that it lacks."""
    also: dict[str, list[str]] = field(default_factory=dict)
    """Its aliases on the stack's further networks, by network: their names begin with that of the first."""


@dataclass
class Gating:
    """An engine on its way through the gate, or a new gateway on its way to its first completion."""

    container: str
    began: float
    restarts: int
    """What Docker had counted when it began: one more is a failure."""
    started_at: str = ""
    passed: int = 0
    errors: int = 0
    why: str = ""
    """What the last failed probe said."""
    next_at: float = 0
    """When the next probe is due."""
    said: int = 0
    """How often its loading was reported."""
    fastest: float = 0
    """Tokens per second of the fastest completion so far. The first one counts only where it is the only
    one."""


@dataclass
class MemoryWait:
    """The wait until the memory that an engine needs is free on the GPU."""

    container: str
    since: float
    free: int = 0
    """Bytes, when they were last counted."""
    why: str = ""
    """Why they could not be counted."""
    next_at: float = 0
    """When they are counted next."""


@dataclass
class Transaction:
    """A change, from the request on. The last one stays in `State.transaction` after its end."""

    id: str
    plan: Plan
    asked: Literal["prepare", "commit"]
    began: float
    lease: float
    """Until when its coordinator has to show that it is still there."""
    old_kind: str = ""
    old_engine: str = ""
    old_gateway: str = ""
    old_plan: Plan | None = None
    phase: Phase = "checking"
    since: float = 0
    """When this phase began."""
    checked: bool = False
    way: ChangeMode = ""
    crowded: str = ""
    """Why it goes by hold although the plan says overlap, where that is for want of memory."""
    opened: bool = False
    """Whether its gateway was started: one that has ended since is not started again."""
    cleared: bool = False
    """Whether the new engine was stopped, on the way back."""
    gated_at: str = ""
    """`started_at` of the new engine's run that has passed the gate."""
    held: float | None = None
    """Since when requests wait for this change."""
    held_seconds: float | None = None
    most_waiting: int = 0
    """The most requests that waited in the proxies at one time."""
    error: str = ""
    logs_of: str = ""
    """The container whose last lines belong to the error."""
    logs: list[str] | None = None
    hints: list[str] = field(default_factory=list)
    """What to do about a known trap that the failure, or the last lines, name."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """`phase`, `at` and `seconds` of each phase that has ended."""
    gates: list[dict[str, Any]] = field(default_factory=list)
    """`at`, `engine` and the facts of each completion of a gate."""
    lines: list[str] = field(default_factory=list)
    """What its coordinator is told."""
    cursor: int = 0
    """How many of the lines it has read."""
    ended: float = 0
    seen: str = ""
    abandoned: bool = False
    """Whether its own coordinator has given it up: it fails as was asked, and that is no trouble."""
    coordinator: str = ""
    """The id of the coordinator that asked last."""
    stalled: float = 0
    """How many seconds of this phase the switch could not look."""
    unheard: bool = False
    """Whether its coordinator has yet to show that it is still there, since the switch could not hear it."""


@dataclass
class Damage:
    """The journal was found damaged. It counts as damaged until a change has been committed again."""

    since: float
    why: str
    route: Route | None = None
    """What the proxies had been told, where nothing else is known of what serves: they go on with it."""


@dataclass
class State:
    """All that the switch knows."""

    active: Active | None = None
    transaction: Transaction | None = None
    """The change that is under way, or the last one."""
    back: Plan | None = None
    """What served before: the way back, whose image and weights are kept."""
    images: list[str] = field(default_factory=list)
    """Every image that any change here was requested with, as its plan names it."""
    seen: str = ""
    """What the coordinator of the last commit keeps as having been live; `switch.live` repeats it."""
    commits: int = 0
    releases: int = 0
    """How often `active` has changed."""
    damage: Damage | None = None
    waiting: Transaction | None = None
    """A change that was requested while one whose coordinator is gone is being undone; it begins after
    that."""
    last: Transaction | None = None
    """The last change that has ended, as it was then."""
    terminating: dict[str, Terminating] = field(default_factory=dict)
    """The runs that were told to end, by the container's name."""
    orphans: list[str] = field(default_factory=list)
    """Gateways that were nobody's at the last commit; what is still nobody's at the next one is removed."""
    gating: Gating | None = None
    memory_wait: MemoryWait | None = None
    busy: Action | None = None
    """The job that runs."""
    busy_since: float = 0
    jobs: int = 0
    """How many there were."""
    held: float | None = None
    """Since when requests wait."""
    also: dict[str, float | None] = field(default_factory=dict)
    """Former names of the model that are still answered, and until when; None while a change is under way."""
    trouble: str = ""
    """Why what serves is not back yet; empty: nothing is wrong."""
    tries: int = 0
    """How often it was tried to bring it back: the pauses grow with it."""
    retry_at: float = 0
    network: str = ""
    """The name of the stack's own Docker network."""
    endpoints: dict[str, NetworkEndpoint] = field(default_factory=dict)
    """By container, of all that were ever seen on that network and are still there."""
    healed: str = ""
    """All that was put right without a change in the last turn that did so."""
    healed_at: float = 0


PARTS = {Active, Terminating, NetworkEndpoint, Gating, MemoryWait, Transaction, Damage, State}
"""What a state consists of, besides lists, dictionaries, and what nobody changes."""

_Part = TypeVar("_Part")


def copied(part: _Part) -> _Part:
    """A copy of a state, or of a part of one, that has nothing in common with it that anybody changes.

    `copy.deepcopy` does the same, and looks for each text whether it has copied it before: that was most of
    the time of `advance`.
    """
    copy: Any = part
    if isinstance(part, list):
        copy = [copied(each) for each in part]
    elif isinstance(part, dict):
        copy = {key: copied(each) for key, each in part.items()}
    elif type(part) in PARTS:
        copy = object.__new__(type(part))
        copy.__dict__.update({key: copied(each) for key, each in part.__dict__.items()})
    return cast(_Part, copy)
