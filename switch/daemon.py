"""`serve`: turns events into the machine's states and its actions into calls, and answers the other verbs.

Only the main thread acts: it hears the results that have come in, looks at the containers, and lets the
machine decide, so that what it sees is never older than what it has heard. What takes time runs in a thread
and reports back. A state is in the journal, and what it says to the proxies in their file, before any action
of it begins. Only while these can't be written is it kept in memory alone, and then nothing goes forward: see
`JournalWriteFailed`.
"""

import contextlib
import dataclasses
import json
import math
import os
import queue
import signal
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from switch import certificate, gpu, live, machine, metrics
from switch.answers import GO_ON, WAIT
from switch.asking import UNAVAILABLE
from switch.checks import Failed, check, disk
from switch.docker import Docker, DockerError
from switch.gate import Answer, complete, embed, gpu_share, sound, speaks, wholly_on_gpu
from switch.gpu import GpuError
from switch.journal import Journal
from switch.machine import (
    Abandoned,
    Action,
    ActionFinished,
    ChangeRequested,
    Event,
    Followed,
    JournalWriteFailed,
    Occupied,
    Refused,
    StackReleased,
    Started,
    Tick,
)
from switch.machine.results import LOG_LINES
from switch.plan import Plan, PlanError, parse
from switch.proxies import Status, last_heard, statuses
from switch.pulse import Pulse
from switch.report import report
from switch.route import RouteFile

IDLE, BUSY = 1.0, 0.1
POLL_SECONDS = 2.0
GATHER_SECONDS = 0.3
"""For which a `follow` that has something to say waits for more: each is a process in this container."""
GIVE_UP_SECONDS = 20
LOOK_SECONDS = 3.0
"""In which a switch that works, on a Docker that does, looks at the containers again. What takes longer was a
stall: this process was stopped, or Docker, or the machine."""
LATE_SECONDS = POLL_SECONDS + 3
"""After which a request of a coordinator is not done any more. `docker exec` leaves the CLI in the container
when its own client is killed, so an open connection does not say that the coordinator is still there. If it
is, it asks again."""
STALLED = "the switch had stalled, and does nothing of what was asked before that. Run: pulumi up"


def steady() -> Callable[[], float]:
    """A clock that starts at the host's time, in seconds since the epoch. Nobody can set it after that."""
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()


class Daemon:
    """The running switch. `clock` gives seconds since the epoch, and never jumps.

    `live` is the file in which a coordinator reads at each preview what serves: a file, since starting an
    interpreter to ask would double what a preview waits for the host. `shared` is the folder that the proxies
    read.
    """

    def __init__(
        self,
        docker: Docker,
        journal: Journal,
        weights: Path,
        live: Path,
        shared: Path,
        clock: Callable[[], float] | None = None,
    ) -> None:
        clock = clock or steady()
        self.docker, self.journal, self.weights, self.clock = docker, journal, weights, clock
        self.pulse = Pulse(self._last_heard)
        self._looked: float | None = None
        self._live, self._said = live, ""
        self._world: machine.World | None = None
        live.unlink(missing_ok=True)  # of an earlier run: nothing was looked at yet
        self.route = RouteFile(shared, clock)
        self.state = journal.read(clock(), self.route.there)
        self.write_error = ""
        """Why the journal or the proxies' file is older than the state; empty when it isn't."""
        self.events, self._heard = queue.SimpleQueue[Event | None](), deque[Event]()
        self._lock = threading.Condition()

    # events

    def apply(self, event: Event) -> list[Action]:
        """One step of the machine, kept in the journal, or in memory alone where that can do no harm, and
        told to the proxies. Raises Refused, also for a change that can't be kept."""
        with self._lock:
            if isinstance(event, Tick) and event.route != self.route.number(self.state):
                event = dataclasses.replace(event, route=None)  # someone asked for something in the meantime
            new, actions = machine.advance(self.state, event, self.clock())
            if not self._kept(new):
                if isinstance(event, ChangeRequested):
                    raise Refused(self.write_error)
                if isinstance(event, Started | Tick | ActionFinished):  # of the main thread, which alone acts
                    back, first = machine.advance(
                        self.state, JournalWriteFailed(self.write_error), self.clock()
                    )
                    new, actions = machine.advance(back, event, self.clock())
                    actions = first + actions
                    with contextlib.suppress(OSError):  # what leads back is told as soon as it can be
                        self.route.lay_out(new)
                        self.route.publish()
            if new != self.state:
                self._tell(new)
                self.state = new
                self._lock.notify_all()
            self._say_live()  # the lock is still held: before anyone who waits for the new state can ask
            return actions

    def _kept(self, new: machine.State) -> bool:
        """Writes `new` to the journal, and what it says to the proxies to their file. False where that
        failed.

        What the proxies are told takes room before the journal is written, and only a name afterwards: so
        the journal does not say what they were never told, nor are they told what a kill would forget.
        """
        told = self.route.number(new) is not None
        if new == self.state and told and not self.write_error:
            return True
        was, self.write_error = self.write_error, ""
        what = "the proxies' file"
        try:
            self.route.lay_out(new)
            what = "its journal"
            self.journal.write(new)
            what = "the proxies' file"
            self.route.publish()
        except OSError as error:
            _, room = disk(self.journal.folder)
            self.write_error = f"the switch can't write {what} ({error.strerror}): {room}"
        if bool(was) != bool(self.write_error):
            print(self.write_error or "the journal and the proxies' file can be written again", flush=True)
        return not self.write_error

    def _say_live(self) -> None:
        """Writes what serves to the file that coordinators read. Without it, that is not known to them."""
        if self._world is None or (text := live.live(self.state, self._world)) == self._said:
            return
        try:
            new = self._live.with_suffix(".new")
            new.write_text(f"{text}\n")
            new.replace(self._live)
            self._said = text
        except OSError:
            self._live.unlink(missing_ok=True)

    def _tell(self, new: machine.State) -> None:
        """Prints what is new in a state, for the container's log."""
        was, now = self.state.transaction, new.transaction
        if now:
            known = len(was.lines) if was and was.id == now.id else 0
            for line in now.lines[known:]:
                print(line, flush=True)
        if new.trouble and new.trouble != self.state.trouble:
            print(f"trouble: {new.trouble}", flush=True)
        if new.healed and new.healed_at != self.state.healed_at:
            print(new.healed, flush=True)
        if (new.held is None) != (self.state.held is None):
            print("requests are held" if new.held else "requests flow again", flush=True)

    def turn(self) -> None:
        """Takes in the events that have come, looks at the containers, has the machine decide, and acts.

        Raises OSError or DockerError; no event is lost by that.
        """
        self._hear(0)
        while self._heard:
            self.perform(self.apply(self._heard[0]))
            self._heard.popleft()
            self._hear(0)
        self._world = world = self.docker.world()
        self.docker.bound(world)
        number, said = self.route.number(self.state), self._ask_proxies(world)
        hangs, silent, stalled = self._hangs(world), self.pulse.silent(), self._stalled()
        self.perform(self.apply(Tick(world, number, said, hangs, silent, stalled, self.docker.beside)))

    def _hangs(self, world: machine.World) -> dict[str, str]:
        self.pulse.watch(machine.watched(self.state, world))
        network = self.state.network
        if network and any(c.role == "switch" and network not in c.networks for c in world.values()):
            self.pulse.forget()
        return self.pulse.hangs()

    def _silent(self) -> dict[str, str]:
        """What was noticed of each container that may turn out to hang, for a person."""
        return {name: each.how for name, each in self.pulse.silent().items()}

    def _stalled(self) -> float:
        """For how many seconds longer than usual nothing could be looked at, since this was last called."""
        now, looked = self.clock(), self._looked
        self._looked = now
        seconds = 0.0 if looked is None else now - looked - LOOK_SECONDS
        if seconds > LOOK_SECONDS:
            print(f"nothing could be looked at for {seconds:.0f} s, which counts for no deadline", flush=True)
        return max(0.0, seconds)

    def _last_heard(self, engine: str) -> float:
        return last_heard(engine, statuses(proxies(self._world or {})).values())

    def _ask_proxies(self, world: machine.World) -> dict[str, Status]:
        """What the proxies say, while a change or a hold depends on it. Otherwise they are not asked."""
        return {} if self._calm() else statuses(proxies(world))

    def _calm(self) -> bool:
        change = self.state.transaction
        return self.state.held is None and not (change and change.phase in machine.UNDER_WAY)

    def metrics(self) -> str:
        """What Prometheus scrapes; nothing before the first look."""
        world, silent, now = self._world, self._silent(), self.clock()
        if world is None:
            return ""
        with self._lock:
            state = self.state
        told = dict.fromkeys(proxies(world))  # they are scraped themselves
        seen = report(state, world, told, self.weights, now, self.write_error, silent)
        return metrics.page(seen, state.commits, now, self._on_gpu(seen))

    def _on_gpu(self, seen: Mapping[str, Any]) -> float | None:
        """The share of the model that is on the GPU. Only Ollama says it; None for anything else."""
        engine = seen["active"]
        if not (engine and seen["gated"] and engine["kind"] == "ollama" and engine["gpu_bytes"]):
            return None
        return gpu_share(engine["container"], engine["port"])

    def targets(self, query: str) -> str:
        """What Prometheus is to scrape besides the switch, as JSON."""
        return metrics.targets(self._world or {}, query)

    def _hear(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            event = self.events.get(timeout=seconds) if seconds else self.events.get_nowait()
            if event:  # None only wakes
                self._heard.append(event)

    def watch(self) -> None:
        """Wakes the main thread as soon as Docker says that a container has ended. In the second that it
        would sleep otherwise, requests would find no engine."""
        while True:
            with contextlib.suppress(OSError, DockerError):
                for _ in self.docker.ends():
                    self.events.put(None)
            time.sleep(IDLE)

    def run(self) -> None:
        """Takes turns until the process is told to end. Raises SystemExit when Docker is gone for long."""
        self.events.put(Started(self.route.held_since))
        heard = time.monotonic()
        while True:
            try:
                self.turn()
                heard = time.monotonic()
            except (OSError, DockerError) as error:
                print(f"the containers can't be looked at: {error}", flush=True)
                if isinstance(error, ConnectionRefusedError) and time.monotonic() - heard > GIVE_UP_SECONDS:
                    # Docker has come back with another socket; a restarted container mounts that one
                    sys.exit("Docker can't be reached; the restart policy brings the switch back")
                time.sleep(IDLE)
            self._hear(IDLE if self._calm() and not self.state.busy else BUSY)

    # actions

    def perform(self, actions: list[Action]) -> None:
        """Carries out actions in their order; those that take time, each in a thread of its own."""
        for action in actions:
            if action.do in machine.JOBS:
                threading.Thread(target=self._report, args=(action,), daemon=True).start()
            else:
                self._report(action)

    def _report(self, action: Action) -> None:
        self.events.put(self.result(action))

    def result(self, action: Action) -> ActionFinished:
        """Does one action and says how it went. Never raises."""
        try:
            match action.do:
                case "check" if action.plan:
                    serves = self.state.active.plan if self.state.active else None
                    folder = self.journal.folder
                    return ActionFinished(
                        action, True, check(action.plan, self.docker, folder, self.weights, serves)
                    )
                case "memory":
                    free = min(free for free, _ in gpu.memory())
                    return ActionFinished(action, True, facts={"free": free})
                case "probe" if action.plan:
                    answer = probe(
                        action.plan,
                        action.through,
                        action.stream,
                        action.strict,
                        action.seconds,
                        action.last,
                    )
                    return ActionFinished(
                        action, answer.ok, answer.text, answer.loading, answer.final, answer.facts
                    )
                case "start":
                    self.docker.start(action.container)
                case "stop":
                    self.docker.stop(action.container, action.seconds)
                case "signal":
                    self.docker.signal(action.container)
                case "restart":
                    self.docker.restart(action.container)
                case "remove":
                    self.docker.remove(action.container)
                case "connect":
                    self.docker.connect(action.container, action.network, action.aliases)
                case "archive" if self.state.last:
                    # into the log as well, which may outlive this host
                    print(json.dumps(certificate.certificate(self.state.last)), flush=True)
                    self.journal.archive(self.state.last)
                case "logs":
                    said = self.docker.logs(action.container, LOG_LINES)
                    return ActionFinished(action, True, "\n".join(filter(None, [said, gpu.meaning(said)])))
            return ActionFinished(action, True)
        except TimeoutError as error:  # Docker's, since a probe has its own
            return ActionFinished(action, False, str(error), stalled=True)
        except (Failed, DockerError, GpuError, OSError) as error:
            if action.do == "connect":
                print(f"{action.container} can't be put on {action.network}: {error}", flush=True)
            return ActionFinished(action, False, str(error))
        except Exception as error:  # a job that dies unheard would leave the machine waiting for it
            return ActionFinished(action, False, f"an unexpected error: {error!r}")

    # requests

    def answer(self, request: dict[str, Any], gone: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """The answer to one request of the CLI: lines to print, and the exit status.

        Nothing is done for a client that has `gone`, nor for a coordinator that asked `LATE_SECONDS` ago or
        earlier. `at` in a request is when that was, by the monotonic clock, which a host's processes share.
        """
        coordinates = request.get("verb") in ("prepare", "commit", "follow")
        at = request.get("at", math.inf) if coordinates else math.inf

        def late() -> bool:
            return gone() or time.monotonic() - at > LATE_SECONDS

        try:
            if late():
                return {"lines": [STALLED], "code": UNAVAILABLE}
            match request:
                case {"verb": "prepare" | "commit" as verb, "plan": raw}:
                    return self._ask(verb, parse(raw, verb), request, late)
                case {"verb": "follow", "engine": engine}:
                    return self._follow(engine, request.get("change", ""), late)
                case {"verb": "abandon", "engine": engine}:
                    with self._lock:  # what waits now may be released in the next moment
                        self.apply(Abandoned(engine, request.get("change", "")))
                        told = self._held()
                    self.events.put(None)
                    return told
                case {"verb": "held"}:
                    return self._held()
                case {"verb": "state"}:
                    silent, now = self._silent(), self.clock()
                    state = dataclasses.asdict(self.state)
                    return {"state": state, "write_error": self.write_error, "silent": silent, "now": now}
                case {"verb": "release"}:
                    self.apply(StackReleased())
                    return {"lines": ["released: the switch keeps nothing running any more"], "code": 0}
        except (PlanError, Refused) as error:
            return {"lines": [f"refused: {error}"], "code": 75 if isinstance(error, Occupied) else 1}
        except TimeoutError:
            return {"lines": ["Docker gives no answer"], "code": UNAVAILABLE}
        except (OSError, DockerError) as error:
            return {"lines": [f"the switch can't do it now: {error}"], "code": 1}
        return {"lines": ["the switch does not know this request"], "code": 1}

    def _held(self) -> dict[str, Any]:
        return {"lines": [GO_ON if self.state.held is None else WAIT], "code": 0}

    def _ask(
        self,
        verb: Literal["prepare", "commit"],
        plan: Plan,
        request: dict[str, Any],
        late: Callable[[], bool],
    ) -> dict[str, Any]:
        event = ChangeRequested(
            verb, plan, self.docker.world(), request.get("seen", ""), request.get("change", "")
        )
        with self._lock:  # a disk that stalls keeps it for as long
            if late():
                return {"lines": [STALLED], "code": UNAVAILABLE}
            self.apply(event)
        self.events.put(None)
        return {"lines": [f"{verb}: {plan.engine.kind} ({plan.engine.container})"], "code": 0}

    def _follow(self, engine: str, change: str, late: Callable[[], bool]) -> dict[str, Any]:
        end = time.monotonic() + POLL_SECONDS
        with self._lock:  # as above
            if late():
                return {"lines": [STALLED], "code": UNAVAILABLE}
            if other := self._taken(engine, change):
                return other
            self.apply(Followed(read=False))
            while (left := end - time.monotonic()) > 0 and machine.answer(self.state) == ([], 75):
                self._lock.wait(left)
            end = min(end, time.monotonic() + GATHER_SECONDS)
            while (left := end - time.monotonic()) > 0 and machine.answer(self.state)[1] == 75:
                self._lock.wait(left)
            if late():
                return {"lines": [STALLED], "code": UNAVAILABLE}
            if other := self._taken(engine, change):
                return other
            lines, code = machine.answer(self.state)
            self.apply(Followed())
            return {"lines": lines, "code": code}

    def _taken(self, engine: str, change: str) -> dict[str, Any] | None:
        """What to answer where the change under way is not the one that is asked about; None where it is."""
        current = self.state.waiting or self.state.transaction
        if current and (
            (engine and current.plan.engine.container != engine) or (change and current.coordinator != change)
        ):
            return {"lines": [taken(current.plan.engine.container)], "code": 1}
        return None


def probe(
    plan: Plan,
    through: Literal["engine", "gateway"],
    stream: bool,
    strict: bool,
    patience: float,
    last: bool,
) -> Answer:
    """One completion of the plan's gate, from the engine itself or through the new gateway.

    `patience` is in seconds until the answer begins, where that may take longer than the gate's own time-out.
    After the `last` one, with `strict`, comes what is asked once: an instruction, a long prompt, and a
    question in every other protocol. A model that embeds is asked for embeddings; it has no gateway.
    """
    engine, gateway, gate = plan.engine, plan.gateway if through == "gateway" else None, plan.gate
    if gate.embeds:
        answer = embed(
            engine.container,
            engine.port,
            engine.model,
            timeout=gate.timeout,
            patience=patience,
            prompt_tokens=gate.prompt_tokens if strict and last else 0,
        )
        if answer.ok and strict and engine.kind == "ollama" and engine.gpu_bytes:
            return wholly_on_gpu(answer, engine.container, engine.port)
        return answer
    answer = complete(
        gateway.container if gateway else engine.container,
        gateway.port if gateway else engine.port,
        gateway.path if gateway else "/v1/chat/completions",
        gateway.model if gateway else engine.model,
        stream=stream,
        max_tokens=gate.max_tokens,
        timeout=gate.timeout,
        patience=patience,
        same_model=gateway is None,
        sense=gate.sense and gateway is None,
    )
    if answer.ok and strict and last:
        further = sound(
            engine.container,
            engine.port,
            engine.model,
            prompt_tokens=gate.prompt_tokens,
            sense=gate.sense,
            max_tokens=gate.max_tokens,
            timeout=gate.timeout,
        )
        if not further.ok:
            return further
        spoken = speaks(
            engine.container, engine.port, engine.model, max_tokens=gate.max_tokens, timeout=gate.timeout
        )
        if not spoken.ok:
            return spoken
        answer = dataclasses.replace(answer, facts={**answer.facts, **spoken.facts})
    if answer.ok and strict and engine.kind == "ollama" and engine.gpu_bytes:
        return wholly_on_gpu(answer, engine.container, engine.port)
    return answer


def taken(by: str) -> str:
    """What a coordinator is told when the change under way is no longer its own."""
    return (
        f"Another `pulumi up` has taken the place of this one: the switch carries out the change to {by} "
        "now, and nothing more of this one. `make status` shows it. Once it has ended, `pulumi up` brings "
        "the stack to what the settings say."
    )


def proxies(world: machine.World) -> list[str]:
    """The names of the proxies that run."""
    return [c.name for c in world.values() if c.role == "proxy" and c.running]


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    switch: Daemon


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        reply = self.server.switch.answer(json.loads(self.rfile.readline()), self.gone)
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps(reply).encode() + b"\n")

    def gone(self) -> bool:
        """Whether the client has hung up. One that is there sends nothing more, and waits for its answer."""
        try:
            there: bytes = self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return there == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def listen(switch: Daemon, path: Path) -> _Server:
    """Answers the CLI on a socket inside the container, in a thread."""
    path.unlink(missing_ok=True)
    server = _Server(str(path), _Handler)
    server.switch = switch
    path.chmod(0o600)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def serve(switch: Daemon, path: Path) -> None:
    """Runs the switch, and never returns.

    As process 1 it has to ask for SIGTERM itself; without that, Docker would wait in vain and then kill it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(0)  # the journal is always whole, and orders to Docker are looked at again

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    listen(switch, path)
    metrics.listen(switch.metrics, found=switch.targets)
    threading.Thread(target=switch.watch, daemon=True).start()
    switch.run()
