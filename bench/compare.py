"""The same change of the engine by the ways that people use today, under the same load as in `bench.flip`.

Run: `python -m bench.compare -n 1`. It needs `docker-compose`, and deploys a stack whose weights all ways
use.

- `docker stop, docker run`: one engine on the endpoint's port, stopped and replaced by hand
- `docker-compose up -d`: gateway and engine in a compose file whose engine is changed
- `start beside, restart the gateway`: the new engine is started beside the old one and waited for, then the
  gateway's config is edited, `docker-compose restart`
- `pulumi up`: Changeover, as deployed

Engines, images, weights, options and load are the same in each. The table counts what clients lost, and has
the longest time between two answers, in seconds.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import yaml

from bench.flip import PAUSE
from bench.flips import COLUMNS, FlipRecord, record, summary
from bench.stack import deployed, machine, table
from common import main_guard
from components import naming, pins, tensorzero
from components.catalogue import MODELS
from components.engines import PORT, WEIGHTS_MOUNT, EngineSpec, build
from components.gpu_memory import KINDS, EngineKind, Load, both
from components.labels import Labels
from stacks.settings import PROJECT
from tests.support import load as traffic
from tests.support.project import Project, docker, free_port

CONTEXT, PARALLEL = 1024, 4
"""Of both engines, in every way: tokens, and concurrent requests."""
READY_SECONDS = 300
"""Within which an engine must answer after it was started."""


class WayToChange(Protocol):
    """One way to change the engine. `endpoint` is a base URL of the OpenAI API, `model` the name for it
    there."""

    endpoint: str
    model: str

    def change(self, engine: EngineKind) -> None:
        """Does what a person would do, and returns when it believes that it is done."""


class Updated:
    """The way of this project: a setting is changed, and then `pulumi up` is run."""

    def __init__(self, project: Project) -> None:
        self.project, outputs = project, project.outputs()
        self.endpoint, self.model = outputs["endpoint"], outputs["model"]

    def change(self, engine: EngineKind) -> None:
        """Changes the setting `engine`, and updates the stack."""
        self.project.configure(engine=engine)
        self.project.up()


class Composed:
    """A gateway and engines in a compose file in `folder`. They serve the weights of the stack `stack`."""

    def __init__(self, folder: Path, stack: str) -> None:
        self.folder, self.stack = folder, stack
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}/openai/v1"
        self.model = tensorzero.qualified("tiny")

    def write(self, services: dict[str, Any], routing: str) -> None:
        """Writes the compose file with these services, and the gateway's config, which leads to the service
        `routing`."""
        gateway = {
            "image": pins.GATEWAY.offline,
            "command": ["--config-file", "/config/tensorzero.toml"],
            "volumes": [f"{self.folder}/tensorzero.toml:/config/tensorzero.toml:ro"],
            "ports": [f"127.0.0.1:{self.port}:{tensorzero.PORT}"],
            "restart": "unless-stopped",
        }
        volumes = {each: {"external": {"name": self.volume(each)}} for each in KINDS}
        content = {"version": "2.4", "services": {"tensorzero": gateway, **services}, "volumes": volumes}
        (self.folder / "docker-compose.yaml").write_text(yaml.safe_dump(content))
        provider = tensorzero.Provider(
            kind="vllm", api_base=f"http://{routing}:{PORT}/v1/", model_name="tiny"
        )
        timeouts = tensorzero.Timeouts(total=600, first_token=300, stream=600)
        model = tensorzero.ChatModel(name="tiny", providers=(provider,), timeouts=timeouts)
        config = tensorzero.render(tensorzero.GatewayConfig(models=(model,)))
        (self.folder / "tensorzero.toml").write_text(config)

    def volume(self, engine: str) -> str:
        """The name of the volume that has an engine's weights."""
        return Labels(project=PROJECT, stack=self.stack).name(naming.child(engine, "weights"))

    def service(self, engine: EngineKind) -> dict[str, Any]:
        """An engine as a service of the compose file, with what its container has in a stack."""
        spec = _spec(engine)
        return {
            "image": spec.image.offline,
            "entrypoint": list(spec.entrypoint),
            "command": list(spec.command),
            "environment": dict(spec.environment),
            "volumes": [f"{engine}:{WEIGHTS_MOUNT}"],
            "shm_size": f"{spec.shm_mib}m",
            "restart": "unless-stopped",
        }

    def compose(self, *words: str) -> None:
        """Runs a command of docker-compose. Raises SystemExit if it fails."""
        _run("docker-compose", "--no-ansi", "-p", "bench-compare", *words, cwd=self.folder)

    def down(self) -> None:
        """Removes the containers of the compose file."""
        self.compose("down", "--timeout", "5", "--remove-orphans")


class UpAgain(Composed):
    """The compose file has one service `engine`, and what that is gets edited."""

    def change(self, engine: EngineKind) -> None:
        """Edits the service, and has docker-compose replace its container."""
        self.write({"engine": self.service(engine)}, "engine")
        self.compose("up", "-d")


class Beside(Composed):
    """Both engines run at the same time for a while."""

    def change(self, engine: EngineKind) -> None:
        """Starts the new engine and waits for it, restarts the gateway with a config that leads to it, and
        stops the old engine."""
        before = [other for other in KINDS if self._runs(other)]
        self.write({kind: self.service(kind) for kind in KINDS}, before[0] if before else engine)
        self.compose("up", "-d", engine)
        _wait(lambda: self._loaded(engine))
        self.write({kind: self.service(kind) for kind in KINDS}, engine)
        self.compose(*(("restart", "tensorzero") if before else ("up", "-d", "tensorzero")))
        for other in before:
            self.compose("stop", other)

    def _runs(self, engine: str) -> bool:
        return bool(docker("ps", "-q", "--filter", f"name=^bench-compare_{engine}_1$").strip())

    def _loaded(self, engine: str) -> bool:
        """Whether an engine answers `/v1/models`, by which a person would see that it is ready."""
        address = docker(
            *("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"),
            f"bench-compare_{engine}_1",
        ).strip()
        return _answers(f"http://{address}:{PORT}/v1/models")


class ByHand(Composed):
    """One engine in a container, whose port is the endpoint's; there is no gateway."""

    NAME = "bench-compare-engine"

    def __init__(self, folder: Path, stack: str) -> None:
        super().__init__(folder, stack)
        self.endpoint, self.model = f"http://127.0.0.1:{self.port}/v1", "tiny"

    def change(self, engine: EngineKind) -> None:
        """Stops and removes the old engine's container, and runs the new one's."""
        self.down()
        spec = _spec(engine)
        docker(
            *("run", "-d", "--name", self.NAME, "-p", f"127.0.0.1:{self.port}:{PORT}"),
            *(word for key, value in spec.environment.items() for word in ("-e", f"{key}={value}")),
            *("-v", f"{self.volume(engine)}:{WEIGHTS_MOUNT}", "--shm-size", f"{spec.shm_mib}m"),
            *("--entrypoint", spec.entrypoint[0], spec.image.offline, *spec.entrypoint[1:], *spec.command),
        )

    def down(self) -> None:
        """Stops and removes the engine's container, if there is one."""
        if docker("ps", "-aq", "--filter", f"name=^{self.NAME}$").strip():
            docker("stop", self.NAME)
            docker("rm", self.NAME)


def _spec(engine: EngineKind) -> EngineSpec:
    return build(engine, Load(model=MODELS["tiny"], context=CONTEXT, parallel=both(PARALLEL), gpu=None))


def _run(*words: str, cwd: Path) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def _answers(url: str, body: object = None) -> bool:
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, raw, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(json.load(answer))
    except (OSError, ValueError):
        return False


def _wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + READY_SECONDS
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"not ready after {READY_SECONDS} s")
        time.sleep(0.2)


def served(way: WayToChange) -> None:
    """Waits until the endpoint of a way gives a completion. Raises SystemExit after `READY_SECONDS`."""
    ask = {"model": way.model, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 1}
    _wait(lambda: _answers(f"{way.endpoint}/chat/completions", ask))


def flip(
    name: str, way: WayToChange, engine: EngineKind, load: traffic.LoadGenerator, first: int
) -> FlipRecord:
    """One change to `engine` by a way, which the table calls `name`.

    The record has the requests before, in and after it: those of the load from number `first` on.
    """
    load.wait_for_answers(4 * load.clients)
    began = time.monotonic()
    way.change(engine)
    served(way)
    ended = time.monotonic()
    load.wait_for_answers(4 * load.clients)
    return record(
        name, engine, load.outcomes[first:], texts=load.outcomes, began=began, ended=ended, marks=[]
    )


def ways(project: Project) -> Iterator[tuple[str, WayToChange]]:
    """Each way with its name. At its turn it already serves Ollama, and afterwards it is taken down."""
    yield "`pulumi up`", Updated(project)
    kinds: dict[str, type[ByHand | UpAgain | Beside]] = {
        "`docker stop`, `docker run`": ByHand,
        "`docker-compose up -d`": UpAgain,
        "start beside, restart the gateway": Beside,
    }
    for name, kind in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            way = kind(Path(folder), project.stack)
            try:
                way.change("ollama")
                served(way)
                yield name, way
            finally:
                way.down()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=3, help="changes there and back each way (default: 3)")
    parser.add_argument("--clients", type=int, default=4, help="clients of the load (default: 4)")
    parser.add_argument("--json", type=Path, default=Path("compare.jsonl"), help="(default: compare.jsonl)")
    options = parser.parse_args()
    if shutil.which("docker-compose") is None:
        parser.error("there is no docker-compose. On Debian: apt-get install docker-compose")
    flips: list[FlipRecord] = []
    with deployed("bench-compare", context=CONTEXT, parallel=PARALLEL) as project:
        for name, way in ways(project):
            with traffic.LoadGenerator(
                way.endpoint, way.model, clients=options.clients, pause=PAUSE["real"]
            ) as load:
                taken = 0
                for _ in range(options.n):
                    for engine in ("vllm", "ollama"):
                        flips.append(flip(name, way, engine, load, taken))
                        taken += len(flips[-1]["requests"])
                        lost = sum(each[3] is not None for each in flips[-1]["requests"])
                        print(
                            f"{name}: to {engine} in {flips[-1]['length']:.1f} s, {lost} lost",
                            file=sys.stderr,
                            flush=True,
                        )
    options.json.write_text("".join(json.dumps(each) + "\n" for each in flips))
    print(f"{options.n} changes to vLLM and back each way, {options.clients} clients, {machine()}; seconds\n")
    print(show(flips))


def show(flips: list[FlipRecord]) -> str:
    """The table over all of these changes, with one row for each way."""
    shown = ("way", "flips", "sent", "failed", "cut", "longest gap")
    rows = []
    for name in dict.fromkeys(each["way"] for each in flips):
        row = summary(name, [each for each in flips if each["way"] == name])
        rows.append([row[COLUMNS.index(column)] for column in shown])
    return table(shown, rows)


if __name__ == "__main__":
    main_guard(main)
