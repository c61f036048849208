"""What can happen (`Event`), and what the machine can ask for (`Action`). Times are in seconds since the
epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from switch.plan import Plan
from switch.proxies import Status

Order = Literal["start", "stop"]
Question = Literal["check", "memory", "probe"]
ORDERS: tuple[Order, ...] = ("start", "stop")
"""Jobs that change something. The machine always waits for their results."""
JOBS: tuple[Order | Question, ...] = ("check", "memory", "probe", *ORDERS)
"""Actions that take time. Only one runs at a time; a question is given up when an order is due."""


class Refused(Exception):
    """A request that is not taken. The text is for the person who made it."""


class Occupied(Refused):
    """Not taken now: another change is under way, which ends by itself."""


@dataclass(frozen=True)
class Container:
    """A container of the stack, as Docker describes it."""

    name: str
    role: str
    kind: str
    """Of an engine: `ollama` or `vllm`. Of anything else: empty."""
    running: bool
    restarting: bool
    started_at: str
    """Docker's own text, which is only ever compared: it tells one run of a container from the next."""
    exit_code: int
    oom: bool
    """Whether the kernel ended it for want of memory."""
    restarts: int
    created: float
    networks: Mapping[str, list[str]] = field(default_factory=dict)
    """Its aliases on each network that it is on, without those that Docker itself gives."""
    address: str = ""
    """On one of its networks; empty while it does not run."""

    @property
    def up(self) -> bool:
        """Whether it runs, or Docker is about to run it again."""
        return self.running or self.restarting

    @property
    def exited(self) -> str:
        """That it has ended, and how, in words."""
        reason = " (out of memory)" if self.oom else f" with code {self.exit_code}" if self.exit_code else ""
        return f"{self.kind or self.role} exited{reason}"


World = Mapping[str, Container]
"""The stack's containers as they were seen at one time, by name, running or not."""


@dataclass(frozen=True)
class Action:
    """Something that the machine asks for.

    Those in `JOBS` take time. The others are done at once: `signal` (SIGTERM, to a gateway), `restart` (of a
    proxy), `remove`, `connect` (to a network), `logs` (read the last lines), `archive` (the change's
    certificate).
    """

    do: Literal[
        "check",
        "memory",
        "start",
        "stop",
        "probe",
        "signal",
        "restart",
        "remove",
        "connect",
        "logs",
        "archive",
    ]
    container: str = ""
    job: int = 0
    """Tells one job from the next; 0 where it is none."""
    seconds: float = 0
    """Of a stop: from SIGTERM to SIGKILL. Of a probe: how long its answer may take to begin; 0 stands for the
    gate's own time-out."""
    plan: Plan | None = None
    stream: bool = False
    through: Literal["engine", "gateway"] = "engine"
    strict: bool = False
    """Of a probe: an engine fails it whose model is not wholly on the GPU."""
    last: bool = False
    """Whether a probe is the last one of its gate: a strict one then also asks what is asked only once."""
    network: str = ""
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Started:
    """The switch has started. What it was doing when it last stopped is in the state.

    `held` is since when the proxies hold requests, as their file says. The state does not know it where it
    could not be written, and nothing is released that nobody has looked at.
    """

    held: float | None = None


@dataclass(frozen=True)
class Silence:
    """What was noticed of a container that is `watched` and may yet turn out to hang: such as `has given no
    token for 70 s`, and after how many seconds of that it does."""

    how: str
    patience: float


@dataclass(frozen=True)
class Tick:
    """The containers and proxies were looked at.

    `route` is the number of the route that the proxies' file has, or None while that says something else than
    the state. `proxies` is what each proxy says, asked after that; one that did not answer is missing.
    `hangs` says of containers that are `watched`, and give no answer any more, how that shows; `silent` has
    those that may turn out to. `stalled` is for how many seconds before this the switch could not look.
    `beside` is what is there beside the stack, of which only the networks are looked at.
    """

    world: World
    route: int | None = None
    proxies: Mapping[str, Status] = field(default_factory=dict)
    hangs: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, Silence] = field(default_factory=dict)
    stalled: float = 0
    beside: World = field(default_factory=dict)


@dataclass(frozen=True)
class ChangeRequested:
    """A coordinator (`pulumi up`) asks for one of the two phases of a change.

    Only a commit has `seen`: what `switch.live` told the coordinator, which keeps it. `coordinator` is an id
    that the coordinator has made for itself.
    """

    verb: Literal["prepare", "commit"]
    plan: Plan
    world: World
    seen: str = ""
    coordinator: str = ""


@dataclass(frozen=True)
class Followed:
    """A coordinator waits for its change, which renews the lease. Once `read`, it has the lines so far."""

    read: bool = True


@dataclass(frozen=True)
class Abandoned:
    """A coordinator has given up its change to this engine on purpose, before any commit.

    `coordinator` is the id with which it asked for the change. Empty: one of an older version, which does not
    say it.
    """

    engine: str
    coordinator: str = ""


@dataclass(frozen=True)
class ActionFinished:
    """The result of an action, good (`ok`) or not.

    `loading`: the engine does not listen yet. `final`: to ask again can't help. `stalled`: Docker gave no
    answer, so the action may have been carried out or not.
    """

    action: Action
    ok: bool
    text: str = ""
    loading: bool = False
    final: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    stalled: bool = False


@dataclass(frozen=True)
class JournalWriteFailed:
    """The state can't be written to the journal, or the route to the proxies' file, and why.

    If the switch is killed now, it forgets whatever has gone forward since. What goes back it finds again by
    looking at the host.
    """

    why: str


@dataclass(frozen=True)
class StackReleased:
    """Nothing is to be looked after any more: the stack is about to be taken down."""


Event = (
    Started
    | Tick
    | ChangeRequested
    | Followed
    | Abandoned
    | ActionFinished
    | JournalWriteFailed
    | StackReleased
)
