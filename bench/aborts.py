"""How soon an engine is idle after the client of a long answer has hung up, through the endpoint.

Run: `python -m bench.aborts`. It deploys a stack with both real engines on this machine's Docker engine.

Clients of each engine hang up in the middle of an answer, streamed and not streamed: before its first token
Ollama does not look at its client. vLLM is idle when its own metrics say that no request runs; its CPU is not
looked at, since it spins for a second after each request. Ollama has no such metrics, and is idle when its
container uses no CPU, which is read in /proc of this machine. The table is in seconds; the program
fails if an engine was idle later than after one second.
"""

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.stack import deployed, machine, table
from common import main_guard
from components.engines import PORT
from components.gpu_memory import EngineKind
from tests.support.project import Project
from tests.support.way import cpu_seconds, eventually

LIMIT = 1.0
"""Seconds within which the engine has to be idle."""
CONTEXT = 4096
TOKENS: dict[EngineKind, int] = {"ollama": 100_000, "vllm": CONTEXT - 100}
"""How many tokens each engine is asked for: more than it makes until its client hangs up, and until `LIMIT`
after that. Ollama shifts its context, so it may be any number; vLLM is told not to end before, and makes as
many as the context holds."""
SEEN_AT_WORK = 1.5
"""Seconds. An engine that was not seen at work for so long has ended its answer; on a busy machine it may
also wait for its turn for a while."""
EVERY = 0.05
"""Seconds between two looks at the CPU time of Ollama's container."""
IDLE_SHARE = 0.2
"""The share of one core that Ollama's container may use between two looks and still counts as idle."""

WATCH_VLLM = f"""
import re, time, urllib.request
while True:
    text = urllib.request.urlopen("http://127.0.0.1:{PORT}/metrics").read().decode()
    running = sum(map(float, re.findall(r"^vllm:num_requests_running{{.*}} (\\S+)$", text, re.MULTILINE)))
    print(time.time(), int(running > 0), flush=True)
    time.sleep(0.02)
"""


class EngineWatcher(threading.Thread):
    """Looks at an engine again and again, until `ended` is set.

    `seen` has a pair for each look: when it was, in seconds since the epoch, and whether the engine worked.
    """

    def __init__(self, kind: EngineKind, container: str) -> None:
        super().__init__(daemon=True)
        self.kind, self.container = kind, container
        self.seen: list[tuple[float, bool]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        """What the thread does, by the kind of the engine."""
        (self._vllm if self.kind == "vllm" else self._ollama)()

    def _vllm(self) -> None:
        command = ["docker", "exec", self.container, "python3", "-u", "-c", WATCH_VLLM]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                at, works = line.split()
                self.seen.append((float(at), works == "1"))
                if self.ended.is_set():
                    process.terminate()

    def _ollama(self) -> None:
        at, used = time.time(), cpu_seconds(self.container)
        while not self.ended.wait(EVERY):
            now, more = time.time(), cpu_seconds(self.container)
            self.seen.append((now, more - used > IDLE_SHARE * (now - at)))
            at, used = now, more

    def works(self, since: float) -> bool:
        """Whether the engine was seen at work after `since`, in seconds since the epoch."""
        return self.last_work(since) > 0

    def idle(self) -> bool:
        """Whether the engine was looked at in the last two seconds, and never seen at work in them."""
        looks = [works for at, works in self.seen if at > time.time() - 2]
        return bool(looks) and not any(looks)

    def last_work(self, since: float) -> float:
        """How many seconds after `since` (seconds since the epoch) the engine was last seen at work.

        0 if it was not seen at work since then.
        """
        return max((at - since for at, works in self.seen if works and at > since), default=0.0)


@contextmanager
def watching(kind: EngineKind, container: str) -> Iterator[EngineWatcher]:
    """A watcher of the engine in a container, which looks at it until the block ends."""
    watch = EngineWatcher(kind, container)
    watch.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        watch.join()


def ask(endpoint: str, model: str, tokens: int, *, stream: bool) -> http.client.HTTPConnection:
    """Asks an endpoint for a chat of `tokens` tokens, and returns the connection on which it arrives.

    Of an answer that is streamed, the first token has arrived. Raises SystemExit for a status other than 200.
    """
    url = urllib.parse.urlsplit(endpoint)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    messages = [{"role": "user", "content": "Count."}]
    asked: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": tokens, "stream": stream}
    body = json.dumps({**asked, "temperature": 0, "ignore_eos": True})
    connection.request("POST", f"{url.path}/chat/completions", body, {"Content-Type": "application/json"})
    if stream:
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {answer.read()!r}")
        answer.readline()
    return connection


def hang_up(connection: http.client.HTTPConnection) -> float:
    """Closes a connection in both directions, as a client that goes away; says when, in seconds since the
    epoch."""
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    now = time.time()
    connection.close()
    return now


def one(watch: EngineWatcher, endpoint: str, model: str, after: float, *, stream: bool) -> float:
    """One request that is aborted `after` so many seconds of work.

    Returns how many seconds after its client hung up the engine was last at work. Raises SystemExit if the
    answer had ended before.
    """
    eventually(watch.idle, 60, "the engine is idle before the request")
    asked = time.time()
    connection = ask(endpoint, model, TOKENS[watch.kind], stream=stream)
    eventually(lambda: watch.works(asked), 60, "the engine works")
    time.sleep(after)
    if not watch.works(time.time() - SEEN_AT_WORK):
        raise SystemExit("the answer has ended before its client hung up: nothing can be measured")
    gone = hang_up(connection)
    eventually(watch.idle, 120, "the engine is idle after the request")
    return watch.last_work(gone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=10, help="aborted requests of each kind (default: 10)")
    parser.add_argument("--after", type=float, default=0.5, help="seconds of work before it (default: 0.5)")
    parser.add_argument(
        "--gateway", choices=("tensorzero", "none"), default="tensorzero", help="(default: tensorzero)"
    )
    options = parser.parse_args()
    rows: list[list[object]] = []
    late = 0
    with deployed("bench-aborts", engine="ollama", context=CONTEXT, gateway=options.gateway) as project:
        kinds: tuple[EngineKind, ...] = ("ollama", "vllm")
        for kind in kinds:
            if kind != "ollama":
                project.configure(engine=kind)
                project.up()
            rows += measured(project, kind, options.n, options.after)
    late = sum(int(str(row[-1])) for row in rows)
    print(f"Aborted after {options.after:g} s of work, gateway: {options.gateway}, {machine()}; seconds\n")
    print(table(("engine", "answer", "N", "idle after, median", "most", f"later than {LIMIT:g} s"), rows))
    raise SystemExit(1 if late else 0)


def measured(project: Project, kind: EngineKind, count: int, after: float) -> list[list[object]]:
    """The table's rows for the engine that serves: streamed and not streamed, `count` requests each.

    A client hangs up `after` so many seconds of work.
    """
    outputs, rows = project.outputs(), list[list[object]]()
    with watching(kind, project.live()) as watch:
        for stream in (True, False):
            seen = []
            for number in range(count):
                seen.append(one(watch, outputs["endpoint"], outputs["model"], after, stream=stream))
                words = "streamed" if stream else "whole"
                print(
                    f"{kind}, {words}, {number + 1} of {count}: {seen[-1]:.2f} s", file=sys.stderr, flush=True
                )
            late = sum(each > LIMIT for each in seen)
            median, most = f"{statistics.median(seen):.2f}", f"{max(seen):.2f}"
            rows.append([kind, "streamed" if stream else "whole", count, median, most, late])
    return rows


if __name__ == "__main__":
    main_guard(main)
