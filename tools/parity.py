"""`make parity`: both engines of a stack get the same probes, one after the other, and what differs is shown.

The one that serves gets them through the endpoint as well, as its users ask, with an API key of the stack's
configuration where one is needed.

The standby is probed inside a change that is never committed: if this ends early, however it ends, the switch
brings the active engine back when the lease runs out.
"""

import argparse
import contextlib
import http.client
import json
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.engines import PORT, EngineSpec
from components.labels import Labels
from offline.steps import StepFailed, main_guard
from parity import table as tables
from parity.probes import Reply, Subject, chosen, run
from stacks.blueprint import Blueprint, blueprint
from stacks.settings import PROJECT, SettingsError, from_files
from switch.daemon import UNAVAILABLE
from switch.exchange import Request, answer
from tools.ask import yes
from tools.environment import pulumi
from tools.owner import look

ROOT = Path(__file__).parent.parent
FOLLOW_SECONDS = 5
"""Well below the switch's lease, of which each `follow` asks for more."""
REQUEST_SECONDS = 120
TAKEN_BACK = (
    "the switch took the change back while the standby was probed, so there is no table; why is above, or in "
    "`make status`. Type the same again"
)


def docker(*words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise StepFailed(f"docker {words[0]}: {(done.stderr or done.stdout).strip()}")
    return done


class Host:
    """A stack's containers on the Docker host, and its switch."""

    def __init__(self, stack: str) -> None:
        self.stack, self.labels = stack, Labels(project=PROJECT, stack=stack)
        found = self._containers("switch", "--filter", "status=running")
        if len(found) != 1:
            raise StepFailed(f"no switch of stack `{stack}` runs here. Deploy it: make up STACK={stack}")
        self.switch_name = found[0]

    def _containers(self, role: str, *more: str) -> list[str]:
        labels = [f"--filter=label={key}={value}" for key, value in self.labels.of(role).items()]
        return docker("ps", "--all", *labels, *more, "--format", "{{.Names}}").stdout.split()

    def engine(self, spec: EngineSpec) -> str:
        """The name of the container of an engine that the settings give."""
        prefix = f"{self.labels.name(spec.name)}-"
        found = [name for name in self._containers("engine") if name.startswith(prefix)]
        if len(found) != 1:
            raise StepFailed(f"the settings give {spec.name}, and it is not on this host. Type: pulumi up")
        return found[0]

    def switch(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        options = ["-i"] if stdin is not None else []
        command = ["exec", *options, self.switch_name, "python3", "-m", "switch", *words]
        return docker(*command, stdin=stdin, check=False)

    def status(self) -> dict[str, Any]:
        done = self.switch("status", "--json")
        if done.returncode != 0:
            raise StepFailed(f"the switch does not answer: {(done.stderr or done.stdout).strip()}")
        return dict(json.loads(done.stdout))

    def follow(self, container: str) -> int:
        """Prints what is new; 75 under way, 0 ready, 1 failed, UNAVAILABLE for a switch that stands still."""
        done = self.switch("follow", "--engine", container)
        for line in done.stdout.splitlines():
            print(f"  {line}", flush=True)
        return done.returncode


def probe(send: Callable[[str, str], Reply], subject: Subject, able: bool, asked: str) -> dict[str, str]:
    """What whoever answers does, by probe. Raises StepFailed where `asked` answers nothing at all."""
    found: dict[str, str] = {}
    for each in chosen(able):
        found[each.name] = run(each, subject, send)
        print(f"  {each.name}: {found[each.name]}", flush=True)
    if all(said.startswith("no answer") for said in found.values()):
        raise StepFailed(f"{asked} answered nothing")
    return found


@contextlib.contextmanager
def itself(
    host: Host, container: str, lost: threading.Event | None = None
) -> Iterator[Callable[[str, str], Reply]]:
    """Asks an engine from inside its network. Raises StepFailed, also once `lost` says that it was taken
    away."""
    command = ["docker", "exec", "-i", host.switch_name, "python3", "-m", "switch", "exchange"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        into, out = process.stdin, process.stdout

        def send(path: str, body: str) -> Reply:
            if lost and lost.is_set():
                raise StepFailed(TAKEN_BACK)
            request = {"container": container, "port": PORT, "path": path, "body": body}
            into.write(json.dumps({**request, "timeout": REQUEST_SECONDS}) + "\n")
            into.flush()
            line = out.readline()
            if not line:
                raise StepFailed("the switch ended the exchange")
            return dict(json.loads(line))

        yield send
        into.close()


def endpoint(stack: str, root: Path) -> Callable[[str, str], Reply]:
    """Asks the endpoint, as a client of it does. The API key goes nowhere but there."""
    outputs = json.loads(pulumi("stack", "output", "--json", "--stack", stack, capture=True, cwd=root))
    config = json.loads(
        pulumi("config", "--json", "--show-secrets", "--stack", stack, capture=True, cwd=root)
    )
    keys = config.get(f"{PROJECT}:apiKeys", {}).get("objectValue", {})
    headers = {"Authorization": f"Bearer {next(iter(keys.values()))}"} if keys else {}
    url = urlsplit(str(outputs["endpoint"]))
    name, root_path = url.hostname or "", url.path.removesuffix("/v1")
    context = ssl.create_default_context(cadata=outputs.get("ca"))

    def send(path: str, body: str) -> Reply:
        connection = (
            http.client.HTTPSConnection(name, url.port, timeout=REQUEST_SECONDS, context=context)
            if url.scheme == "https"
            else http.client.HTTPConnection(name, url.port, timeout=REQUEST_SECONDS)
        )
        asked = Request(name, url.port or 0, root_path + path, body, timeout=REQUEST_SECONDS)
        return answer(connection, asked, headers)

    return send


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


def probe_standby(host: Host, other: Blueprint, subject: Subject) -> dict[str, str]:
    """Prepares the standby, probes it, and has the switch bring the active engine back, whatever happens."""
    container = host.engine(other.active)
    asked = host.switch("prepare", stdin=other.plan().render(engine=container))
    if asked.returncode != 0:
        raise StepFailed(f"the switch did not take it: {asked.stdout.strip()}")
    try:
        while (code := host.follow(container)) in (75, UNAVAILABLE):
            pass
        if code != 0:
            raise StepFailed("the standby did not get ready; what the switch says of it is above")
        print(f"{other.active.name} is ready; probing it", flush=True)
        with leased(host, container) as lost, itself(host, container, lost) as send:
            found = probe(send, subject, other.settings.model.able, container)
        if host.follow(container) != 0:
            raise StepFailed(TAKEN_BACK)
        return found
    finally:
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
    raise StepFailed(f"the active engine is not back yet; look with: make status STACK={host.stack}")


def agree(ours: Blueprint, other: Blueprint, took: float) -> None:
    """Says what it costs and asks once. `took` is how long the probes took, in seconds.

    Raises StepFailed without a yes, and where requests would wait longer than the proxy lets them.
    """
    there, back = (plan.cutover.waits[plan.active.kind].expected for plan in (other, ours))
    expected, budget = there + took + back, ours.settings.hold_budget
    if other.cutover.mode == "overlap":
        print("The standby runs beside the active engine while it is probed: nobody waits.")
    else:
        print(
            f"The standby takes the place of the active engine while it is probed: requests wait for about "
            f"{expected:.0f} s ({there:.0f} s until it is ready, {took:.0f} s of probing, {back:.0f} s back)."
        )
        if expected > budget:
            raise StepFailed(
                f"the proxy lets them wait {budget} s (holdBudgetSeconds), so this was not begun. "
                f"Type: pulumi config set holdBudgetSeconds {2 * expected:.0f} && pulumi up"
            )
    no = "not done, nothing was changed. Without being asked: YES=1 make parity"
    if not yes("Go on?", no):
        raise StepFailed(no)


def parity(stack: str, root: Path) -> dict[str, Any]:
    """Probes both engines, writes `stacks/<stack>/parity.json` and `parity.md`, returns the table."""
    try:
        settings = from_files(stack, root)
    except SettingsError as error:
        raise StepFailed(str(error)) from None
    if settings.model.embeds:
        raise StepFailed(
            f"{settings.model.name} gives embeddings and answers no chat, and the probes are chats: there is "
            "nothing to compare. Nothing was done"
        )
    look(stack)
    if not settings.standby:
        raise StepFailed("there is no standby to compare with: pulumi config set standby true && pulumi up")
    ours = blueprint(settings)
    other = blueprint(replace(settings, engine=settings.kinds[1]))
    host = Host(stack)
    status, active = host.status(), host.engine(ours.active)
    host.engine(other.active)
    if status["under_way"] or not status["gated"] or status["live"] != active:
        raise StepFailed(f"{active} does not serve, or a change is under way. Look with: make status")
    subject = Subject(model=settings.name, context=settings.context)
    able = settings.model.able
    print(f"{ours.active.name} serves; probing it through the endpoint", flush=True)
    through: dict[str, dict[str, str]] = {
        settings.engine: probe(endpoint(stack, root), subject, able, "the endpoint")
    }
    print("probing it itself", flush=True)
    began = time.monotonic()
    with itself(host, active) as send:
        found: dict[str, dict[str, str]] = {settings.engine: probe(send, subject, able, active)}
    agree(ours, other, time.monotonic() - began)
    found[other.settings.engine] = probe_standby(host, other, subject)
    engines: dict[str, dict[str, str]] = {
        spec.kind: {
            "name": spec.name,
            "version": f"{spec.image.name} {spec.image.version}",
            "kv_cache": spec.kv_cache,
        }
        for spec in ours.specs
    }
    content = tables.table(settings.model.name, engines, found, through)
    folder = root / "stacks" / stack
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parity.json").write_text(json.dumps(content, indent=2) + "\n")
    text = tables.markdown(content, settings.accepted_differences)
    (folder / "parity.md").write_text(text)
    print(f"\n{text}\nwritten to stacks/{stack}/parity.json and parity.md")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args()
    # SIGTERM as Ctrl-C, so that the active engine is brought back at once and not by the lease
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; the active engine was brought back"))
    parity(options.stack, options.root)


if __name__ == "__main__":
    main_guard(main)
