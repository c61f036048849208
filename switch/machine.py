"""What the switch does next: state + event -> new state + actions. No I/O and no clock of its own.

A transaction goes through checking, draining, stopping, loading, prepared, starting (the new gateway) and
retiring (what is old) to committed, or through restoring to failed. Its `way` is `hold` (one engine at a
time), `beside` (the new engine is ready before the old one stops) or `gateway` (the engine stays). `active`
changes at one point only: when a completion has come through the new gateway. Before it every failure leads
back to `active`, after it only forward.

With no transaction, and in restoring, `_converge` makes the host match `active`. Each turn looks at the
containers as they are and asks for the next thing that is missing, so a step that a kill cut off is asked for
again.

Requests are held and released by the proxies, which go by what `switch.route` makes of the state. They are
held from the turn on that finds the active engine outside of its gated run, or its gateway gone.

What runs and gives no answer is told by `switch.pulse`, with patience. From then on its run counts as one
that was told to end: the proxies end what they have there, and nothing waits for what can't end. Time in
which the switch itself could not look, because it or Docker was stopped, counts for no deadline.
"""

import copy
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from switch.plan import Gate, Plan
from switch.proxies import Status
from switch.route import Route, given_up, route
from switch.shared import PROXY_PORT

Phase = Literal[
    "checking", "draining", "stopping", "loading", "prepared", "starting", "retiring", "restoring",
    "committed", "failed", "unchanged",
]  # fmt: skip
UNDER_WAY = ("checking", "draining", "stopping", "loading", "prepared", "starting", "retiring", "restoring")
LEASED = UNDER_WAY[:6]
ORDERS = ("start", "stop")
JOBS = ("check", "memory", "probe", *ORDERS)
MOST_PAUSE_SECONDS = 60
"""Between two tries to bring back what serves."""
STEADY_SECONDS = 30
"""Of good service, beside what it takes to find a hang, after which the next trouble is a first one again."""
CONNECT_AGAIN_SECONDS = 5
FORMER_NAME_SECONDS = 900
"""How long the model's former name is still answered after a commit: for longer than the rest of that `pulumi
up`, which waits for the last answers that the old gateway decides about."""
TAKE_NOTE_SECONDS = 5
"""In which a proxy that works has long taken note of a new route."""
LOG_LINES, LOG_SHOWN = 400, 15
"""Of the output of what failed: lines that are looked through for known traps, and that are shown."""
LESS_MIB = 512
"""By how much less of the GPU's memory an engine that had too little is to have, where it didn't say more."""

REPAIR = "`pulumi up --refresh` makes again what is missing."


class Refused(Exception):
    """A request that is not taken. The text is for the person who asked."""


class Occupied(Refused):
    """Not taken now: another change is under way, which ends by itself."""


@dataclass(frozen=True)
class Container:
    name: str
    role: str
    kind: str
    running: bool
    restarting: bool
    started_at: str
    """Docker's own text, only ever compared: it tells one run of a container from the next."""
    exit_code: int
    oom: bool
    restarts: int
    created: float
    networks: Mapping[str, list[str]] = field(default_factory=dict)
    """Its aliases on each network that it is on, without those that Docker gives by itself."""
    address: str = ""
    """On one of them; empty while it does not run."""

    @property
    def up(self) -> bool:
        """Whether it runs, or Docker is about to run it again."""
        return self.running or self.restarting


World = Mapping[str, Container]


@dataclass(frozen=True)
class Action:
    """`signal`, `remove`, `connect`, `logs`, `archive` are done at once; the others take time (`JOBS`)."""

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
    seconds: float = 0
    """Of a stop: the grace. Of a probe: how long its answer may take to begin; 0 is the gate's time-out."""
    plan: Plan | None = None
    stream: bool = False
    through: Literal["engine", "gateway"] = "engine"
    strict: bool = False
    """Of a probe: an engine whose model is not wholly on the GPU fails it."""
    last: bool = False
    """Of a probe: the last of the gate, after which a strict one asks what is asked once."""
    network: str = ""
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Watch:
    """A run of a container that has to answer all the time."""

    container: str
    started_at: str
    address: str
    port: int
    plan: Plan
    """Of an engine its own; of a gateway one that has its port; of a proxy that of what serves."""
    role: Literal["engine", "gateway", "proxy"]
    ending: bool = False
    """It was told to end, or may have been, and need not listen any more."""


@dataclass(frozen=True)
class Boot:
    """The switch has started; what it was doing when it last stopped is in the state.

    `held`: since when the proxies hold. The state does not know it where it was not kept, and nothing is
    released unseen.
    """

    held: float | None = None


@dataclass(frozen=True)
class Tick:
    """The time has come to look.

    `route` is the number of the published route, or None while that isn't what the state says. `proxies` is
    what the proxies say, by container, asked after that; who did not answer is left out. `hangs` is which of
    what is `watched` gives no answer any more, and how that shows. `stalled` is for how many seconds before
    this the switch could not look.
    """

    world: World
    route: int | None = None
    proxies: Mapping[str, Status] = field(default_factory=dict)
    hangs: Mapping[str, str] = field(default_factory=dict)
    stalled: float = 0


@dataclass(frozen=True)
class Ask:
    """`seen` is what `live` said to the coordinator, which keeps it; only a commit has it. `coordinator` is
    an id that it has made for itself."""

    verb: Literal["prepare", "commit"]
    plan: Plan
    world: World
    seen: str = ""
    coordinator: str = ""


@dataclass(frozen=True)
class Follow:
    """Someone waits for the transaction: renews its lease and, once `read`, marks its lines."""

    read: bool = True


@dataclass(frozen=True)
class Abandon:
    """The coordinator of a change to this engine gives it up on purpose, before any commit."""

    engine: str


@dataclass(frozen=True)
class Done:
    """An action's result. `loading`: the engine does not listen yet. `final`: asking again can't help.
    `stalled`: Docker gave no answer, and may have done it or not."""

    action: Action
    ok: bool
    text: str = ""
    loading: bool = False
    final: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    stalled: bool = False


@dataclass(frozen=True)
class Unkept:
    """The state can't be kept safe, and why. A kill would forget what has gone forward; going back it finds
    again by what it sees on the host."""

    why: str


@dataclass(frozen=True)
class Release:
    """Nothing is to be looked after any more: the stack is about to be taken down."""


Event = Boot | Tick | Ask | Follow | Abandon | Done | Unkept | Release


@dataclass
class Active:
    plan: Plan
    gated_at: str
    """StartedAt of the run of the engine that passed the gate: another run must pass it again. Empty where
    this one must, too."""
    since: float


@dataclass
class Doom:
    """A run of a container that was told to end: from then on it counts as gone, though it still works."""

    started_at: str
    at: float
    sent: bool = True
    hangs: str = ""
    """How it shows that it hangs: it can't end by itself what it has begun."""


@dataclass
class Endpoint:
    """What a container is called on the stack's network. `created` tells it from others of its name."""

    created: float
    aliases: list[str]
    asked: float = 0
    """When it was last put back there."""
    also: dict[str, list[str]] = field(default_factory=dict)
    """The same on the stack's further networks, by network: their names begin with the first one's."""


@dataclass
class Gating:
    """An engine on its way through the gate."""

    container: str
    began: float
    restarts: int
    started_at: str = ""
    passed: int = 0
    errors: int = 0
    why: str = ""
    next_at: float = 0
    said: int = 0
    fastest: float = 0
    """Tokens per second of the fastest completion so far, of the first only where there is no other."""


@dataclass
class Room:
    """The wait until the memory that an engine needs is free on the GPU."""

    container: str
    since: float
    free: int = 0
    why: str = ""
    next_at: float = 0


@dataclass
class Transaction:
    id: str
    plan: Plan
    asked: Literal["prepare", "commit"]
    began: float
    lease: float
    old_kind: str = ""
    old_engine: str = ""
    old_gateway: str = ""
    old_plan: Plan | None = None
    phase: Phase = "checking"
    since: float = 0
    checked: bool = False
    way: Literal["", "hold", "beside", "gateway"] = ""
    crowded: str = ""
    """Why it goes by hold although the plan says overlap, where that is for want of memory."""
    opened: bool = False
    """Whether its gateway was started: one that has ended since is not started again."""
    cleared: bool = False
    """Whether the new engine was stopped, on the way back."""
    gated_at: str = ""
    held: float | None = None
    held_seconds: float | None = None
    most_waiting: int = 0
    """The most requests that waited in the proxies at one time."""
    error: str = ""
    logs_of: str = ""
    logs: list[str] | None = None
    hints: list[str] = field(default_factory=list)
    """What to do about a known trap that the failure, or the last output, names."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    cursor: int = 0
    ended: float = 0
    seen: str = ""
    abandoned: bool = False
    """Given up by its own coordinator: it fails as was asked, and that is no trouble."""
    coordinator: str = ""
    """The id of the one that asked last."""
    stalled: float = 0
    """How many seconds of this phase the switch could not look."""
    unheard: bool = False
    """Whether its coordinator has yet to show that it is still there, since the switch could not hear it."""


@dataclass
class Damage:
    """The journal was found damaged. It is so until a change has been committed again."""

    since: float
    why: str
    route: Route | None = None
    """What the proxies had been told, where nothing else is known of what serves: they go on with it."""


@dataclass
class State:
    active: Active | None = None
    transaction: Transaction | None = None
    back: Plan | None = None
    """What served before: the way back, whose image and weights are kept."""
    images: list[str] = field(default_factory=list)
    """Every image that any change here was asked with, as its plan names it."""
    seen: str = ""
    """What the coordinator of the last commit keeps as having been live; `live` repeats it."""
    commits: int = 0
    releases: int = 0
    """How often `active` has changed."""
    damage: Damage | None = None
    waiting: Transaction | None = None
    """Asked for while a change whose coordinator is gone is being undone; begins after it."""
    last: Transaction | None = None
    doomed: dict[str, Doom] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    gating: Gating | None = None
    room: Room | None = None
    busy: Action | None = None
    busy_since: float = 0
    jobs: int = 0
    held: float | None = None
    """Since when requests wait."""
    also: dict[str, float | None] = field(default_factory=dict)
    """Former names of the model that are still answered, and until when; None: a change is under way."""
    trouble: str = ""
    tries: int = 0
    retry_at: float = 0
    network: str = ""
    """The stack's own."""
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    """By container, all that were ever seen on it and are still there."""
    healed: str = ""
    """What was put right last without a change, and when."""
    healed_at: float = 0


def advance(state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """The state after `event` and what to do, in order; keep the new state safe before doing anything.

    Where that can't be done, `Unkept` comes before `event`. `now` is in seconds since the epoch. Raises
    Refused, for Ask and Abandon only; the given state is never changed.
    """
    turn = _Turn(copy.deepcopy(state), now)
    match event:
        case Boot(held):
            turn.boot(held)
        case Tick():
            turn.tick(event)
        case Ask():
            turn.ask(event)
        case Follow(read):
            turn.follow(read)
        case Abandon(engine):
            turn.abandon(engine)
        case Done():
            turn.done(event)
        case Unkept(why):
            turn.unkept(why)
        case Release():
            turn.s.active = turn.s.transaction = turn.s.waiting = turn.s.held = turn.s.damage = None
            turn.s.trouble = ""
    return turn.s, turn.actions


def answer(state: State) -> tuple[list[str], int]:
    """The lines nobody has read yet and the exit status of `follow`: 75 under way, 0 done, 1 failed."""
    if state.waiting:
        return state.waiting.lines[state.waiting.cursor :], 75
    t = state.transaction
    if t is None:
        return ["nothing was asked of the switch"], 1
    done = t.phase in ("committed", "unchanged") or (t.phase == "prepared" and t.asked == "prepare")
    return t.lines[t.cursor :], 0 if done else 1 if t.phase == "failed" else 75


def gated(state: State, world: World) -> bool:
    """Whether the active engine still is in the run that passed the gate."""
    a = state.active
    e = world.get(a.plan.engine.container) if a else None
    return bool(a and e and e.running and e.started_at == a.gated_at and e.name not in state.doomed)


def watched(state: State, world: World) -> list[Watch]:
    """What has to answer now: the engine that serves, one that is ready to, and what still ends."""
    a, t, found = state.active, state.transaction, list[Watch]()
    plans = [a.plan] if a else []
    if t and t.phase in UNDER_WAY:
        # one that was led to and is left: what it has begun it must be able to end
        plans += [plan for plan in (t.plan if t.gated_at else None, t.old_plan) if plan]
    for plan in {plan.engine.container: plan for plan in plans}.values():
        c = world.get(plan.engine.container)
        passed = (a.gated_at if a else "", t.gated_at if t else "")
        left = bool(t and t.phase == "retiring" and c and c.name == t.old_engine)
        if c and c.running and (c.started_at in passed or left):
            found.append(Watch(c.name, c.started_at, c.address or c.name, plan.engine.port, plan, "engine"))
    asked = next((plan for plan in plans if plan.gateway), None)
    new = t.plan.gateway_container if t and t.phase in LEASED else ""  # it has a bound of its own
    for c in world.values():
        if asked and asked.gateway and c.role == "gateway" and c.running and c.name != new:
            ending = c.name in state.doomed
            port, address = asked.gateway.port, c.address or c.name
            found.append(Watch(c.name, c.started_at, address, port, asked, "gateway", ending))
        if a and c.role == "proxy" and c.running:
            found.append(Watch(c.name, c.started_at, c.address or c.name, PROXY_PORT, a.plan, "proxy", True))
    return found


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def hints(gate: Gate, said: str) -> list[str]:
    """What to do about the traps of a gate that are named in what was said."""
    found = []
    for trap in gate.traps:
        if any(words in said for words in trap.words):
            less = max(0, trap.memory - max(LESS_MIB, *map(math.ceil, _missing(said)), 0))
            found.append(trap.hint.replace("{less}", str(less)))
    return found


def _missing(said: str) -> list[float]:
    """The MiB that CUDA could not give, as PyTorch says it."""
    tried = re.findall(r"Tried to allocate ([\d.]+) (MiB|GiB)", said)
    return [float(size) * (1024 if unit == "GiB" else 1) for size, unit in tried]


def exited(c: Container) -> str:
    reason = " (out of memory)" if c.oom else f" with code {c.exit_code}" if c.exit_code else ""
    return f"{c.kind or c.role} exited{reason}"


class _Turn:
    def __init__(self, state: State, now: float) -> None:
        self.s, self.now, self.actions = state, now, list[Action]()
        self.world: World = {}
        self.proxies: Mapping[str, Status] = {}
        self.route: Route | None = None
        """The published one, if the state said just that when the turn began."""

    # requests

    def boot(self, held: float | None) -> None:
        s, t = self.s, self.s.transaction
        s.held = s.held or (held if s.active and s.active.plan.routing else None)
        self._no_later_than_now()
        s.busy = s.gating = s.room = None
        for doom in s.doomed.values():
            doom.sent = False  # a kill may have come between writing it down and the signal
        if t and t.phase == "checking":
            self._fail("the switch was restarted while it checked")
        elif (
            t
            and t.phase in LEASED
            # one that was asked to commit may have been told to have failed, by a state that was not kept
            and (t.phase != "prepared" or t.asked == "commit")
        ):
            self._fail("the switch was restarted in the middle of the change")

    def _no_later_than_now(self) -> None:
        """The clock may have been set either way while the switch was away: no time that was kept is later
        than now, no deadline further off than when it was given; who holds a lease gets time to follow."""
        s, now = self.s, self.now
        for t in (s.transaction, s.waiting, s.last):
            if t:
                t.began, t.since, t.ended = min(t.began, now), min(t.since, now), min(t.ended, now)
                t.held = None if t.held is None else min(t.held, now)
                soon, late = t.plan.seconds.lease_following, t.plan.seconds.lease_prepared
                t.lease = now + min(max(t.lease - now, soon), max(soon, late))
        for doom in s.doomed.values():
            doom.at = min(doom.at, now)
        for name, until in s.also.items():
            s.also[name] = None if until is None else min(until, now + FORMER_NAME_SECONDS)
        if s.active:
            s.active.since = min(s.active.since, now)
        s.held = None if s.held is None else min(s.held, now)
        s.retry_at, s.healed_at = min(s.retry_at, now + MOST_PAUSE_SECONDS), min(s.healed_at, now)

    def ask(self, e: Ask) -> None:
        s, t, verb, plan, world, seen = self.s, self.s.transaction, e.verb, e.plan, e.world, e.seen
        self.world = world
        lease = self.now + plan.seconds.lease_following
        fresh = Transaction(
            f"{self.now:.3f}", plan, verb, self.now, lease, seen=seen, coordinator=e.coordinator
        )
        if t and t.phase in UNDER_WAY:
            to, left = t.plan.engine, max(0.0, t.lease - self.now)
            same = to == plan.engine and t.plan.cutover == plan.cutover
            if same and (t.phase in LEASED[:5] or (t.phase in ("starting", "retiring") and t.plan == plan)):
                # a coordinator that died and was started again, or prepare's commit
                if verb == "commit":
                    t.asked, t.plan, t.seen = verb, plan, seen
                else:
                    t.cursor = 0
                t.lease, t.coordinator, t.unheard = max(t.lease, fresh.lease), e.coordinator, False
                return
            if t.phase == "restoring" and (t.abandoned or not left):
                s.waiting = fresh
                fresh.lines = [f"waiting until the change to {to.container} is undone"]
                return
            soon = f" If its `pulumi up` was interrupted, it is undone within {left:.0f} s." if left else ""
            raise Occupied(
                f"a change to {to.kind} ({to.container}) is under way, {t.phase} for "
                f"{self.now - t.since:.0f} s.{soon}"
            )
        if plan.engine.container not in world:
            raise Refused(f"the container {plan.engine.container} does not exist. {self._remain()} {REPAIR}")
        a = s.active
        if a and not a.plan.routing and a.plan.engine.model != plan.engine.model:
            # an edge from before there were proxies asks for the old name until the end of the update
            old = a.plan.engine.model
            raise Refused(
                f"the model is called {old!r} at the endpoint, and the edge of the version before this one "
                f"knows no other name until it is brought to this one: `pulumi config set name {old}` and "
                f"`pulumi up`, and then the other name. {self._remain()}"
            )
        if verb == "commit" and plan.gateway and plan.gateway.container not in world:
            raise Refused(f"the gateway {plan.gateway.container} does not exist. {self._remain()} {REPAIR}")
        self._begin(fresh)

    def _begin(self, fresh: Transaction) -> None:
        s, a, plan = self.s, self.s.active, fresh.plan
        s.transaction, s.waiting, fresh.since = fresh, None, self.now
        s.images += [image for image in dict.fromkeys(plan.about.all_images) if image not in s.images]
        self._give_up_job()
        if a is None:
            return
        fresh.old_kind, fresh.old_engine = a.plan.engine.kind, a.plan.engine.container
        fresh.old_gateway, fresh.old_plan = a.plan.gateway_container, a.plan
        g = self.world.get(fresh.old_gateway)
        same = (fresh.old_gateway, a.plan.routing) == (plan.gateway_container, plan.routing)
        stays = same and (not plan.gateway or (g and g.running and g.name not in s.doomed))
        if plan.engine == a.plan.engine and gated(s, self.world) and (fresh.asked == "prepare" or stays):
            fresh.phase = "unchanged"
            s.seen = fresh.seen or s.seen
            if fresh.asked == "commit":
                s.damage = None
            fresh.lines.append(f"{plan.engine.kind} ({plan.engine.container}) is already serving")

    def follow(self, read: bool) -> None:
        t = self.s.waiting or self.s.transaction
        if t:
            t.cursor = len(t.lines) if read else t.cursor
            t.lease, t.unheard = max(t.lease, self.now + t.plan.seconds.lease_following), False

    def abandon(self, engine: str) -> None:
        """Back to what was active. A change that already goes back is left to it."""
        t = self.s.transaction
        if not t or t.phase not in UNDER_WAY or t.plan.engine.container != engine:
            raise Refused(f"no change to {engine} is under way")
        if t.phase == "restoring":
            return
        if t.asked == "commit":
            raise Refused(f"the change to {engine} is being committed; only its `pulumi up` can end it")
        t.abandoned = True
        self._fail("given up as asked")

    def unkept(self, why: str) -> None:
        t = self.s.transaction
        if t and t.phase in LEASED:
            self._fail(why)

    # results

    def done(self, e: Done) -> None:
        s, t = self.s, self.s.transaction
        if e.action.do == "logs" and t and t.logs_of == e.action.container:
            lines = e.text.splitlines() if e.ok else []
            t.logs, t.hints = lines[-LOG_SHOWN:], hints(t.plan.gate, f"{t.error}\n{e.text if e.ok else ''}")
        if e.action.do in ("signal", "restart") and not e.ok and e.action.container in s.doomed:
            s.doomed[e.action.container].sent = False
        if s.busy is None or s.busy.job != e.action.job:
            return  # given up in the meantime
        took, s.busy = self.now - s.busy_since, None
        leased = t if t and t.phase in LEASED else None
        match e.action:
            case _ if e.stalled:
                self._stalled_job(e.action)
            case Action(do="check") if leased:
                if e.ok:
                    self._say(f"{e.text} ({took:.1f} s)")
                    leased.checked = True
                else:
                    self._fail(e.text)
            case Action(do="memory", container=name) if s.room and s.room.container == name:
                free = e.facts.get("free", 0)
                s.room = replace(s.room, free=free, why=e.text, next_at=self.now + 0.25)
            case Action(do="probe", through="gateway") if leased:
                if e.ok:
                    self._decide(leased)
                else:
                    s.gating = replace(self._gateway_gating(leased), why=e.text, next_at=self.now + 0.2)
            case Action(do="probe", container=name) if s.gating and s.gating.container == name:
                self._gate_result(s.gating, e, took)
            case Action(do="stop", container=name):
                if t and e.ok and t.phase in ("stopping", "retiring"):
                    self._say(f"{self._kind(name)} stopped ({took:.1f} s)")
                if t and t.phase == "restoring" and name == t.plan.engine.container and e.ok:
                    t.cleared = True
                if not e.ok:
                    self._broken(f"{name} could not be stopped: {e.text}")
            case Action(do="start", container=name) if not e.ok:
                self._broken(f"{name} could not be started: {e.text}", name)

    def _stalled_job(self, action: Action) -> None:
        """Docker may have done it or not: it is looked at, and asked for again where it was not."""
        t = self.s.transaction
        if action.do == "start" and self.s.gating and self.s.gating.container == action.container:
            self.s.gating = None
        if action.do == "start" and t and t.plan.gateway_container == action.container:
            t.opened = False

    def _broken(self, text: str, container: str = "") -> None:
        """An order that Docker did not carry out: a change is given up, anything else is tried again."""
        t = self.s.transaction
        if t and t.phase in LEASED:
            self._fail(text, container)
        else:
            self._trouble(text)

    def _gate_result(self, g: Gating, e: Done, took: float) -> None:
        t = self.s.transaction
        plan = e.action.plan
        if e.ok and plan:
            if g.passed or plan.gate.completions == 1:  # an engine warms up, or even loads, in its first
                g.fastest = max(g.fastest, e.facts["tokens"] / max(e.facts["seconds"], 0.001))
            g.passed, g.next_at = g.passed + 1, self.now
            if t and t.phase in UNDER_WAY:
                t.gates.append({"at": self.now, "engine": g.container, **e.facts})
                since, what = (t.held, "the hold began") if t.held else (g.began, "it was started")
                last = f" passed {self.now - since:.1f} s after {what}"
                n = plan.gate.completions
                self._say(f"gate {g.passed}/{n}{last if g.passed == n else ''}")
        elif e.loading:
            g.why, g.next_at = e.text, self.now + 0.25
        else:
            g.errors, g.why, g.next_at = 3 if e.final else g.errors + 1, e.text, self.now + 1

    # turns

    def tick(self, e: Tick) -> None:
        s, self.world, self.proxies = self.s, e.world, e.proxies
        if e.route is not None:
            self.route = route(s, e.route, 0)
        if e.stalled:
            self._stalled(e.stalled)
        if s.held is not None and s.transaction and s.transaction.phase in UNDER_WAY:
            waiting = sum(each.held for each in e.proxies.values())
            s.transaction.most_waiting = max(s.transaction.most_waiting, waiting)
        s.also = {name: until for name, until in s.also.items() if until is None or self.now < until}
        for name, doom in list(s.doomed.items()):
            c = e.world.get(name)
            if c is None or not c.up or c.started_at != doom.started_at:
                del s.doomed[name]
        self._connected()
        for name, why in e.hangs.items():
            self._hangs(name, why)
        for name, doom in s.doomed.items():
            if self.world[name].role == "proxy" and not doom.sent:
                # what it had begun to answer stands still with it; the edge asks all else again
                doom.sent = True
                self.actions.append(Action("restart", name))
        if s.active and s.held is None and not self._serves(s.active):
            s.held = self.now
        while True:
            t = s.transaction
            before = t.phase if t else ""
            if t is None or t.phase not in UNDER_WAY:
                self._converge()
            elif t.phase in LEASED and self.now > t.lease:
                self._fail("nobody followed it any more: `pulumi up` was interrupted")
            elif t.unheard and t.phase in LEASED and (t.phase, t.asked) != ("prepared", "prepare"):
                pass  # it may be that nobody wants it any more
            elif not (s.busy and s.busy.do in ORDERS):
                getattr(self, f"_{t.phase}")(t)
            if s.transaction is t and (t is None or t.phase == before):
                return

    def _stalled(self, seconds: float) -> None:
        """Nobody could be heard meanwhile, nor anything be done, and that is nobody's fault here."""
        s, t = self.s, self.s.transaction
        for each in (t, s.waiting):
            if each:
                each.lease += seconds
        if t and t.phase in UNDER_WAY:
            t.stalled += seconds
            t.unheard = t.phase in LEASED
        if s.gating:
            s.gating.began += seconds
        if s.room:
            s.room.since += seconds
        for doom in s.doomed.values():
            doom.at += seconds

    def _in_phase(self, t: Transaction) -> float:
        """How many seconds this phase has had."""
        return self.now - t.since - t.stalled

    def _connected(self) -> None:
        """Puts a container that was taken off a network of the stack back there, by the names that it had."""
        s, world = self.s, self.world.values()
        if s.network and not any(s.network in c.networks for c in world):
            s.network, s.endpoints = "", {}  # it is another network now
        if not s.network:
            switches = [set(c.networks) for c in world if c.role == "switch"]
            engines = [set(c.networks) for c in world if c.role == "engine"]
            s.network = min(set().union(*switches) & set().union(*engines), default="")
        s.endpoints = {
            name: endpoint
            for name, endpoint in s.endpoints.items()
            if name in self.world and self.world[name].created == endpoint.created
        }
        for c in world if s.network else ():
            also = {n: list(names) for n, names in c.networks.items() if n.startswith(f"{s.network}-")}
            kept, on = s.endpoints.get(c.name), s.network in c.networks
            if on and (kept is None or set(kept.also) <= set(also)):
                s.endpoints[c.name] = Endpoint(c.created, list(c.networks[s.network]), also=also)
            elif kept and self.now > kept.asked + CONNECT_AGAIN_SECONDS:
                kept.asked = self.now
                for network, aliases in ((s.network, kept.aliases), *kept.also.items()):
                    if network not in c.networks:
                        self.actions.append(Action("connect", c.name, network=network, aliases=aliases))
                        self._heal(f"{c.name} was taken off the network {network}, and was put back")
                a = s.active
                if not on and a and c.name == a.plan.engine.container and c.running:
                    a.gated_at = ""  # what it had begun can't reach it any more

    def _hangs(self, name: str, why: str) -> None:
        """Gives up a run that gives no answer any more."""
        s, t, c = self.s, self.s.transaction, self.world.get(name)
        doom = s.doomed.get(name)
        if c is None or not c.up or (doom and doom.hangs):
            return
        s.doomed[name] = Doom(c.started_at, doom.at if doom else self.now, bool(doom and doom.sent), why)
        said = f"{c.kind or c.role} ({name}) hangs: {why}"
        if c.role == "proxy":
            self._heal(f"{said}. It was started anew")
            return
        self._heal(f"{said}. It was ended")
        if not t or t.phase not in UNDER_WAY:
            if c.role == "engine":
                self._trouble(said)
            else:
                s.trouble = said
            return
        self._say(f"{said}. Nothing is waited for that is there")
        if t.way == "beside" and name == t.old_engine and t.phase in LEASED:
            s.held = self.now if s.held is None else s.held
            t.way, t.held = "hold", s.held

    def _heal(self, what: str) -> None:
        self.s.healed, self.s.healed_at = what, self.now

    def _checking(self, t: Transaction) -> None:
        if not t.checked:
            self._job("check", plan=t.plan)
            return
        crowded = self._crowded(t)
        overlaps = self.s.active and self.s.active.plan.cutover == "overlap"
        if crowded and t.plan.insist and overlaps:  # what a hold left has to make room first
            self._fail(
                f"{crowded}, and the setting `cutover` says overlap. `pulumi config set cutover auto` lets "
                "requests wait for such a change"
            )
            return
        t.crowded, t.way = crowded, "hold" if crowded else self._way(t)
        if crowded:
            self._say(f"one at a time: {crowded}")
        if t.way == "gateway":
            t.gated_at = self.s.active.gated_at if self.s.active else ""
            self._to("prepared")
        else:
            self._to("draining" if t.way == "hold" else "loading")

    def _crowded(self, t: Transaction) -> str:
        """Why what serves and the new engine can't run beside each other, where that is wanted, else nothing.

        The settings tell the sum of one engine of each kind; what serves may be the same kind with others.
        """
        a, new = self.s.active, t.plan
        if a is None or new.cutover == "hold" or self._way(t) != "beside":
            return ""
        old, there = a.plan.engine, new.memory
        for what, one, other, room in (
            ("on each GPU", old.gpu_bytes, new.engine.gpu_bytes, there.gpu),
            ("of the host's RAM", old.host_bytes, new.engine.host_bytes, there.host),
        ):
            if room and one + other > room:
                return (
                    f"{old.kind} as it serves and {new.engine.kind} as it is wanted need {_gib(one)} + "
                    f"{_gib(other)}, and there are {_gib(room)} {what}"
                )
        return ""

    def _way(self, t: Transaction) -> Literal["hold", "beside", "gateway"]:
        a = self.s.active
        if a is None or not gated(self.s, self.world):
            return "hold"
        if a.plan.engine.container == t.plan.engine.container:
            return "gateway"
        return "beside" if t.plan.cutover == "overlap" else "hold"

    def _draining(self, t: Transaction) -> None:
        a = self.s.active
        if a and self.s.held is None:
            self.s.held = self.now
        t.held = self.s.held
        gateways = self._unrouted_gateways()
        ended = self._ended(gateways)
        at_work = [f"{c.name} still had requests" for c in gateways] + self._at_work()
        if ended and not at_work:
            if t.held is not None:
                self._say(f"drained in {self.now - t.since:.1f} s")
            self._to("stopping")
        elif self._in_phase(t) > t.plan.seconds.drain:
            why = " and ".join(at_work)
            self._fail(f"{why} after {t.plan.seconds.drain:g} s; no engine was stopped")

    def _stopping(self, t: Transaction) -> None:
        if self._alone(t):
            self._to("loading")

    def _loading(self, t: Transaction) -> None:
        e = self.world.get(t.plan.engine.container)
        if not self._alone(t) or not self._old_serves(t):
            return
        if self.s.gating is None:
            if e is None or not e.up:
                if self._room(t.plan):
                    self.s.gating = Gating(t.plan.engine.container, self.now, 0)
                    self._job("start", t.plan.engine.container)
                return
            self.s.gating = Gating(e.name, self.now, e.restarts, e.started_at)
        outcome = self._gate(t.plan, strict=True)
        if outcome is True:
            t.gated_at, self.s.gating = e.started_at if e else "", None
            self._to("prepared")
        elif outcome:
            self._fail(str(outcome), t.plan.engine.container)

    def _prepared(self, t: Transaction) -> None:
        if self._new_stands(t) and t.asked == "commit":
            self._to("starting")

    def _starting(self, t: Transaction) -> None:
        name, seconds = t.plan.gateway_container, t.plan.seconds.gateway
        g = self.world.get(name)
        if not self._new_stands(t):
            return
        if not t.plan.gateway:
            self._decide(t)
        elif g is None:
            self._fail(f"the gateway {name} is gone")
        elif not g.up and not t.opened:
            t.opened = True
            self._job("start", name)
        elif not g.up:
            self._fail(exited(g), name)
        elif self._in_phase(t) > seconds:
            why = self.s.gating.why if self.s.gating else ""
            self._fail(f"the gateway gave no completion within {seconds:g} s: {why or 'no answer'}", name)
        elif self.now >= self._gateway_gating(t).next_at:
            t.opened = True
            self._job("probe", name, plan=t.plan, through="gateway")

    def _gateway_gating(self, t: Transaction) -> Gating:
        return self.s.gating or Gating(t.plan.gateway_container, t.since, 0)

    def _decide(self, t: Transaction) -> None:
        """The one point where `active` changes, and where requests go: a completion has come through the new
        gateway, or there is none."""
        if t.plan.gateway:
            self._say("gateway answers")
        if t.held is not None:
            t.held_seconds = self.now - t.held
            self._say(f"released after {t.held_seconds:.1f} s held")
        if t.old_plan and t.old_plan.engine.container != t.plan.engine.container:
            self.s.back = t.old_plan
        if t.old_plan and t.old_plan.engine.model != t.plan.engine.model:
            self.s.also[t.old_plan.engine.model] = None
        self.s.also.pop(t.plan.engine.model, None)
        self.s.active, self.s.releases = Active(t.plan, t.gated_at, self.now), self.s.releases + 1
        self.s.gating, self.s.held = None, None
        self.s.trouble, self.s.tries, self.s.retry_at = "", 0, 0
        self._to("retiring")

    def _retiring(self, t: Transaction) -> None:
        new, engine = t.plan.gateway_container, t.plan.engine
        if self.route is None or (self._without_note() and self.now - t.since < TAKE_NOTE_SECONDS):
            return  # a gateway that was told to end takes no more requests
        patience = self._patience(t.plan)
        if not self._ended([c for c in self._role("gateway") if c.up and c.name != new], patience):
            return
        old = [c for c in self._role("engine") if c.up and c.name != engine.container]
        if old and self._at_work(engine.name) and self._in_phase(t) < patience:
            return
        if not self._stopped(old):
            return
        # Pulumi deletes the gateways it knows at the end of its update, and fails on one that is gone: only
        # what was already nobody's at the commit before this one can't be Pulumi's any more.
        keep = (new, t.old_gateway)
        orphans = [c.name for c in self._role("gateway") if c.name not in keep and c.created < t.began]
        self.actions += [Action("remove", name) for name in orphans if name in self.s.orphans]
        self.s.orphans = orphans
        for name, until in self.s.also.items():
            self.s.also[name] = self.now + FORMER_NAME_SECONDS if until is None else until
        if t.old_engine not in ("", engine.container):
            self._say(f"{self._kind(t.old_engine)} ({t.old_engine}) is the standby")
        self._end("committed")

    def _restoring(self, t: Transaction) -> None:
        a, s, new = self.s.active, self.s, t.plan.engine.container
        if s.trouble:
            self._end("failed")
            return
        keep = a.plan.gateway_container if a else ""
        patience = self._patience(t.plan) if gated(s, self.world) else t.plan.seconds.drain
        if not self._ended([c for c in self._role("gateway") if c.up and c.name != keep], patience):
            return
        if t.logs_of and t.logs is None:
            self.actions.append(Action("logs", t.logs_of))
        elif not t.cleared and not (a and a.plan.engine.container == new):
            # even one that does not run: Docker may still be starting it for a switch that was killed.
            # At once: no client was ever led to it, and an engine that is loading would use up its grace.
            self._job("stop", new, seconds=0)
        elif self._as_told() if a is None else self._converge():
            self._end("failed")

    def _as_told(self) -> bool:
        """Where nothing is known but what the proxies were told, its engine runs again."""
        told = self.s.damage.route if self.s.damage else None
        e = self.world.get(told.container or "") if told else None
        if e is None or e.up:
            return True
        self._job("start", e.name)
        return False

    def _converge(self) -> bool:
        """One step towards `active`: its engine alone, gated, its gateway up, only then requests. True when
        all is so, and published."""
        s, a = self.s, self.s.active
        if a is None:
            return True  # nothing is known to be ours: stop nothing
        if s.busy and s.busy.do in ORDERS:
            return False
        if not self._stopped(c for c in self._role("engine") if c.up and c.name != a.plan.engine.container):
            return False
        if not gated(s, self.world) and not self._regated(a):
            return False
        if not self._opened(a):
            return False
        s.held, s.trouble = None, ""
        if self.now > s.retry_at + STEADY_SECONDS + a.plan.seconds.answers:
            s.tries = 0
        return self._published()

    def _serves(self, a: Active) -> bool:
        """Whether requests may go on: the active engine is in its gated run, and its gateway there."""
        gateway = self.world.get(a.plan.gateway_container)
        opened = a.plan.gateway is None or (gateway and gateway.up and gateway.name not in self.s.doomed)
        return gated(self.s, self.world) and bool(opened)

    def _opened(self, a: Active) -> bool:
        """Starts the active gateway where it does not run. True when it does, or where there is none."""
        s = self.s
        if a.plan.gateway is None:
            return True
        gateway = self.world.get(a.plan.gateway.container)
        if gateway is None:
            self._trouble(f"the gateway {a.plan.gateway.container} is gone. {REPAIR}")
        elif gateway.name in s.doomed:
            self._ended([gateway], self._patience(a.plan))
        elif gateway.up:
            return True
        elif self.now >= s.retry_at:
            s.tries += 1
            s.retry_at = self.now + min(MOST_PAUSE_SECONDS, 2**s.tries)
            self._job("start", gateway.name)
        return False

    def _regated(self, a: Active) -> bool:
        """Brings the active engine back through its gate while requests wait."""
        s, name = self.s, a.plan.engine.container
        e = self.world.get(name)
        if not self._ended(self._unrouted_gateways(), a.plan.seconds.drain) or self.now < s.retry_at:
            return False
        if e is None:
            self._trouble(f"the container {name} is gone. {REPAIR}")
        elif e.up and name in s.doomed:
            self._stopped([e])
        elif s.gating is None or s.gating.container != name:
            if e.running:
                s.gating = Gating(name, self.now, e.restarts, e.started_at)
            elif not e.up and self._room(a.plan):
                s.gating = Gating(name, self.now, 0)
                self._job("start", name)
        else:
            # not strict: an engine that answers slowly is better than none
            outcome = self._gate(a.plan, strict=False)
            if outcome is True:
                a.gated_at, s.gating, s.retry_at = e.started_at, None, self.now
                return True
            if outcome:
                if e.up:
                    s.doomed[name] = Doom(e.started_at, self.now)  # the next try begins with a fresh start
                self._trouble(str(outcome))
        return False

    # parts of turns

    def _room(self, plan: Plan) -> bool:
        """Whether the engine of `plan` may start: its memory is free on the GPU.

        Docker says that a container has ended before the driver has given back all that it had. What
        serves may start without it after a while: its container then says itself what is wrong.
        """
        s, t, name, need = self.s, self.s.transaction, plan.engine.container, plan.engine.gpu_bytes
        if not need:
            return True
        if s.room is None or s.room.container != name:
            s.room = Room(name, self.now)
        room = s.room
        if room.free >= need:
            s.room = None
            return True
        waited = self.now - room.since
        if waited <= plan.seconds.memory:
            if not s.busy and self.now >= room.next_at:
                self._job("memory", name)
            return False
        if t and t.phase in LEASED:
            why = room.why or (
                f"{_gib(room.free)} are free on the GPU. "
                "Something else uses the GPU: `nvidia-smi` on the Docker host shows what"
            )
            self._fail(f"{plan.engine.kind} needs {_gib(need)}, and after {waited:.0f} s {why}")
            return False
        s.room = None
        return True

    def _gate(self, plan: Plan, *, strict: bool) -> bool | str:
        """True once `plan`'s engine has passed, why it failed, or False while it is on its way.

        `strict` also wants the model wholly on the GPU, and the floor of tokens per second.
        """
        g, e = self.s.gating, self.world.get(plan.engine.container)
        if g is None or e is None:
            return f"the container {plan.engine.container} is gone"
        if not e.running or e.restarts > g.restarts or g.started_at not in ("", e.started_at):
            return f"{exited(e)} while it was loading"
        g.started_at = e.started_at
        if g.passed >= plan.gate.completions:
            floor = plan.gate.tokens_per_second
            if strict and g.fastest < floor:
                which = "fastest completion" + (" after the first" if plan.gate.completions > 1 else "")
                return (
                    f"{e.kind} is too slow: {g.fastest:.1f} tokens per second in its {which}, and {floor:g} "
                    "are wanted (the setting `gateTokensPerSecond`)"
                )
            return True
        if g.errors >= 3:
            return f"{e.kind} failed its gate: {g.why}"
        waited = self.now - g.began
        if waited > plan.seconds.load:
            return f"{e.kind} was not ready after {plan.seconds.load:g} s: {g.why or 'no answer'}"
        if not g.passed and waited // 5 > g.said:
            g.said = int(waited // 5)
            self._say(f"loading {e.kind} … {g.said * 5} s")
        if not self.s.busy and self.now >= g.next_at:
            # Ollama loads its model in the first completion, and begins anew when that is hung up on
            loads = e.kind == "ollama" and not g.passed
            patience = plan.seconds.load - waited if loads else 0
            self._job(
                "probe",
                e.name,
                seconds=patience,
                plan=plan,
                stream=g.passed % 2 == 0,
                strict=strict,
                last=g.passed == plan.gate.completions - 1,
            )
        return False

    def _new_stands(self, t: Transaction) -> bool:
        e = self.world.get(t.plan.engine.container)
        if e is None or not e.running or e.started_at != t.gated_at or e.name in self.s.doomed:
            said = exited(e) if e else f"the container {t.plan.engine.container} is gone"
            if e and e.name in self.s.doomed and self.s.doomed[e.name].hangs:
                said = f"{e.kind} hung ({self.s.doomed[e.name].hangs})"
            self._fail(f"{said} after its gate", t.plan.engine.container)
            return False
        return self._alone(t) and self._old_serves(t)

    def _old_serves(self, t: Transaction) -> bool:
        if t.way != "beside" or gated(self.s, self.world):
            return True
        self._fail(f"{self._kind(t.old_engine)} stopped while the new engine got ready", t.old_engine)
        return False

    def _alone(self, t: Transaction) -> bool:
        """Stops every engine that has no business to run now; True when there is none."""
        may = [t.plan.engine.container] + ([t.old_engine] if t.way == "beside" else [])
        engines = [c for c in self._role("engine") if c.up]
        return self._stopped(c for c in engines if c.name not in may or c.name in self.s.doomed)

    def _stopped(self, containers: Iterable[Container]) -> bool:
        """True when the list is empty; else the first is stopped."""
        for c in containers:
            hangs = self.s.doomed[c.name].hangs if c.name in self.s.doomed else ""
            self.s.doomed[c.name] = Doom(c.started_at, self.now, hangs=hangs)
            t, a = self.s.transaction, self.s.active
            plan = t.plan if t and t.phase in UNDER_WAY else a.plan if a else None
            self._job("stop", c.name, seconds=plan.seconds.stop if plan else 10)
            return False
        return True

    @staticmethod
    def _patience(plan: Plan) -> float:
        """How long a gateway may take to finish whose engine answers: no answer is cut that still can end."""
        return max(plan.seconds.drain + plan.seconds.load, plan.seconds.request)

    def _ended(self, gateways: list[Container], patience: float = float("inf")) -> bool:
        """True when there are none; each is told once to finish, and is ended after `patience` seconds."""
        for c in gateways:
            doom = self.s.doomed.get(c.name)
            if doom is None or not (doom.sent or doom.hangs):
                self.s.doomed[c.name] = Doom(c.started_at, doom.at if doom else self.now)
                self.actions.append(Action("signal", c.name))
            elif doom.hangs or self.now - doom.at > patience:
                self._job("stop", c.name, seconds=0)
        return not gateways

    def _unrouted_gateways(self) -> list[Container]:
        """Gateways that have to end before requests are held: those from before there were proxies."""
        a = self.s.active
        return [] if a and a.plan.routing else [c for c in self._role("gateway") if c.up]

    def _published(self) -> bool:
        """Whether the proxies are told just what the state says now."""
        return self.route is not None and route(self.s, self.route.number, 0) == self.route

    def _without_note(self) -> list[str]:
        """Which proxies have not taken note of what the state says, in words. One that can't be asked has
        not; one that does not run has nothing to take note for."""
        if not self._published():
            return ["the proxies were not told yet what they are to do"]
        number = self.route.number if self.route else 0
        running = [c.name for c in self._role("proxy") if c.running]
        return [
            f"{name} " + ("had not taken note of it" if name in self.proxies else "did not answer")
            for name in running
            if name not in self.proxies or self.proxies[name].applied != number
        ]

    def _at_work(self, serves: str = "") -> list[str]:
        """Which proxies may still have requests that can end at another engine than `serves`, in words."""
        if without := self._without_note():
            return without
        left = (serves, *given_up(self.s))
        counts = {
            name: sum(count for engine, count in status.running.items() if engine not in left)
            for name, status in self.proxies.items()
        }
        return [f"{name} still had {count} requests" for name, count in counts.items() if count]

    def _job(
        self,
        do: Literal["check", "memory", "start", "stop", "probe"],
        container: str = "",
        *,
        seconds: float = 0,
        plan: Plan | None = None,
        stream: bool = False,
        through: Literal["engine", "gateway"] = "engine",
        strict: bool = False,
        last: bool = False,
    ) -> None:
        """One job at a time. A question is given up for an order, an order never for anything."""
        if self.s.busy and (do not in ORDERS or self.s.busy.do in ORDERS):
            return
        self.s.jobs += 1
        action = Action(do, container, self.s.jobs, seconds, plan, stream, through, strict, last)
        self.s.busy, self.s.busy_since = action, self.now
        self.actions.append(action)

    def _role(self, role: str) -> list[Container]:
        return [c for c in self.world.values() if c.role == role]

    def _kind(self, name: str) -> str:
        t, a = self.s.transaction, self.s.active
        if t and name == t.old_engine:
            return t.old_kind
        return a.plan.engine.kind if a and name == a.plan.engine.container else name

    def _say(self, line: str) -> None:
        if self.s.transaction and self.s.transaction.phase in UNDER_WAY:
            self.s.transaction.lines.append(line)

    def _trouble(self, text: str) -> None:
        s = self.s
        s.tries, s.gating = s.tries + 1, None
        s.trouble, s.retry_at = text, self.now + min(MOST_PAUSE_SECONDS, 2**s.tries)

    # ends

    def _to(self, phase: Phase) -> None:
        t = self.s.transaction
        assert t is not None
        t.steps.append({"phase": t.phase, "at": t.since, "seconds": round(self.now - t.since, 3)})
        t.phase, t.since, t.stalled = phase, self.now, 0
        if phase == "prepared" and t.asked == "prepare":
            t.lease = max(t.lease, self.now + t.plan.seconds.lease_prepared)

    def _give_up_job(self) -> None:
        """What only asks questions is not waited for; an order to Docker always is."""
        if self.s.busy and self.s.busy.do not in ORDERS:
            self.s.busy = None
        self.s.gating = self.s.room = None

    def _fail(self, why: str, container: str = "") -> None:
        t = self.s.transaction
        assert t is not None
        t.error, t.logs_of = why, container
        self._give_up_job()
        self._say(why if t.abandoned else f"failed: {why}")
        if t.phase == "checking" and (t.asked == "prepare" or self.s.active is None):
            self._end("failed")
        else:
            self.s.tries, self.s.retry_at, self.s.trouble = 0, 0, ""
            self._to("restoring")

    def _end(self, phase: Literal["committed", "failed"]) -> None:
        s, t = self.s, self.s.transaction
        assert t is not None
        restored = t.phase == "restoring"
        self._to(phase)
        t.ended = self.now
        if phase == "committed":
            s.seen, s.commits = t.seen, s.commits + 1
            if s.damage and t.began >= s.damage.since:  # not one that the older self has only ended again
                s.damage = None
        else:
            if restored and t.held is not None and not s.trouble and s.active:
                t.held_seconds = self.now - t.held
            if t.logs:
                t.lines += [f"the last lines of {t.logs_of}:", *(f"  {line}" for line in t.logs)]
            t.lines += [f"a known trap: {hint}" for hint in t.hints]
            t.lines += [self._remain(t.held_seconds)]
            if not t.abandoned:
                t.lines += [f"next: {self._next(t)}"]
        s.last = copy.deepcopy(t)
        self.actions.append(Action("archive"))
        if s.waiting and self.now <= s.waiting.lease:
            self._begin(s.waiting)
        s.waiting = None

    def _remain(self, held: float | None = None) -> str:
        a = self.s.active
        if a is None and self.s.damage:
            return (
                "What serves is not known for certain: the journal was damaged, and `make status` says more."
            )
        if a is None:
            return "Nothing serves: no engine was active before."
        named = f"{a.plan.engine.kind} ({a.plan.engine.container})"
        if self.s.trouble:
            return f"NOTHING SERVES: {named} is not back: {self.s.trouble}. The switch keeps trying."
        return f"{named} serves{f' again, requests were held for {held:.1f} s' if held else ', as before'}."

    def _next(self, t: Transaction) -> str:
        a = self.s.active
        again = "put right what failed and run `pulumi up` again"
        if t.way == "beside" and not t.gated_at:
            again += ", by hold if memory was short for both (`pulumi config set cutover hold`)"
        if a is None or a.plan.engine.kind == t.plan.engine.kind:
            return f"{again}, or set back what was changed and run `pulumi up`"
        return f"{again}; to stay with {a.plan.engine.kind}: `pulumi config set engine {a.plan.engine.kind}`"
