"""A simulated Docker host with engines, a gateway and a proxy under load, for the switch's machine.

Its clock is a number, so that minutes pass at once, and whatever happens by chance comes from one generator
of random numbers. Each order of the machine that would cut an answer fails an assertion.
"""

import copy
import dataclasses
import json
import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, ParamSpec

from switch import journal, machine
from switch.machine import (
    UNDER_WAY,
    Abandoned,
    Action,
    ActionFinished,
    Active,
    ChangeRequested,
    Container,
    Event,
    Followed,
    JournalWriteFailed,
    Refused,
    Silence,
    StackReleased,
    Started,
    State,
    Tick,
    advance,
    answer,
    gated,
)
from switch.machine.route import Route
from switch.machine.views import route
from switch.plan import About, Gate, Memory, Plan, PlannedEngine, PlannedGateway, Seconds
from switch.proxies import Status
from switch.pulse import SAID_SECONDS

OLD, NEW = "stack-ollama-1", "stack-vllm-2"
OLD_GATEWAY, NEW_GATEWAY = "stack-gateway-1", "stack-gateway-2"
PROXY, OTHER_PROXY = "stack-proxy-1", "stack-proxy-2"
Cutover = Literal["hold", "overlap", "tight"]
"""`tight` is an overlap on a host that has room for one engine only."""


Parameters = ParamSpec("Parameters")
SECONDS = Seconds(
    drain=20,
    load=60,
    request=600,
    stop=10,
    lease_following=15,
    lease_prepared=30,
    gateway=20,
    memory=10,
)


def plan(
    engine: str = NEW,
    cutover: Cutover = "hold",
    gateway: str | None = "",
    gpu_bytes: int = 0,
    model: str = "tiny",
    insist: bool = False,
    seconds: Seconds = SECONDS,
) -> Plan:
    """`gateway`: its container in a commit, nothing in a prepare, None with the setting `gateway: none`."""
    name = engine.removeprefix("stack-")
    return Plan(
        engine=PlannedEngine(
            name=name,
            kind="ollama" if "ollama" in engine else "vllm",
            container=engine,
            port=8000,
            model=model,
            weights="tiny-1",
            gpu_bytes=gpu_bytes,
            host_bytes=8 * 2**30,
        ),
        cutover="overlap" if cutover == "tight" else cutover,
        insist=insist,
        memory=Memory(gpu=0, host=14 * 2**30 if cutover == "tight" else 0),
        seconds=seconds,
        gate=Gate(completions=3, max_tokens=8, timeout=15, tokens_per_second=2),
        gateway=None
        if gateway is None
        else PlannedGateway(
            image="gateway:1",
            config="x = 1\n",
            path="/openai/v1/chat/completions",
            model=f"tensorzero::model_name::{model}",
            port=3000,
            config_file="/app/config/tensorzero.toml",
            validate=("--check",),
            container=gateway,
        ),
        routing=f'[models.{model}]\nengines = ["{name}"]\n',
        about=About(
            engine_image=f"{engine}:1",
            gateway_image="gateway:1",
            reason="one at a time",
            sum="1 GiB",
            loading_seconds=5,
            images=(),
        ),
    )


def as_told(make: Callable[Parameters, Plan]) -> Callable[Parameters, dict[str, Any]]:
    """The same as the switch is told it."""
    return lambda *args, **more: dict(json.loads(make(*args, **more).text))


raw_plan = as_told(plan)


def before_proxies(wanted: Plan) -> Plan:
    """The same, as commit 0fb29bc made it."""
    return dataclasses.replace(wanted, routing="", engine=dataclasses.replace(wanted.engine, name=""))


@dataclasses.dataclass
class Box:
    """A container of the simulated host. `mode` is how it behaves once started."""

    name: str
    role: str
    mode: str = "good"
    running: bool = False
    runs: int = 0
    created: float = 0
    ends_at: float | None = None
    told_at: float = float("inf")
    """When it was told to end, in its present run."""
    loads: float = 0
    """Seconds that the first completion takes in which an engine begins to load."""
    exit_code: int = 0
    hangs_since: float = float("inf")
    """From when on it gives no answer in its present run, and ends by nothing but a stop."""
    networks: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def seen(self) -> Container:
        kind = "" if self.role != "engine" else self.name.split("-")[1]
        run, nets = f"run {self.runs}", copy.deepcopy(self.networks)
        return Container(
            self.name, self.role, kind, self.running, False, run, self.exit_code, False, 0, self.created, nets
        )


@dataclasses.dataclass
class Requests:
    """The requests in one proxy, and the route that it goes by."""

    route: Route
    looks_at: float = 0
    """When it looks at the file again."""
    hangs_until: float = 0
    gives_up: bool = True
    """Whether it ends what is at an engine that hangs: one of an older version does not know of it."""
    running: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    """Engine and end of each that was let through."""
    waiting: int = 0

    @property
    def leads_to(self) -> str:
        """The engine to which it lets through what comes, if any."""
        return self.route.engine or "" if self.route.held_since is None else ""

    def status(self) -> Status:
        counts = Counter(engine for engine, _ in self.running)
        return Status(self.route.number, dict(counts), self.waiting, {}, "", False)


class SimulatedHost:
    """A Docker host with an old and a new engine, a proxy that always has requests, a clock, and a switch
    that can be killed any time.

    The journal is what `advance` has returned last, and stays as it is while the disk is full; jobs that are
    on their way end after a random time. Whatever the switch orders, no answer may be cut by it.
    """

    def __init__(self, rng: random.Random, overlap: bool = False) -> None:
        self.rng, self.overlap, self.now = rng, overlap, 1000.0
        self.boxes = {
            OLD: Box(OLD, "engine", running=True),
            NEW: Box(NEW, "engine"),
            OLD_GATEWAY: Box(OLD_GATEWAY, "gateway", running=True),
            PROXY: Box(PROXY, "proxy", running=True),
        }
        active = Active(plan(OLD, gateway=OLD_GATEWAY), "run 0", self.now)
        self.journal = State(active=active)
        self.state = self.journal
        self.file = route(self.state, 1, self.now)
        self.proxies = {PROXY: Requests(self.file)}
        self.beside: dict[str, Box] = {}
        """What is there beside the stack, such as a monitor."""
        self.seen: dict[str, Container] = {}
        """The containers as the switch has seen them last."""
        self.jobs: list[tuple[float, Action]] = []
        self.heard: list[Event] = []
        self.check_text = ""
        self.gpu_bytes, self.gpu_free = 0, 16 * 2**30
        self.token_seconds = 0.01
        self.drain_seconds = 1.0
        """What an answer takes, and a gateway to end."""
        self.most_engines = 1
        self.kill_at: Callable[[], bool] = lambda: False
        self.kills = 0
        self.reboots, self.docker_starts = 0.0, True
        """How often a kill is that of the whole host, and whether Docker then starts the engines that ran."""
        self.full: Callable[[], bool] = lambda: False
        self.no_room: Callable[[], bool] = lambda: False
        """Whether the journal can't be written, and whether the proxies' file can't."""
        self.patience_with_hangs = 45.0
        self.ahead = self.clock_set = 0.0
        """What the switch's clock is ahead of the true time, and the host's, which it reads at its start."""
        self.stalled = 0.0
        """For how long the switch could not look before its next turn."""
        self.stall_at: Callable[[], float] = lambda: 0.0
        """For how many seconds the switch, or Docker, stands still before a turn."""
        self.entered: tuple[str, str] | None = None
        self.entered_at = self.now
        """The change and phase that the switch is in, and since when by the true time."""

    # the host

    def world(self) -> dict[str, Container]:
        return {box.name: box.seen() for box in self.boxes.values()}

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for box in self.boxes.values():
            hangs = self.now >= box.hangs_since
            if box.running and not hangs and box.ends_at is not None and self.now >= box.ends_at:
                box.running, box.ends_at = False, None
        for name, proxy in self.proxies.items():
            self.serve(name, proxy)
        due = [job for job in self.jobs if job[0] <= self.now]
        self.jobs = [job for job in self.jobs if job[0] > self.now]
        for _, action in due:
            self.heard.append(self.carry_out(action))

    def serve(self, name: str, proxy: Requests) -> None:
        """What a proxy does in a moment: it looks at the file, ends requests, and lets others through."""
        if not self.boxes[name].running or self.boxes[name] in self.hanging() or self.now < proxy.hangs_until:
            return
        if self.now >= proxy.looks_at:
            proxy.route, proxy.looks_at = self.file, self.now + self.rng.choice((0, 0, 0.3))
        up = {box.name.removeprefix("stack-") for box in self.boxes.values() if box.running}
        if proxy.gives_up:
            up -= set(proxy.route.given_up)
        hang = {box.name.removeprefix("stack-") for box in self.hanging()}
        cut = [engine for engine, _ in proxy.running if engine not in up]
        proxy.running = [
            each for each in proxy.running if each[0] in up and (each[1] > self.now or each[0] in hang)
        ]
        proxy.waiting += len(cut)
        proxy.waiting = min(proxy.waiting + 1, 9)
        if proxy.leads_to in up and len(proxy.running) < 9:
            proxy.running += [(proxy.leads_to, self.now + self.drain_seconds)] * proxy.waiting
            proxy.waiting = 0

    def carry_out(self, action: Action) -> ActionFinished:
        box = self.boxes.get(action.container)
        if action.do == "connect":
            box = box or self.beside.get(action.container)
        match action.do:
            case "check":
                return ActionFinished(action, not self.check_text, self.check_text or "checked")
            case "memory":
                return ActionFinished(action, True, facts={"free": self.gpu_free})
            case "start" if not box:
                return ActionFinished(action, False, "no such container")
            case "start" if box and not box.running:
                if box.name == NEW:
                    assert self.gpu_free >= self.gpu_bytes, "started before its memory was free"
                box.running, box.ends_at, box.runs = True, None, box.runs + 1
                box.told_at = box.hangs_since = float("inf")
                if box.mode == "exits":
                    box.running, box.exit_code = False, 3
                self.count_engines()
            case "stop" if box:
                box.running, box.ends_at = False, None
            case "signal" if box and box.running and box.ends_at is None:
                box.ends_at, box.told_at = self.now + self.drain_seconds, self.now
            case "restart" if box:
                assert box in self.hanging() and box.role == "proxy"
                box.runs, box.hangs_since = box.runs + 1, float("inf")
                self.proxies[box.name] = Requests(self.file)
            case "remove":
                assert not (box and box.running), "it would be removed in the middle of its answers"
                self.boxes.pop(action.container, None)
            case "connect" if box:
                assert action.network not in box.networks
                box.networks[action.network] = action.aliases
            case "logs":
                return ActionFinished(action, True, "its last line")
            case "probe" if box is None or not box.running or box.mode == "silent":
                return ActionFinished(action, False, "does not listen", loading=True)
            case "probe" if box in self.hanging():
                return ActionFinished(action, False, "a completion took too long")
            case "probe" if box and box.mode == "error":
                return ActionFinished(action, False, "HTTP 500")
            case "probe" if box and box.loads:
                if box.loads > self.patience(action):
                    return ActionFinished(
                        action, False, "a completion took too long"
                    )  # and the next begins anew
                box.loads = 0
        seconds = 8 * self.token_seconds
        facts = {"stream": action.stream, "tokens": 8, "seconds": seconds}
        return ActionFinished(action, True, facts=facts if action.do == "probe" else {})

    def hang(self, name: str) -> None:
        """From now on nothing comes of it, though it runs."""
        self.boxes[name].hangs_since = self.now

    def hanging(self) -> list[Box]:
        return [box for box in self.boxes.values() if box.running and self.now >= box.hangs_since]

    @staticmethod
    def patience(action: Action) -> float:
        return max(action.seconds, action.plan.gate.timeout if action.plan else 0)

    def takes(self, action: Action) -> float:
        """How many seconds a job takes."""
        box = self.boxes.get(action.container)
        loads = box.loads if box and action.do == "probe" and box.running else 0
        return min(loads, self.patience(action)) or self.rng.uniform(0, 2)

    def count_engines(self) -> None:
        running = sum(box.running for box in self.boxes.values() if box.role == "engine")
        assert running <= (2 if self.overlap else 1), "two engines run at once"
        self.most_engines = max(self.most_engines, running)

    # the switch

    def apply(self, event: Event) -> None:
        before = self.state.active.plan if self.state.active else None
        kept = pickle.dumps(self.state)
        new, actions = advance(self.state, event, self.clock())
        assert pickle.dumps(self.state) == kept, "advance changed the state that it was given"
        unwritten = self.full() or not self.publish(new)
        if unwritten and isinstance(event, ChangeRequested):
            raise Refused("the disk is full")
        if unwritten and not isinstance(event, Followed | Abandoned | StackReleased):
            back, first = advance(self.state, JournalWriteFailed("the disk is full"), self.clock())
            new, actions = advance(back, event, self.clock())
            actions = first + actions
            self.publish(new)
        change = new.transaction
        if new.active and new.active.plan != before:
            assert change and change.asked == "commit" and change.phase == "retiring", (
                "active changed without a commit"
            )
            assert not unwritten, "active changed and a kill would have forgotten it"
        was, self.state = self.state, new
        if self.entered != (entered := (change.id, change.phase) if change else None):
            self.entered, self.entered_at = entered, self.now
        if not unwritten:
            self.journal = new
        self.noted(event, was, actions)
        for action in actions:
            if self.kill_at():
                self.kill()
                return
            if action.do == "stop" and self.boxes[action.container].running:
                self.may_stop(self.boxes[action.container])
            if action.do in machine.JOBS:
                self.jobs.append((self.now + self.takes(action), action))
            else:
                self.heard.append(self.carry_out(action))

    def noted(self, event: Event, was: State, actions: list[Action]) -> None:
        """Called with each event, the state before it, and the actions before they are carried out."""

    def publish(self, new: State) -> bool:
        """Gives the proxies another route, if it is another and there is room."""
        first = self.file.held_since if self.file.held_since is not None else self.now
        if route(new, self.file.number, first) == self.file:
            return True
        if self.no_room():
            return False
        self.file = route(new, self.file.number + 1, first)
        if self.file.held_since is None:
            assert new.active and self.file.container == new.active.plan.engine.container
            assert gated(new, self.seen), "requests are led to an engine that is not gated"
        return True

    def may_stop(self, box: Box) -> None:
        """Fails where answers would be cut that could still have ended."""
        patience = 600 - 40  # of every plan here, less what kills took: it counts from when it was to be told
        change, active = self.state.transaction, self.state.active
        if box in self.hanging():
            return  # nothing of it can end
        if box.role == "gateway":
            if gated(self.state, self.world()):
                assert self.now - box.told_at > patience, "a gateway was cut that still had requests"
            return
        if active and active.plan.engine.container == box.name and not gated(self.state, self.seen):
            return  # it has failed the gate, after it was started by somebody else
        if change and change.phase == "retiring" and self.now - self.entered_at >= patience:
            return
        engine = box.name.removeprefix("stack-")
        for name, proxy in self.proxies.items():
            if self.boxes[name].running:
                assert proxy.leads_to != engine, f"{engine} is stopped, and {name} still leads to it"
                assert engine not in dict(proxy.running), f"{engine} is stopped with requests of {name}"

    def turn(self) -> None:
        while self.heard:
            self.apply(self.heard.pop(0))
        self.seen = self.world()
        self.apply(self.tick())

    def tick(self) -> Tick:
        first = self.file.held_since if self.file.held_since is not None else self.now
        told = route(self.state, self.file.number, first) == self.file
        said = {
            name: proxy.status()
            for name, proxy in self.proxies.items()
            if self.boxes[name].running
            and self.boxes[name] not in self.hanging()
            and self.now >= proxy.hangs_until
        }
        watches = machine.watched(self.state, self.seen)
        since = {
            box.name: self.now - box.hangs_since
            for box in self.hanging()
            if any((each.container, each.started_at) == (box.name, f"run {box.runs}") for each in watches)
        }
        patience, how = self.patience_with_hangs, "no answer for {:.0f} s"
        hangs = {name: how.format(seconds) for name, seconds in since.items() if seconds >= patience}
        silent = {
            name: Silence(f"has given {how.format(seconds)}", patience)
            for name, seconds in since.items()
            if seconds >= SAID_SECONDS
        }
        stalled, self.stalled = self.stalled, 0.0
        beside = {box.name: box.seen() for box in self.beside.values()}
        return Tick(self.seen, self.file.number if told else None, said, hangs, silent, stalled, beside)

    def holds(self) -> bool:
        return self.file.held_since is not None

    def clock(self) -> float:
        return self.now + self.ahead

    def stall(self, seconds: float) -> None:
        """The switch, or Docker, does nothing for so long, and everything else goes on."""
        self.pass_time(seconds)
        self.stalled += seconds

    def another_proxy(self) -> Requests:
        self.boxes[OTHER_PROXY] = Box(OTHER_PROXY, "proxy", running=True)
        return self.proxies.setdefault(OTHER_PROXY, Requests(self.file))

    def kill(self) -> None:
        """What it had ordered of Docker may still be carried out; what it would hear is lost."""
        self.kills += 1
        for _, action in self.jobs:
            if action.do in ("start", "stop") and self.rng.random() < 0.5:
                self.carry_out(action)
        self.jobs, self.heard, self.stalled = [], [], 0.0
        if self.rng.random() < self.reboots:
            self.reboot()
        self.state = journal.loads(journal.dumps(self.journal))
        assert self.state == dataclasses.replace(self.journal, busy=None, gating=None, memory_wait=None)
        self.pass_time(self.rng.uniform(0, 3))
        self.ahead = self.clock_set
        self.apply(Started(self.file.held_since))

    def reboot(self) -> None:
        for box in self.boxes.values():
            again = box.role == "proxy" or (self.docker_starts and box.role == "engine" and box.running)
            box.running, box.ends_at, box.runs = again, None, box.runs + again
        for name in self.proxies:
            self.proxies[name] = Requests(self.file)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = self.now + seconds
        while self.now < end:
            if until():
                return True
            if self.kill_at():
                self.kill()
            if seconds := self.stall_at():
                self.stall(seconds)
            self.turn()
            self.pass_time(self.rng.choice((0.1, 0.1, 0.5)))
        return until()

    def follow(self, patience: float = 600) -> int:
        """A coordinator's loop: the exit status, or 75 when patience is over."""
        end = self.now + patience
        while (code := answer(self.state)[1]) == 75 and self.now < end:
            self.apply(Followed())
            self.run(1)
        return code

    def ask(self, verb: Literal["prepare", "commit"], wanted: Plan, coordinator: str = "") -> None:
        self.apply(ChangeRequested(verb, wanted, self.world(), coordinator=coordinator))

    def make_gateway(self, name: str = NEW_GATEWAY, mode: str = "good") -> None:
        self.boxes[name] = Box(name, "gateway", mode, running=mode != "exits", created=self.now)

    def flip(
        self, cutover: Cutover = "hold", to: str = NEW, gateway: str | None = NEW_GATEWAY, model: str = "tiny"
    ) -> int:
        """A whole `pulumi up`: its exit status."""
        unmade = None if gateway is None else ""
        self.ask("prepare", plan(to, cutover, unmade, self.gpu_bytes, model))
        if code := self.follow():
            return code
        if gateway and gateway not in self.boxes:
            self.make_gateway(gateway)
        self.ask("commit", plan(to, cutover, gateway, self.gpu_bytes, model))
        return self.follow()

    def phase(self) -> str:
        return self.state.transaction.phase if self.state.transaction else ""

    def phases(self) -> list[str]:
        """Those that the change has gone through, the present one included."""
        change = self.state.transaction
        return [*(step["phase"] for step in change.steps), change.phase] if change else []

    def held(self) -> bool:
        """Whether requests had to wait for the change."""
        change = self.state.transaction
        return change is not None and (change.held is not None or change.held_seconds is not None)

    def settled(self) -> bool:
        change = self.state.transaction
        ready = self.state.active is None or gated(self.state, self.world())
        gateway = self.boxes.get(self.state.active.plan.gateway_container) if self.state.active else None
        opened = gateway is None or (gateway.running and gateway.ends_at is None)
        if self.state.active and self.state.active.plan.routing:
            opened = opened and self.file.held_since is None
        return not (change and change.phase in UNDER_WAY) and ready and opened and not self.jobs

    def serves(self) -> tuple[list[str], list[str]]:
        running = [box for box in self.boxes.values() if box.running and box.ends_at is None]
        return (
            sorted(box.name for box in running if box.role == "engine"),
            sorted(box.name for box in running if box.role == "gateway"),
        )

    def lines(self) -> str:
        assert self.state.transaction
        return "\n".join(self.state.transaction.lines)
