"""The standby of a stack, borrowed for a while: it gets the GPU inside a change that is never committed.

If whoever borrows it ends early, however that ends, the switch brings the active engine back when the lease
runs out.
"""

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import StepFailed
from components.engines import EngineSpec
from components.labels import Labels
from stacks.blueprint import Blueprint, blueprint_of
from stacks.settings import PROJECT, Settings, SettingsError, from_files
from switch.asking import UNAVAILABLE
from tools.owner import look

FOLLOW_SECONDS = 5
"""Well below the switch's lease, of which each `follow` asks for more."""
UNKNOWN_OPTION = 2
"""Exit status of a switch that is asked with an option which its version does not know."""
TAKEN_BACK = (
    "the switch undid the change while the standby was being asked, so there is no result; the reason is "
    "above, or in `make status`. Run the same command again"
)


def docker(*words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command of Docker. Raises StepFailed if it fails, unless `check` is False."""
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise StepFailed(f"docker {words[0]}: {(done.stderr or done.stdout).strip()}")
    return done


class Host:
    """A stack's containers on the Docker host, and its switch."""

    def __init__(self, stack: str) -> None:
        self.change = secrets.token_hex(6)
        """The id of the change that is asked for here: another coordinator may take it over."""
        self.stack, self.labels = stack, Labels(project=PROJECT, stack=stack)
        found = self.containers("switch", "--filter", "status=running")
        if len(found) != 1:
            raise StepFailed(f"no switch of stack `{stack}` runs here. Deploy it: make up STACK={stack}")
        self.switch_name = found[0]

    def containers(self, role: str, *more: str) -> list[str]:
        """The names of the stack's containers of a role; `more` are options of `docker ps`."""
        labels = [f"--filter=label={key}={value}" for key, value in self.labels.of(role).items()]
        return docker("ps", "--all", *labels, *more, "--format", "{{.Names}}").stdout.split()

    def engine(self, spec: EngineSpec) -> str:
        """The name of the container of an engine that the settings give."""
        prefix = f"{self.labels.name(spec.name)}-"
        found = [name for name in self.containers("engine") if name.startswith(prefix)]
        if len(found) != 1:
            raise StepFailed(f"the settings need {spec.name}, which is not on this host. Run: pulumi up")
        return found[0]

    def switch(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a verb of the switch, whatever becomes of it."""
        options = ["-i"] if stdin is not None else []
        command = ["exec", *options, self.switch_name, "python3", "-m", "switch", *words]
        return docker(*command, stdin=stdin, check=False)

    def status(self) -> dict[str, Any]:
        """What `switch status --json` says. Raises StepFailed where it says nothing."""
        done = self.switch("status", "--json")
        if done.returncode != 0:
            raise StepFailed(f"the switch does not answer: {(done.stderr or done.stdout).strip()}")
        return dict(json.loads(done.stdout))

    def follow(self, container: str) -> int:
        """Prints what is new; 75 under way, 0 ready, 1 failed, UNAVAILABLE for a switch that stands still."""
        done = self.switch("follow", "--engine", container, "--change", self.change)
        for line in done.stdout.splitlines():
            print(f"  {line}", flush=True)
        return done.returncode


@contextlib.contextmanager
def leased(host: Host, container: str) -> Iterator[threading.Event]:
    """Renews the lease of a prepared change; the event is set when it was lost."""
    end, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not end.wait(FOLLOW_SECONDS):
            if host.follow(container) == 1:
                lost.set()
                return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        end.set()
        thread.join()


@dataclass(frozen=True)
class Pair:
    """Both engines of a stack: `ours` is the blueprint in which the active one serves, `active` its
    container, and `other` the blueprint in which the standby would."""

    settings: Settings
    host: Host
    ours: Blueprint
    other: Blueprint
    active: str


def pair(stack: str, root: Path) -> Pair:
    """Both engines of a stack that serves. Raises StepFailed where it doesn't, or has no standby."""
    try:
        settings = from_files(stack, root)
    except SettingsError as error:
        raise StepFailed(str(error)) from None
    if settings.model.embeds:
        raise StepFailed(
            f"{settings.model.name} only computes embeddings and cannot chat, but both engines would be "
            "asked to chat: there is nothing to compare. Nothing was done"
        )
    look(stack)
    if not settings.standby:
        raise StepFailed(
            "there is no standby to compare with. Run: pulumi config set standby true && pulumi up"
        )
    ours = blueprint_of(settings)
    other = blueprint_of(replace(settings, engine=settings.kinds[1]))
    host = Host(stack)
    status, active = host.status(), host.engine(ours.active)
    host.engine(other.active)
    if status["under_way"] or not status["gated"] or status["live"] != active:
        raise StepFailed(
            f"{active} does not serve, or a change is under way. Look with: make status STACK={stack}"
        )
    return Pair(settings, host, ours, other, active)


@contextlib.contextmanager
def standby(host: Host, other: Blueprint, doing: str) -> Iterator[tuple[str, threading.Event]]:
    """Prepares the standby, and has the switch bring the active engine back at the end, whatever happens.

    Inside, the standby's container answers on the stack's network, until the event is set: then it was taken
    away. Raises StepFailed, also at the end where that was so.
    """
    container = host.engine(other.active)
    asked = host.switch("prepare", "--change", host.change, stdin=other.plan().leading_to(container).text)
    if asked.returncode != 0:
        raise StepFailed(f"the switch refused: {asked.stdout.strip()}")
    try:
        while (code := host.follow(container)) in (75, UNAVAILABLE):
            pass
        if code != 0:
            raise StepFailed("the standby did not become ready; what the switch says about it is above")
        print(f"{other.active.name} is ready; {doing}", flush=True)
        with leased(host, container) as lost:
            yield container, lost
        if host.follow(container) != 0:
            raise StepFailed(TAKEN_BACK)
    finally:
        told = host.switch("abandon", "--engine", container, "--change", host.change)
        if told.returncode == UNKNOWN_OPTION:
            host.switch("abandon", "--engine", container)
        restored(host, within=other.settings.bounds.worst)


def restored(host: Host, within: float) -> None:
    """Waits until the active engine serves again. Raises StepFailed after `within` seconds."""
    print("bringing the active engine back", flush=True)
    end = time.monotonic() + within
    while time.monotonic() < end:
        status = host.status()
        gateway = status["containers"].get(status["gateway"])
        if status["under_way"] is None and status["gated"] and gateway == "running":
            print(f"{status['active']['kind']} serves", flush=True)
            return
        time.sleep(0.5)
    raise StepFailed(f"the active engine is not back yet. Look with: make status STACK={host.stack}")


def waits(both: Pair, took: float, doing: str, *, at_most: bool = False) -> None:
    """Says how long requests wait while the standby is borrowed for `took` seconds of `doing`.

    Raises StepFailed where that is longer than the proxy lets them.
    """
    there, back = (plan.cutover.waits[plan.active.kind].expected for plan in (both.other, both.ours))
    expected, budget = there + took + back, both.settings.hold_budget
    if both.other.cutover.mode == "overlap":
        print("The standby runs beside the active engine meanwhile: no request waits.")
        return
    about = "at most about" if at_most else "about"
    print(
        f"The standby takes the place of the active engine meanwhile: requests wait for {about} "
        f"{expected:.0f} s ({there:.0f} s until it is ready, {took:.0f} s of {doing}, {back:.0f} s back).",
        flush=True,
    )
    if expected > budget:
        raise StepFailed(
            f"the proxy lets them wait only {budget} s (holdBudgetSeconds), so this was not started. Run: "
            f"pulumi config set holdBudgetSeconds {2 * expected:.0f} && pulumi up"
        )


def brought_back_on_sigterm() -> None:
    """SIGTERM as Ctrl-C, so that the active engine is brought back at once and not by the lease."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted; the active engine was brought back"))
