"""`python3 -m switch.pod FILE`: the gate beside an engine in its pod, on a cluster.

It asks the engine what the switch asks one on a Docker host, after each start of it, and says how that went:
to the cluster, for which the pod is ready once the gate is passed, and to the proxies, which ask every pod
how it is and say what they have there. So a pod that is to end is out of their choice, and has nothing more
to answer, before its engine is told to end. None of them needs to know the cluster.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from switch.daemon import probe
from switch.gate import Answer
from switch.machine import Watch
from switch.machine.gating import MOST_ERRORS, answered, next_probe
from switch.machine.state import Gating
from switch.machine.traps import hints
from switch.plan import Plan, load
from switch.pod_plan import ALIVE, DRAIN, PORT, READY, STATE, PodPlan
from switch.pulse import Pulse

SEEN_SECONDS = 45.0
"""For so long the engine's liveness probe must fail until the cluster has ended it, and starts it again."""

LOOK_SECONDS = 0.25
"""Between two looks whether the engine still listens. Its next start takes longer than that."""

FORGET_SECONDS = 3.0
"""A proxy that has not asked for so long has gone. They ask several times a second."""

STALLS_SECONDS = 10.0
"""One that has something here may also be without a core for so long, and its answers would be cut. What it
would send after that goes elsewhere, since nothing listens here any more."""


@dataclass(frozen=True)
class Heard:
    """What a proxy said last: its requests here, whether it knows of the drain, and when."""

    running: int
    knows: bool
    at: float


@dataclass
class OwnPod:
    """The pod that this runs in, as the cluster and the proxies see it. Pure but for the lock: times are
    given to it."""

    engine: dict[str, object]
    gated: bool = False
    why: str = "its gate has not begun"
    """Why it is not gated."""
    failed: bool = False
    """Whether it has had its time, and won't get better by itself."""
    draining: float | None = None
    """Since when."""
    heard_at: float = float("-inf")
    """When something last came from the engine to a proxy, as far as they say it."""
    proxies: dict[str, Heard] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def asked(
        self, proxy: str, running: int, knows: bool, now: float, silent: float = float("inf")
    ) -> dict[str, object]:
        """The answer to a proxy that has so many requests here, has heard of the drain or not, and has heard
        nothing of the engine for `silent` seconds."""
        with self.lock:
            self.heard_at = max(self.heard_at, now - silent)
            self.proxies[proxy] = Heard(running, knows, now)
            others = [
                heard
                for name, heard in self._there(now).items()
                if name != proxy and now - heard.at < FORGET_SECONDS
            ]
            return {
                "engine": self.engine,
                "ready": self.ready,
                "draining": self.draining is not None,
                "elsewhere": sum(heard.running for heard in others),
            }

    @property
    def ready(self) -> bool:
        return self.gated and self.draining is None

    def started(self) -> None:
        """The engine has ended, and another start of it is awaited. A drain was of the one that has ended:
        the cluster drains one that it ends for its failure, too."""
        with self.lock:
            self.gated, self.why, self.failed, self.draining = False, "it does not listen", False, None

    def hangs(self, why: str) -> None:
        """It has passed its gate, and gives no answer any more."""
        with self.lock:
            self.gated, self.failed, self.why = False, True, why

    def drain(self, now: float) -> None:
        """From now on nothing more is to be sent here."""
        with self.lock:
            self.draining = now if self.draining is None else self.draining

    def drained(self, now: float) -> bool:
        """Whether every proxy knows that, and has nothing here any more. Where none is known, one that just
        begins has the time to ask."""
        with self.lock:
            if self.draining is None:
                return False
            there = self._there(now)
            if not there:
                return now - self.draining >= FORGET_SECONDS
            return all(heard.knows and not heard.running for heard in there.values())

    def _there(self, now: float) -> dict[str, Heard]:
        self.proxies = {
            name: heard
            for name, heard in self.proxies.items()
            if now - heard.at < (STALLS_SECONDS if heard.running else FORGET_SECONDS)
        }
        return self.proxies


AskEngine = Callable[[bool, bool, float], Answer]
"""One question of the gate: streamed or not, the last one or not, and the seconds until its answer begins."""


def gate(plan: Plan, ask: AskEngine, clock: Callable[[], float], sleep: Callable[[float], None]) -> str:
    """Asks the engine all that the gate asks. Empty once it has passed, else what it failed by."""
    gating = Gating(plan.engine.container, clock(), restarts=0)
    while (waited := clock() - gating.began) <= plan.seconds.load:
        answered(gating, plan, ask(*next_probe(gating, plan, waited)), clock())
        if gating.passed == plan.gate.completions:
            if gating.fastest < plan.gate.tokens_per_second:
                return (
                    f"it is too slow: {gating.fastest:.1f} tokens per second, and "
                    f"{plan.gate.tokens_per_second:g} are wanted (the setting `gateTokensPerSecond`)"
                )
            return ""
        if gating.errors >= MOST_ERRORS:
            return " ".join([f"it failed its gate: {gating.why}", *hints(plan.gate, gating.why)])
        sleep(max(0.0, gating.next_at - clock()))
    return f"it was not ready after {plan.seconds.load:g} s: {gating.why or 'no answer'}"


def listens(port: int) -> bool:
    """Whether there is an engine at this port of the pod."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except ConnectionError:
        return False
    except TimeoutError:
        pass  # it is there, and has no time
    return True


def watch(pod: OwnPod, read: Callable[[], PodPlan], say: Callable[[str], None]) -> None:
    """Gates the engine after each of its starts, without end, each time by the plan of then. One that has
    passed and hangs is no longer ready, and the cluster starts it again."""
    pulse, runs = Pulse(lambda _: time.monotonic() - pod.heard_at), 0
    while True:
        plan, began = read().plan, time.monotonic()
        why = gate(plan, _asking(plan), time.monotonic, time.sleep)
        pod.why, pod.failed, pod.gated = why, bool(why), not why
        took = f"{time.monotonic() - began:.1f} s"
        say(f"{plan.engine.name}: {why}" if why else f"{plan.engine.name} has passed its gate, {took}")
        runs += 1
        engine = plan.engine
        run = Watch(engine.name, str(runs), engine.container, engine.port, plan, "engine")
        pulse.watch([] if why else [run])
        if why and not listens(engine.port):
            # of one that never listens nothing shows that it was started again
            until = time.monotonic() + SEEN_SECONDS
            while not listens(engine.port) and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
            pod.started()
            continue
        while listens(engine.port):
            if pod.gated and (why := pulse.hangs().get(engine.name, "")):
                pod.hangs(why)
                say(f"{engine.name} hangs: {why}")
            time.sleep(LOOK_SECONDS)
        pulse.watch([])
        pod.started()


def _asking(plan: Plan) -> AskEngine:
    return lambda stream, last, patience: probe(plan, "engine", stream, True, patience, last)


def answer(pod: OwnPod, path: str) -> tuple[int, str]:
    """Status and body of the answer to a GET. A drain is waited for."""
    url = urlsplit(path)
    if url.path == READY:
        if pod.ready:
            return 200, "ready\n"
        return 503, "it drains\n" if pod.draining is not None else f"{pod.why}\n"
    if url.path == ALIVE:
        return (503, f"{pod.why}\n") if pod.failed else (200, "alive\n")
    if url.path == STATE:
        said = parse_qs(url.query)
        try:
            (proxy,), running, knows = said["proxy"], int(said["running"][0]), said["draining"] == ["1"]
            silent = float(said.get("silent", ["inf"])[0])
        except (KeyError, ValueError):
            return 400, "proxy, running and draining are wanted\n"
        return 200, json.dumps(pod.asked(proxy, running, knows, time.monotonic(), silent)) + "\n"
    if url.path == DRAIN:
        pod.drain(time.monotonic())
        while not pod.drained(time.monotonic()):
            time.sleep(0.05)
        return 200, "drained\n"
    return 404, ""


def listen(pod: OwnPod, port: int = PORT, address: str = "") -> ThreadingHTTPServer:
    """Answers, in a thread; without an `address` at all of the pod's."""

    class PodHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # a proxy asks by the same connection again and again
        timeout = 60

        def do_GET(self) -> None:
            status, text = answer(pod, self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """No line for a question."""

    server = ThreadingHTTPServer((address, port), PodHandler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def read(file: Path) -> PodPlan:
    """The plan of a pod, from its file. Raises PlanError for one that can't be used."""
    found: PodPlan = load(PodPlan, json.loads(file.read_text()), str(file))
    return found


def pod_of(it: PodPlan) -> OwnPod:
    """A pod whose engine has just begun to start."""
    engine = it.engine
    return OwnPod(
        {
            "name": engine.name,
            "kind": engine.kind,
            "port": engine.port,
            "model": engine.model,
            "at_a_time": it.at_a_time,
            "context": it.context,
        }
    )


def main(words: Sequence[str]) -> None:
    # it is told to end once its engine has ended; as the first process of a container it would not hear that
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    file = Path(words[0])
    pod = pod_of(read(file))
    listen(pod)
    watch(pod, lambda: read(file), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(sys.argv[1:])
