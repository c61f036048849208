"""The whole way of a request on a Docker network of its own: edge, proxies, gateway, and engines of the test.

Everything is the real program, set as the product sets it, but for the engines and for the switch: the test
itself says which engine serves, by the file that the switch would write.
"""

import compileall
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, cache_root
from components import caddyfile, catalogue, engines, pins, proxy, routing, tensorzero
from components.containers import NOBODY
from components.gpu_memory import EDGE_FILES, EDGE_RAM, PROXY_RAM, EngineKind, Load, both
from offline.steps import cached, key_of
from proxy.live import LOOK_SECONDS
from proxy.route import Limits
from switch.shared import PROXY_PORT
from tests.support.containers import put_files, remove_labelled, unpack
from tests.support.project import docker, free_port, pid_of

MODEL = "tiny"
CONTEXT = 1024
"""Of both engines, in tokens."""
MAX_BODY = 16 * 2**20
HOLD_SECONDS = 30
DOMAIN = "edge.test"


def eventually(true: Callable[[], object], seconds: float = 30, otherwise: str = "it did not happen") -> None:
    """Waits until `true` gives something that is. What can't be reached yet is not."""
    limit = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            if true():
                return
        looked = time.monotonic()
        assert looked < limit, f"not within {seconds:g} s: {otherwise}"
        time.sleep(min(max(0.02, looked - began), 0.3))  # a look may start a process, and takes from the rest


def any_certificate() -> ssl.SSLContext:
    """For a client that takes the edge's certificate whoever has signed it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def wheels() -> Path:
    """What the proxy is made of, for this machine's Docker engine, unpacked in a folder."""
    lock = ROOT / "proxy/requirements.lock"
    machine = docker("version", "--format", "{{.Server.Arch}}").strip()
    platform = {"amd64": "x86_64", "arm64": "aarch64"}[machine]

    def make(folder: Path, _: Path) -> None:
        command = [
            *(str(ROOT / ".venv/bin/uv"), "pip", "install", "--quiet", "--target", str(folder)),
            *("--python-version", proxy.PYTHON, "--python-platform", f"{platform}-manylinux_2_28"),
            *("--only-binary", ":all:", "--require-hashes", "--no-deps", "--requirements", str(lock)),
        ]
        subprocess.run(command, check=True)
        compileall.compile_dir(folder, quiet=2)  # as in a deployment: a proxy that starts can't keep it

    return cached("test-wheels", key_of(lock.read_bytes(), platform), make)


@dataclass
class Way:
    """`gateway`: whether TensorZero decides, or there is none. `at_a_time`: how many an engine works on.
    `name`: what clients ask for, and `model` what it is in the catalogue. `origins`: the sites whose pages
    may use it, from the next `route` on.

    `source` is where the proxy's code is taken from. Used as a context manager; `url` is the endpoint's root.
    """

    gateway: bool = True
    at_a_time: int = 64
    tls: bool = False
    hold_seconds: int = HOLD_SECONDS
    first_token_seconds: int = 60
    answer_seconds: int = 120
    max_body: int = MAX_BODY
    kinds: tuple[EngineKind, ...] = ("vllm", "ollama")
    name: str = MODEL
    model: str = "tiny"
    origins: tuple[str, ...] = ()
    source: Path = ROOT / "proxy"
    run: str = field(default_factory=lambda: f"way-{uuid.uuid4().hex[:8]}")
    number: int = 0
    proxies: int = 0
    gateways: int = 0

    def __enter__(self) -> "Way":
        self.folder = Path(tempfile.mkdtemp(prefix="way-"))
        self.folder.chmod(0o755)
        self.live = self.folder / "live"
        self.live.mkdir(mode=0o755)
        model = catalogue.MODELS[self.model]
        load = Load(model=model, context=CONTEXT, parallel=both(4), gpu=None)
        self.specs = {kind: engines.build(kind, load, name=self.name) for kind in self.kinds}
        self.engine: EngineKind = self.kinds[0]
        self.port, self.ports = free_port(), dict[str, int]()
        try:
            docker("network", "create", "--label", f"test={self.run}", self.run)
            self.keys()
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        remove_labelled(f"test={self.run}")
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    # what the switch says

    def routing(self, first: EngineKind, *, gateway: bool) -> str:
        kinds = (first, *(kind for kind in self.kinds if kind != first))
        text = routing.render(
            routing.Routing(
                name=self.name,
                engines=tuple(self.specs[kind] for kind in kinds),
                gateway=routing.RoutingGateway(kind="tensorzero", port=tensorzero.PORT) if gateway else None,
                limits=Limits(
                    hold_seconds=self.hold_seconds,
                    first_token_seconds=self.first_token_seconds,
                    answer_seconds=self.answer_seconds,
                    request_bytes=self.max_body,
                ),
                origins=self.origins,
            )
        )
        for spec in self.specs.values():
            text = text.replace(f"at_a_time = {spec.at_a_time}", f"at_a_time = {self.at_a_time}")
        return text

    def route(self, engine: EngineKind | None = None, *, held: bool = False, **changed: Any) -> None:
        """Says which engine serves, or that requests are held, and waits for the proxies' next look."""
        self.engine = engine or self.engine
        self.number += 1
        said = {
            "number": self.number,
            "held_since": time.time() if held else None,
            "engine": self.specs[self.engine].name,
            "container": self.container(self.engine),
            "gateway": self.container(f"gateway-{self.gateways}") if self.gateway else None,
            "also": [],
            "routing": self.routing(self.engine, gateway=self.gateway),
            **changed,
        }
        self._write("route.json", said)
        time.sleep(5 * LOOK_SECONDS)

    def keys(self, **keys: str) -> None:
        """Tenant → API key; without any the endpoint is open."""
        digests = {hashlib.sha256(key.encode()).hexdigest(): tenant for tenant, key in keys.items()}
        self._write("keys.json", {"open": not keys, "keys": digests})
        time.sleep(5 * LOOK_SECONDS)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        new = self.live / f"{name}.new"
        new.write_text(json.dumps(content))
        new.chmod(0o644)
        new.replace(self.live / name)

    # containers

    def container(self, name: str) -> str:
        return f"{self.run}-{name}"

    def start(self) -> None:
        """Everything but engines, which must be there."""
        self.start_gateway()
        self.route()
        self.start_proxy()
        self.start_edge()

    def start_engine(self, kind: EngineKind, program: Path, *words: str, **environment: str) -> None:
        """A test's engine, which is a Python program."""
        environment = {"FAST_NAMES": self.specs[kind].served, **environment}
        variables = [word for key, value in environment.items() for word in ("-e", f"{key}={value}")]
        port = self.ports[kind] = free_port()
        self._create(
            kind,
            pins.SWITCH.offline,
            *("--network-alias", self.specs[kind].name, "-p", f"127.0.0.1:{port}:{engines.PORT}", *variables),
            command=["python3", "-u", "/engine.py", *words],
        )
        put_files(self.container(kind), {"/engine.py": program.read_text()})
        docker("start", self.container(kind))

    def start_real_engine(self, kind: EngineKind) -> None:
        """The engine itself, from its offline image and as the product declares it, with the model."""
        spec = self.specs[kind]
        volume = self.container(f"{kind}-weights")
        docker("volume", "create", "--label", f"test={self.run}", volume)
        weights = ("-v", f"{volume}:{engines.WEIGHTS_MOUNT}")
        source = cache_root() / "models" / str(spec.weights.upload)
        loader = f"{kind}-loader"
        self._create(
            loader,
            spec.image.offline,
            *weights,
            "--entrypoint",
            "/bin/sh",
            command=["-c", spec.weights.script],
        )
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
            archive.add(source, f"{spec.weights.folder}/source")
        unpack(self.container(loader), engines.WEIGHTS_MOUNT, packed)
        docker("start", "--attach", self.container(loader))

        port = self.ports[kind] = free_port()
        variables = [word for pair in spec.environment.items() for word in ("-e", "=".join(pair))]
        self._create(
            kind,
            spec.image.offline,
            *("--network-alias", spec.name, "-p", f"127.0.0.1:{port}:{engines.PORT}", *variables, *weights),
            *("--shm-size", f"{spec.shm_mib}m", "--entrypoint", spec.entrypoint[0]),
            command=[*spec.entrypoint[1:], *spec.command],
        )
        docker("start", self.container(kind))

    def start_gateway(self, first: EngineKind | None = None) -> None:
        """One more gateway, which prefers this engine; it is asked from the next `route` on."""
        if not self.gateway:
            return
        first = first or self.engine
        kinds = (first, *(kind for kind in self.kinds if kind != first))
        config = tensorzero.GatewayConfig(
            models=(
                tensorzero.ChatModel(
                    name=self.name,
                    providers=tuple(
                        tensorzero.Provider(
                            kind=kind,
                            api_base=f"http://{proxy.ALIAS}:{PROXY_PORT}/{self.specs[kind].name}/v1/",
                            model_name=self.name,
                        )
                        for kind in kinds
                    ),
                    timeouts=tensorzero.Timeouts(
                        total=self.answer_seconds + 30,
                        first_token=self.first_token_seconds + 30,
                        stream=self.answer_seconds + 30,
                    ),
                ),
            )
        )
        self.gateways += 1
        name = f"gateway-{self.gateways}"
        self._create(name, pins.GATEWAY.offline, command=list(tensorzero.COMMAND))
        put_files(self.container(name), {tensorzero.CONFIG_FILE: tensorzero.render(config)})
        docker("start", self.container(name))
        status = ["wget", "-q", "-O", "/dev/null", tensorzero.STATUS_URL]
        eventually(lambda: self._runs(name, *status), 60, "the gateway answers")

    def start_proxy(self) -> str:
        """One more proxy beside those that run; its name."""
        self.proxies += 1
        name = f"proxy-{self.proxies}"
        self._create(
            name,
            pins.SWITCH.offline,
            *("--network-alias", proxy.ALIAS, "--restart", "always", "--user", NOBODY, "--read-only"),
            *(
                "-v",
                f"{self.live}:/live:ro",
                "-v",
                f"{wheels()}:/wheels:ro",
                "-v",
                f"{self.source}:/app/proxy:ro",
            ),
            *("-e", "PYTHONPATH=/app:/wheels", "-e", "PYTHONDONTWRITEBYTECODE=1"),
            *(word for variable in proxy.ENVIRONMENT for word in ("-e", variable)),
            *_limit(PROXY_RAM),
            command=["python3", "-m", "proxy"],
        )
        docker("start", self.container(name))
        eventually(lambda: self.status(name), 60, "the proxy answers")
        return name

    def start_edge(self) -> None:
        port = 8443 if self.tls else 8080
        config = caddyfile.EdgeConfig(
            listen=f":{port}",
            proxy=f"{proxy.ALIAS}:{proxy.PORT}",
            domain=DOMAIN if self.tls else None,
            internal_ca=self.tls,
        )
        self._create(
            "edge",
            pins.EDGE.offline,
            *("-p", f"127.0.0.1:{self.port}:{port}"),
            *_limit(EDGE_RAM),
            *("--ulimit", f"nofile={EDGE_FILES}"),
            command=["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"],
        )
        put_files(self.container("edge"), {"/etc/caddy/Caddyfile": caddyfile.render(config)})
        docker("start", self.container("edge"))
        eventually(self._edge_answers, 60, "the edge answers")

    def _edge_answers(self) -> bool:
        context = any_certificate()
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain:
            head = f"GET {caddyfile.HEALTH_PATH} HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n"
            with context.wrap_socket(plain, server_hostname=DOMAIN) if self.tls else plain as line:
                line.sendall(head.encode())
                return line.recv(12).endswith(b" 200")

    def status(self, name: str) -> dict[str, Any]:
        """What a proxy tells the switch; empty where it does not answer."""
        script = (
            "import urllib.request as u;"
            f"print(u.urlopen('http://127.0.0.1:{PROXY_PORT}/status', timeout=2).read().decode())"
        )
        command = ["docker", "exec", self.container(name), "python3", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def access_log(self, name: str = "proxy-1") -> list[dict[str, Any]]:
        """The lines of a proxy's access log."""
        return [
            json.loads(line) for line in docker("logs", self.container(name)).splitlines() if line[:1] == "{"
        ]

    def said(self, name: str) -> str:
        """All that a container has written, errors too."""
        command = ["docker", "logs", self.container(name)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        return done.stdout

    def kill(self, name: str) -> None:
        """Kills the container's process, as nobody who uses Docker would: so it is started again, which this
        waits for."""
        eventually(lambda: self._pid(name), otherwise=f"{name} runs")
        os.kill(killed := pid_of(self.container(name)), signal.SIGKILL)
        eventually(lambda: self._pid(name) not in (0, killed), otherwise=f"{name} is started again")

    def starts(self, name: str) -> tuple[int, bool]:
        """How often Docker has started a container again, and whether the last one took too much memory."""
        said = docker("inspect", "-f", "{{.RestartCount}} {{.State.OOMKilled}}", self.container(name)).split()
        return int(said[0]), said[1] == "true"

    def most_memory(self, name: str) -> int:
        """How many bytes the container's first process has had at most, since it was started."""
        status = Path(f"/proc/{self._pid(name)}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def _pid(self, name: str) -> int:
        """Of the container's process, as it is here; 0: there is none."""
        return int(docker("inspect", "-f", "{{.State.Pid}}", self.container(name)))

    def _runs(self, name: str, *command: str) -> bool:
        words = ["docker", "exec", self.container(name), *command]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def _create(self, name: str, image: str, *options: str, command: list[str]) -> None:
        labels = ["--label", f"test={self.run}", "--name", self.container(name)]
        docker("create", "--network", self.run, *labels, *options, image, *command)


def _limit(memory: int) -> list[str]:
    """As the product limits a container to so many bytes."""
    return ["--memory", str(memory), "--memory-swap", "-1"]


def cpu_seconds(container: str) -> float:
    """What a container has used of the CPU so far, in seconds."""
    return cpu_seconds_of(docker("inspect", "-f", "{{.State.Pid}}", container).strip())


def cpu_seconds_of(pid: str) -> float:
    """The same of a process here and what it has started and still runs."""
    total = 0
    for task in _tree(pid):
        with contextlib.suppress(OSError):
            total += sum(map(int, Path(f"/proc/{task}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def _tree(pid: str) -> list[str]:
    """A process and all that it has started."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():  # any of them may have started one
                found += (thread / "children").read_text().split()
    return found
