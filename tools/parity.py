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
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import ROOT, StepFailed, main_guard, write_whole
from components.engines import PORT
from parity import table as tables
from parity.probes import Reply, Subject, chosen, is_no_answer, run
from stacks.blueprint import Blueprint
from stacks.settings import PROJECT, RENDERED
from switch.exchange import Request, answer
from tools.ask import agree
from tools.environment import pulumi
from tools.standby import TAKEN_BACK, Host, brought_back_on_sigterm, pair, standby, waits

REQUEST_SECONDS = 120


def probe(send: Callable[[str, str], Reply], subject: Subject, able: bool, asked: str) -> dict[str, str]:
    """What an engine or the endpoint does, by probe. Raises StepFailed where `asked` gives no answer at
    all."""
    found: dict[str, str] = {}
    for each in chosen(able):
        found[each.name] = run(each, subject, send)
        print(f"  {each.name}: {found[each.name]}", flush=True)
    if all(map(is_no_answer, found.values())):
        raise StepFailed(f"{asked} gave no answer")
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


def probe_standby(host: Host, other: Blueprint, subject: Subject) -> dict[str, str]:
    """Probes the standby while it has the place of the active engine."""
    with (
        standby(host, other, "probing it") as (container, lost),
        itself(host, container, lost) as send,
    ):
        return probe(send, subject, other.settings.model.able, container)


def parity(stack: str, root: Path) -> dict[str, Any]:
    """Probes both engines, writes `rendered/<stack>/parity.json` and `parity.md`, returns the table."""
    both = pair(stack, root)
    settings, ours, other = both.settings, both.ours, both.other
    subject = Subject(model=settings.name, context=settings.context)
    able = settings.model.able
    print(f"{ours.active.name} serves; probing it through the endpoint", flush=True)
    through: dict[str, dict[str, str]] = {
        settings.engine: probe(endpoint(stack, root), subject, able, "the endpoint")
    }
    print("probing it itself", flush=True)
    began = time.monotonic()
    with itself(both.host, both.active) as send:
        found: dict[str, dict[str, str]] = {settings.engine: probe(send, subject, able, both.active)}
    waits(both, time.monotonic() - began, "probing")
    agree("Go on?", "parity", stack)
    found[other.settings.engine] = probe_standby(both.host, other, subject)
    engines: dict[str, dict[str, str]] = {
        spec.kind: {
            "name": spec.name,
            "version": f"{spec.image.name} {spec.image.version}",
            "kv_cache": spec.kv_cache,
        }
        for spec in ours.specs
    }
    content = tables.table(settings.model.name, engines, found, through)
    folder = root / RENDERED / stack
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "parity.json", json.dumps(content, indent=2) + "\n")
    text = tables.markdown(content, settings.accepted_differences)
    write_whole(folder / "parity.md", text)
    print(f"\n{text}\nwritten to rendered/{stack}/parity.json and parity.md")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args()
    brought_back_on_sigterm()
    parity(options.stack, options.root)


if __name__ == "__main__":
    main_guard(main)
