"""Whole ways of a request on Docker networks of their own, and the client that measures them.

Nothing to run by itself: `bench.overhead`, `bench.held`, `bench.streams` and others use it.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.stack import machine
from common import ROOT
from components import caddyfile, engines, pins, tensorzero
from tests.support.containers import put_files
from tests.support.project import docker
from tests.support.way import Way, cpu_seconds, eventually, wheels

ENGINE = ROOT / "tests/support/instant_engine.py"
ALONE, WITH, NONE, BEFORE = "engine alone", "gateway: tensorzero", "gateway: none", "as it was"
"""What the tables call each way."""
PARTS = ("edge", "proxy", "gateway")
"""The parts of a way, in the order in which a request meets them."""
EDGE_PORT = 8080
"""The TCP port at which an edge is asked on its network."""

RENDER = """
import json, sys
from components import caddyfile, tensorzero
engine, name, max_body = sys.argv[1:]
provider = tensorzero.Provider(kind="vllm", api_base=f"http://{engine}:8000/v1/", model_name=name)
limits = tensorzero.Timeouts(total=600, first_token=300, stream=600)
model = tensorzero.Model(name=name, providers=(provider,), timeouts=limits)
edge = caddyfile.EdgeConfig(listen=":8080", models=(name,), hold_seconds=60, max_body_bytes=int(max_body))
print(json.dumps({
    "gateway": tensorzero.render(tensorzero.GatewayConfig(models=(model,))),
    "edge": caddyfile.render(edge),
    "open": f"{caddyfile.KEYS_FOLDER}/{caddyfile.OPEN}",
}))
"""
"""The program that renders the configuration of gateway and edge. It runs with the modules of the commit that
had no proxy, and so calls them by the names that they have there."""


class WayBefore(Way):
    """The way as it was at a commit that had no proxy: edge, gateway, engine, with today's images."""

    commit = "0fb29bc"

    def start(self) -> None:
        """Starts gateway and edge, and waits until both answer."""
        texts = self._rendered()
        for name, image, command, files in (
            ("gateway", pins.GATEWAY, list(tensorzero.COMMAND), {tensorzero.CONFIG_FILE: texts["gateway"]}),
            (
                "edge",
                pins.EDGE,
                ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"],
                {"/etc/caddy/Caddyfile": texts["edge"], texts["open"]: ""},
            ),
        ):
            self._create(name, image.offline, "--network-alias", name, command=command)
            put_files(self.container(name), files)
            docker("start", self.container(name))
        for name, url in (
            ("gateway", tensorzero.STATUS_URL),
            ("edge", f"http://127.0.0.1:{EDGE_PORT}{caddyfile.HEALTH_PATH}"),
        ):
            ask = partial(self._runs, name, "wget", "-q", "-O", "/dev/null", url)
            eventually(ask, 60, f"the {name} answers")

    def _rendered(self) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            packed = subprocess.run(
                ["git", "archive", self.commit, "components"], cwd=ROOT, capture_output=True, check=True
            ).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder, filter="data")
            words = (self.specs[self.engine].name, self.name, str(self.max_body))
            done = subprocess.run(
                [sys.executable, "-c", RENDER, *words],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                check=True,
            )
        return dict(json.loads(done.stdout))


@contextlib.contextmanager
def started(*names: str, commit: str = "", at_a_time: int = 64, **engine: object) -> Iterator[dict[str, Way]]:
    """The ways of these names, started, until the block ends.

    Each has an instant engine of its own, which works on `at_a_time` requests at once and has `engine` in its
    environment. `commit` is that of the way as it was.
    """
    with contextlib.ExitStack() as stack:
        ways: dict[str, Way] = {}
        for name in names:
            kind = WayBefore if name == BEFORE else Way
            way = stack.enter_context(kind(gateway=name == WITH, at_a_time=at_a_time, hold_seconds=600))
            if isinstance(way, WayBefore):
                way.commit = commit
            environment = {f"ENGINE_{key.upper()}": str(value) for key, value in engine.items()}
            way.start_engine("vllm", ENGINE, **environment)
            way.start()
            ways[name] = way
            say(f"{name}: started")
        yield ways


def place(ways: dict[str, Way], name: str) -> tuple[str, int]:
    """Host and port at which the way `name` is asked from its network. `ALONE` is the engine of the first
    way."""
    if name == ALONE:
        return next(iter(ways.values())).container("vllm"), engines.PORT
    return ways[name].container("edge"), EDGE_PORT


class Client:
    """A container on these Docker networks, in which functions of `bench.client` run."""

    def __init__(self, *networks: str) -> None:
        first, *others = networks
        self.name = f"{first}-client"
        docker(
            *("create", "--network", first, "--name", self.name),
            *("-v", f"{wheels()}:/wheels:ro", "-v", f"{ROOT / 'bench'}:/bench:ro"),
            *("-v", f"{ROOT / 'measure'}:/measure:ro"),
            *("-e", "PYTHONPATH=/:/wheels", "-e", "PYTHONDONTWRITEBYTECODE=1"),
            *(pins.SWITCH.offline, "sleep", "infinity"),
        )
        try:
            for network in others:
                docker("network", "connect", network, self.name)
            docker("start", self.name)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "-f", self.name)

    def begin(self, what: str, **plan: Any) -> subprocess.Popen[str]:
        """Begins the function `what` of `bench.client` with this plan, in a process of its own."""
        process = subprocess.Popen(
            ["docker", "exec", "-i", self.name, "python3", "-m", "bench.client", what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
        return process

    def end(self, process: subprocess.Popen[str]) -> Any:
        """The result of a function that was begun; one that goes on until it is told to end is told so.

        Raises SystemExit if it failed.
        """
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the client failed with status {process.returncode}")
        return json.loads(out)

    def do(self, what: str, **plan: Any) -> Any:
        """The result of a function of `bench.client`. Raises SystemExit if it failed."""
        return self.end(self.begin(what, **plan))


def cpu(way: Way) -> dict[str, float]:
    """How many seconds of CPU each part of a way has used so far; 0 for a part that it does not have."""
    there = docker("ps", "--filter", f"label=test={way.run}", "--format", "{{.Names}}").split()
    names = {part: [name for name in there if name.startswith(way.container(part))] for part in PARTS}
    return {part: sum(map(cpu_seconds, containers)) for part, containers in names.items()}


def memory(container: str) -> float:
    """The memory of a container in MiB, as Docker counts it against its limit."""
    said = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).split()[0]
    for unit, factor in (("GiB", 1024.0), ("MiB", 1.0), ("KiB", 1 / 1024), ("B", 1 / 2**20)):
        if said.endswith(unit):
            return float(said.removesuffix(unit)) * factor
    raise ValueError(said)


def where() -> str:
    """The size of this machine and its load average, in words, for a table's heading."""
    return f"{machine()}, load average {os.getloadavg()[0]:.1f} at the start"


def say(line: str) -> None:
    """Prints a line of progress, which is no part of the result, to stderr."""
    print(line, file=sys.stderr, flush=True)
