"""Stops each process for a while, in each phase of a change in both modes, and counts what was lost.

Run, as root: `python -m bench.stalls`. It starts Docker engines of its own. `--process`, `--moment` and
`--seconds` choose some of the cases.

Switch, proxy, edge and Docker are real, and so is the script that `pulumi up` runs for both phases; the
gateway is a plain one, and the engines are test engines. All times are as in a deployment. The answers of an
engine or a proxy that hangs for longer than the switch's patience are cut. Nothing else may be lost, no stall
that is shorter than the leases may take a change back, and afterwards just what is meant to serve serves.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.stack import kept, machine, table
from common import main_guard
from components import pins
from components.gate import GATE_TIMEOUT
from components.plan import REQUEST_SECONDS, times
from switch.machine.transitions import Phase
from switch.plan import FIRST_TOKEN_SECONDS, Mode, Plan
from tests.support import switch_stack
from tests.support.dockerd import Dockerd
from tests.support.switch_stack import NETWORK, PREFIX, PYTHON, Stack, coordinator, docker, labelled, wait

PROCESSES = ("edge", "proxy", "gateway", "old engine", "new engine", "switch", "docker")
"""What is stopped."""
PREPARE: tuple[Phase, ...] = ("checking", "draining", "stopping", "loading")
COMMIT: tuple[Phase, ...] = ("starting", "retiring")
MOMENTS: tuple[Phase, ...] = (*PREPARE, "prepared", *COMMIT, "committed")
"""When it is stopped: in a phase of the change, between its prepare and its commit, or right after it."""
MODES: tuple[Mode, ...] = ("hold", "overlap")
Case = tuple[str, Phase, Mode, int]
"""A process, the moment and the mode, and for how many seconds the process is stopped."""
SECONDS = times(drain=120, load=300)
"""The times of a plan, with the default values of the settings `drainSeconds` and `loadSeconds`."""
LIMITS = {
    "hold_seconds": 1080,
    "first_token_seconds": FIRST_TOKEN_SECONDS,
    "answer_seconds": REQUEST_SECONDS,
}
LOADING = 12
"""Seconds that the new engine takes to load."""
LOOK_SECONDS = 0.05
"""Between two looks at the phase of a change: some last less than a second."""
ENDING = 3
"""Seconds that an engine takes to end once it is told to."""
TRIES = 3
"""How often a change is made anew whose moment had passed before it was seen."""
RUNNING = 1000
"""Tokens, of 20 ms each, of an answer that runs when a change begins, so that its drain has to wait."""


def cases(options: argparse.Namespace) -> list[Case]:
    """All of the cases that are asked for and can occur.

    An engine that has not begun to load, or that a hold has ended, can't be stopped. With overlap the old
    engine drains and ends in `retiring`.
    """
    found = []
    for seconds, process, moment, mode in itertools.product(
        options.seconds, options.process, options.moment, MODES
    ):
        before_loading = moment in ("checking", "draining", "stopping")
        if process == "new engine" and before_loading:
            continue
        if process == "old engine" and (moment == "committed" or (mode == "hold" and not before_loading)):
            continue
        if mode == "overlap" and moment in ("draining", "stopping"):
            continue
        found.append((process, moment, mode, seconds))
    return found


class StalledChange:
    """One change of a stack to a new engine and a new gateway, in which a process is stopped for a while."""

    def __init__(self, stack: Stack, dockerd: Dockerd, folder: Path, case: Case) -> None:
        self.stack, self.dockerd, self.log = stack, dockerd, folder / "change.log"
        self.process, self.moment, self.mode, self.seconds = case
        self.new, self.gateway = stack.new_names()
        self.stalled = False

    def container(self) -> str:
        """The container whose process is stopped, without the prefix of its name."""
        new = self.moment in (*COMMIT, "committed")
        return {
            "edge": "edge",
            "proxy": "proxy-1",
            "gateway": self.gateway if new else self.stack.gateway,
            "old engine": self.stack.engine,
            "new engine": self.new,
            "switch": "switch",
        }[self.process]

    def stall(self) -> None:
        """Stops the process for the seconds of the case, and lets it go on."""
        if self.process == "docker":
            self.stalled = True
            self.dockerd.stand_still(self.seconds)
            return
        number = int(docker("inspect", "-f", "{{.State.Pid}}", f"{PREFIX}-{self.container()}"))
        if not number:
            return  # it does not run, or not any more
        os.kill(number, signal.SIGSTOP)
        self.stalled = True
        time.sleep(self.seconds)
        try:
            os.kill(number, signal.SIGCONT)
        except ProcessLookupError:
            return  # it was taken for hung, ended, and started again

    def plan(self, gateway: str = "") -> Plan:
        """The plan of the change; one to prepare has no `gateway`."""
        plan = self.stack.plan(self.new, gateway, cutover=self.mode, gate_timeout=GATE_TIMEOUT)
        return replace(plan, seconds=SECONDS)

    def phase(self) -> str:
        """The phase of the change that is under way; empty if there is none, or the switch does not
        answer."""
        try:
            return str((self.stack.status()["under_way"] or {}).get("phase", ""))
        except AssertionError:
            return ""

    @contextmanager
    def stalling(self, script: subprocess.Popen[bytes]) -> Iterator[None]:
        """Until the block ends, the process is stopped once, as soon as the change is in the case's phase.

        `script` is what carries out the change; when it has ended, nothing is stopped any more.
        """

        def watch() -> None:
            while script.poll() is None:
                if self.phase() == self.moment:
                    self.stall()
                    return
                time.sleep(LOOK_SECONDS)

        thread = threading.Thread(target=watch)
        thread.start()
        yield
        thread.join()

    def step(self, verb: str, phases: tuple[Phase, ...]) -> bool:
        """Carries out `prepare` or `commit` as `pulumi up` does, with a stall if the case's phase is one of
        its `phases`. Returns whether it succeeded."""
        plan = self.plan(self.gateway if verb == "commit" else "")
        with coordinator(plan, self.log, verb) as script:
            with self.stalling(script) if self.moment in phases else nullcontext():
                script.wait(900)
            return script.returncode == 0

    def run(self) -> dict[str, Any]:
        """Carries out the change, and returns what came of it, as data for a line of JSON."""
        self.stack.lost()
        self.stack.make_engine(self.new, delay=LOADING)
        said = ""
        with running(self.stack) as answers:
            good = self.step("prepare", PREPARE)
            if good:
                if self.moment == "prepared":
                    self.stall()
                self.stack.make_gateway(self.gateway, self.new, start=True)
                good = self.step("commit", COMMIT)
                if good and self.moment == "committed":
                    self.stack.engine, self.stack.gateway = self.new, self.gateway
                    self.stall()
            said = self.log.read_text()
            if good:
                self.stack.engine, self.stack.gateway = self.new, self.gateway
            else:
                docker("rm", "-f", f"{PREFIX}-{self.gateway}", check=False)
            right = self.is_right()
        lost = (self.stack.lost() if right else ["it does not serve"]) + answers
        certificate = [line for line in said.splitlines() if "rror" in line or "failed" in line]
        result = {
            "process": self.process,
            "moment": self.moment,
            "mode": self.mode,
            "seconds": self.seconds,
            "reached": self.stalled,
            "committed": good,
            "why": "" if good else " ".join(certificate[-1:]) or said[-300:],
            "right": right,
            "cut": [each for each in lost if "LOST 200" in each],
            "lost": [each for each in lost if "LOST 200" not in each],
        }
        self.stack.tidy()
        return result

    def is_right(self) -> bool:
        """Whether just what is meant to serve serves, at the latest after 400 s."""
        end = time.monotonic() + 400
        while time.monotonic() < end:
            try:
                if self.stack.serves():
                    return True
            except AssertionError:
                pass
            time.sleep(1)
        return False


@contextmanager
def running(stack: Stack) -> Iterator[list[str]]:
    """One long answer that runs until the block ends; then the list has what was wrong with it."""
    name = f"{PREFIX}-long"
    text = stack.client.replace('"max_tokens": 4', f'"max_tokens": {RUNNING}').replace(
        "while True", "if True"
    )
    docker(
        *(
            "run",
            "-d",
            "--name",
            name,
            "--network",
            NETWORK,
            *labelled("client"),
            PYTHON,
            "python3",
            "-c",
            text,
        )
    )
    time.sleep(2)
    answers: list[str] = []
    try:
        yield answers
        docker("wait", name)
        said = docker("logs", name)
        answers.extend([] if said.startswith("good") else [said])
    finally:
        docker("rm", "-f", name, check=False)


def case_of(result: dict[str, Any]) -> Case:
    """The case that a result is of."""
    return result["process"], result["moment"], result["mode"], result["seconds"]


def bad(result: dict[str, Any]) -> str:
    """What is wrong with the result of a change, in words; empty if nothing is."""
    below = result["seconds"] <= 20
    given_up = not below and (result["process"].endswith("engine") or result["process"] == "proxy")
    return "; ".join(
        words
        for wrong, words in (
            (not result["reached"], "its phase was not seen"),
            (not result["right"], "the wrong engine serves"),
            (below and not result["committed"], "taken back"),
            (bool(result["lost"]), "lost"),
            (bool(result["cut"]) and not given_up, "cut"),
        )
        if wrong
    )


def new_stack() -> Stack:
    return Stack(edge=True, limits=LIMITS, engine_options=("-e", f"FAST_END={ENDING}"))


def work() -> None:
    """Carries out the cases that stdin names, on a Docker engine of its own; prints a line of JSON for
    each."""
    mine: list[Case] = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as name:
        dockerd = Dockerd(Path(name))
        dockerd.start()
        try:
            dockerd.load(PYTHON, pins.EDGE.offline)
            os.environ["DOCKER_HOST"] = dockerd.address
            switch_stack.build_gateway()
            stack = new_stack()
            for case in mine:
                for _ in range(TRIES):
                    result = StalledChange(stack, dockerd, Path(name), case).run()
                    if not result["right"]:
                        stack = new_stack()
                    if result["reached"]:
                        break
                print(json.dumps(result), flush=True)
            wait(stack.settled, 60)
            Stack.wipe()
        finally:
            dockerd.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, nargs="+", default=[5, 20, 90], help="(default: 5 20 90)")
    parser.add_argument("--process", nargs="+", default=PROCESSES, choices=PROCESSES, help="(default: all)")
    parser.add_argument("--moment", nargs="+", default=MOMENTS, choices=MOMENTS, help="(default: all)")
    parser.add_argument("--jobs", type=int, default=4, help="Docker engines at once (default: 4)")
    parser.add_argument(
        "--json",
        type=Path,
        help="a file that each result is added to, a line each; what it has is not done again",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return
    if os.geteuid() != 0:
        parser.error("only root can start Docker engines")
    wanted = cases(options)
    results = [each for each in kept(options.json) if case_of(each) in wanted] if options.json else []
    left = [case for case in wanted if case not in map(case_of, results)]
    print(f"{len(left)} changes, {options.jobs} at once", flush=True)
    lock = threading.Lock()

    def one(number: int) -> None:
        told = {**os.environ, "SWITCHTEST_PREFIX": f"changeover-stalls-{number}"}
        words = [sys.executable, "-m", "bench.stalls", "--worker"]
        with subprocess.Popen(
            words, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin and process.stdout
            with process.stdin as asked:
                json.dump(left[number :: options.jobs], asked)
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                result = json.loads(line)
                with lock:
                    results.append(result)
                    about = (
                        f"{result['process']}, {result['moment']}, {result['mode']}, {result['seconds']} s"
                    )
                    print(f"{len(results)} of {len(wanted)}: {about}: {bad(result) or 'good'}", flush=True)
                    if options.json:
                        with options.json.open("a") as file:
                            file.write(line)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = []
    for process, seconds in itertools.product(options.process, options.seconds):
        some = [each for each in results if each["process"] == process and each["seconds"] == seconds]
        rows.append(
            [
                process,
                seconds,
                len(some),
                sum(each["committed"] for each in some),
                sum(len(each["cut"]) for each in some),
                sum(len(each["lost"]) for each in some),
                sum(each["right"] for each in some),
            ]
        )
    print(f"\nEach process stopped in each phase of a change, {machine()}\n")
    print(table(["what", "s", "changes", "committed", "cut", "lost", "right afterwards"], rows))
    failed = [each for each in results if bad(each)]
    for each in failed:
        print(f"\n{bad(each)}: {json.dumps(each)}")
    raise SystemExit(1 if failed or len(results) < len(wanted) else 0)


if __name__ == "__main__":
    main_guard(main)
