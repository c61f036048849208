"""A switch, the proxy, fast engines, a plain gateway and a client on the real Docker engine; no Pulumi."""

import compileall
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import ROOT
from components import caddyfile, engines, pins, tensorzero
from switch import shared
from switch.asking import ANSWER_SECONDS
from switch.plan import (
    About,
    EngineKind,
    Gate,
    Memory,
    Mode,
    Plan,
    PlannedEngine,
    PlannedGateway,
    Seconds,
    Trap,
)

PYTHON = "changeover-offline/python:3.11"
PREFIX = (
    os.environ.get("SWITCHTEST_PREFIX") or f"changeover-{os.environ.get('PYTEST_XDIST_WORKER', 'switchtest')}"
)
"""Two runs on one host at a time need two."""
GATEWAY_IMAGE = f"{PREFIX}-gateway:1"
NETWORK, SWITCH, CLIENT_NAME = f"{PREFIX}-network", f"{PREFIX}-switch", f"{PREFIX}-client"
LIVE, WHEELS = f"{PREFIX}-live", f"{PREFIX}-wheels"
VOLUMES = {shared.JOURNAL: f"{PREFIX}-journal", shared.LIVE: LIVE} | {
    f"{shared.WEIGHTS}/{e}": f"{PREFIX}-{e}" for e in ("ollama", "vllm")
}
SECONDS = Seconds(
    drain=5,
    load=20,
    request=30,
    stop=5,
    lease_following=4,
    lease_prepared=8,
    gateway=10,
    memory=10,
    answers=12,
    tokens=48,
)
"""Of a change, all of it sooner than in a deployment."""

# a client and an edge in one: asks again where a proxy ends before an answer begins, and then wants all of it
CLIENT = """
import http.client, json, time
said = [{"role": "user", "content": "-"}]
ask = {"model": "tiny", "messages": said, "max_tokens": 4, "stream": True}
while True:
    began, answer = time.time(), None
    while answer is None:
        c = http.client.HTTPConnection("proxy", 8080, timeout=90)
        try:
            c.request("POST", "/v1/chat/completions", json.dumps(ask))
            answer = c.getresponse()
        except (OSError, http.client.HTTPException):
            c.close()
            time.sleep(0.02)
    try:
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        said = repr(error).encode()
    c.close()
    good = answer.status == 200 and b"length" in said and b"[DONE]" in said
    print("good" if good else f"LOST {answer.status} {said[:200]}", round(time.time() - began, 2), flush=True)
    time.sleep(0.02)
"""

GATEWAY_TIMES = tensorzero.Timeouts(total=600, first_token=600, stream=600)
"""Longer than any answer of the tests takes: the double ends none."""

ROUTING = """\
[models.tiny]
engines = ["{engine}"]

[engines.{engine}]
kind = "{kind}"
port = 8000
model = "tiny"
at_a_time = 6

[limits]
hold_seconds = 80
first_token_seconds = 30
answer_seconds = 60
request_bytes = 1048576
"""
ROUTING_GATEWAY = """
[gateway]
kind = "tensorzero"
port = 3000
"""


def docker(*args: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(["docker", *args], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(args)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def kind_of(engine: str) -> EngineKind:
    """Of an engine by its name here, such as `vllm-2`."""
    return "ollama" if engine.startswith("ollama-") else "vllm"


def wait(what: Callable[[], bool], seconds: float = 30, otherwise: str = "it did not happen") -> None:
    """A look mostly starts a process or two: it pauses for as long as one takes, for what is waited for."""
    end = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if what():
            return
        looked = time.monotonic()
        assert looked < end, f"not within {seconds} s: {otherwise}"
        time.sleep(min(max(0.1, looked - began), 0.5))


STATUS = """
import json, os, sys
from switch import shared, verbs
docker = verbs.Docker(os.environ[shared.PROJECT], os.environ[shared.STACK])
for _ in sys.stdin:
    try:
        print(json.dumps(verbs._status(docker)[0]), flush=True)
    except Exception as error:
        print(json.dumps({"failed": repr(error)}), flush=True)
"""
"""Says what `status --json` says, for each line on stdin. A process for each look would take most of what the
machine has from what is looked at."""


class SwitchStatus:
    """What the switch says of itself, asked of one process in its container for as long as that is there."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self) -> dict[str, Any]:
        """Raises AssertionError where there is no answer."""
        for _ in range(2):  # the container may have been started again since
            said = self._line()
            if said.startswith("{"):  # Docker says there, too, why it starts nothing
                status: dict[str, Any] = json.loads(said)
                assert "failed" not in status, status
                return status
            self.end()
        raise AssertionError("the switch's container gives no status")

    def _line(self) -> str:
        if self._process is None:
            command = ["docker", "exec", "-i", SWITCH, "python3", "-c", STATUS]
            pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, text=True)
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        if not select.select([process.stdout], [], [], ANSWER_SECONDS + 10)[0]:
            self.end()
            raise AssertionError("the switch gives no answer")
        return process.stdout.readline()

    def end(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):  # what was not written yet
                if pipe:
                    pipe.close()


STATUS_OF_SWITCH = SwitchStatus()


def labelled(role: str, **more: str) -> list[str]:
    both = {"project": PREFIX, "stack": "it", "role": role, **more}
    return [word for key, value in both.items() for word in ("--label", f"changeover.{key}={value}")]


@contextmanager
def asking_for(tokens: int) -> Iterator[None]:
    """A client whose one stream has so many tokens, of 20 ms each, and has begun; in the end it has all of
    them."""
    name, begun = f"{PREFIX}-slow", "    print('begun', flush=True)\n"
    slow = CLIENT.replace("4,", f"{tokens},").replace("while True", "if True").replace("=90", "=200")
    slow = slow.replace("    try:\n        said", f"{begun}    try:\n        said")
    docker(
        *("run", "-d", "--name", name, "--network", NETWORK, *labelled("client"), PYTHON),
        *("python3", "-c", slow),
    )
    wait(lambda: docker("logs", name) == "begun", otherwise="the stream begins")
    yield
    docker("wait", name)
    said = docker("logs", name)
    docker("rm", name)
    assert said.startswith("begun\ngood"), said


class Stack:
    """Network, volumes, a switch, an engine, a gateway and a proxy, as the program declares them, and a
    client. With `gateways` false it is as with the setting `gateway: none`; with `edge` the client asks the
    real edge, and not the proxy. `switch_options` and `engine_options` are more of `docker create` for the
    switch and for each engine, and `limits` the numbers of its plans' routing that differ."""

    def __init__(
        self,
        *,
        gateways: bool = True,
        edge: bool = False,
        switch_options: tuple[str, ...] = (),
        engine_options: tuple[str, ...] = (),
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.count, self.seen, self.gateways, self.limits = 1, 0, gateways, limits or {}
        self.engine, self.gateway = "ollama-1", "gateway-1"
        self.engine_options = engine_options
        self.wipe()
        docker("network", "create", NETWORK)
        for volume in (*VOLUMES.values(), WHEELS):
            docker("volume", "create", volume)
        socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        mounts = [word for path, volume in VOLUMES.items() for word in ("-v", f"{volume}:{path}")]
        docker(
            *("create", "--name", SWITCH, "--network", NETWORK, "--restart", "always", "-w", "/app", *mounts),
            *("-v", f"{socket}:{shared.SOCKET}", *labelled("switch")),
            *("-e", f"{shared.PROJECT}={PREFIX}", "-e", f"{shared.STACK}=it", *switch_options),
            *(PYTHON, "python3", "-m", "switch", "serve"),
        )
        docker("cp", f"{ROOT}/switch", f"{SWITCH}:/app/switch")
        docker("start", SWITCH)
        fill_wheels()
        self.give_keys('{"open": true, "keys": {}}')
        self.make_proxy("proxy-1")
        self.make_engine(self.engine)
        code, said = self.flip(self.engine, self.gateway)
        assert code == 0, said
        self.client = CLIENT
        if edge:
            self.make_edge()
            self.client = CLIENT.replace('"proxy", 8080, timeout=90', '"edge", 8080, timeout=400')
        docker(
            *("run", "-d", "--name", CLIENT_NAME, "--network", NETWORK, *labelled("client"), PYTHON),
            *("python3", "-c", self.client),
        )

    def new_names(self, kind: str = "vllm") -> tuple[str, str]:
        """Of an engine and a gateway that do not exist yet."""
        self.count += 1
        return f"{kind}-{self.count}", f"gateway-{self.count}"

    def lost(self) -> list[str]:
        """What the client has lost since it was last asked; waits until it is served."""
        wait(lambda: docker("logs", "--tail", "1", CLIENT_NAME).startswith("good"))
        lines = docker("logs", CLIENT_NAME).splitlines()
        new, self.seen = lines[self.seen :], len(lines)
        return [line for line in new if not line.startswith("good")]

    def forget_kills(self) -> None:
        """Docker doubles its wait before each restart of a container that ends by itself, up to a minute; a
        restart that is asked for begins anew."""
        docker("restart", "-t", "5", SWITCH)
        wait(self.settled)

    def tidy(self) -> None:
        """What a test has made and is not live goes."""
        for name in set(self.names(all=True)) - set(self.live_names()):
            docker("rm", "-f", "-v", f"{PREFIX}-{name}")

    def live_names(self) -> list[str]:
        """What is meant to be live."""
        return [self.engine, *([self.gateway] if self.gateways else [])]

    def names(self, all: bool = False) -> list[str]:
        """Of engines and gateways that run, or of all."""
        rows = docker(
            *("ps", *(["-a"] if all else []), "--filter", f"label=changeover.project={PREFIX}"),
            *("--format", "{{.Names}}"),
        )
        names = [row.removeprefix(f"{PREFIX}-") for row in rows.splitlines()]
        return [name for name in names if name.split("-")[0] in ("ollama", "vllm", "gateway")]

    @staticmethod
    def wipe() -> None:
        STATUS_OF_SWITCH.end()
        left = docker("ps", "-aq", "--filter", f"label=changeover.project={PREFIX}").split()
        for container in left:
            docker("rm", "-f", "-v", container)
        docker("network", "rm", NETWORK, check=False)
        for volume in (*VOLUMES.values(), WHEELS):
            docker("volume", "rm", volume, check=False)

    def make_proxy(self, name: str) -> None:
        container = f"{PREFIX}-{name}"
        docker(
            *("create", "--name", container, "--network", NETWORK, "--network-alias", "proxy"),
            *("--restart", "always", "--user", "65534:65534", "-v", f"{LIVE}:{shared.LIVE}:ro", "-w", "/tmp"),
            *("-v", f"{WHEELS}:/wheels:ro", "-e", "PYTHONPATH=/wheels", *labelled("proxy")),
            *(PYTHON, "python3", "-m", "proxy"),
        )
        docker("start", container)
        wait(lambda: "listens" in docker("logs", container), otherwise="the proxy does not listen")

    def make_edge(self) -> None:
        """The real edge, with the Caddyfile of a stack without TLS."""
        config = caddyfile.EdgeConfig(listen=":8080", proxy="proxy:8080")
        container = f"{PREFIX}-edge"
        docker(
            *("create", "--name", container, "--network", NETWORK, "--network-alias", "edge"),
            *(*labelled("edge"), pins.EDGE.offline),
            *("caddy", "run", "--config", "/config/Caddyfile", "--adapter", "caddyfile"),
        )
        self.put(container, "/config/Caddyfile", caddyfile.render(config))
        docker("start", container)

    def give_keys(self, keys: str, seen: str = "") -> str:
        return docker("exec", "-i", SWITCH, "python3", "-m", "switch", "keys", "--seen", seen, stdin=keys)

    def look(self) -> list[str]:
        return docker("exec", SWITCH, "python3", "-m", "switch", "look").splitlines()

    def route(self) -> dict[str, Any]:
        """What the switch tells the proxies."""
        return dict(json.loads(docker("exec", SWITCH, "cat", f"{shared.LIVE}/route.json")))

    def make_engine(
        self,
        name: str,
        mode: str = "ok",
        delay: float = 0,
        tokens: float = 0.02,
        options: tuple[str, ...] = (),
        image: str = PYTHON,
    ) -> None:
        """`tokens` is seconds for each; `options` are more of `docker create`."""
        kind = name.split("-")[0]
        container = f"{PREFIX}-{name}"
        docker(
            *("create", "--name", container, "--network", NETWORK, "--network-alias", name),
            *("--restart", "unless-stopped"),
            *(
                "-e",
                f"FAST_MODE={mode}",
                "-e",
                f"FAST_DELAY={delay}",
                "-e",
                f"FAST_TOKENS={tokens}",
                *self.engine_options,
                *options,
            ),
            *(*labelled("engine", engine=kind, weights="tiny-1"), image, "python3", "-u", "/fast_engine.py"),
        )
        docker("cp", f"{ROOT}/tests/support/fast_engine.py", f"{container}:/fast_engine.py")
        done = f"{shared.WEIGHTS}/{kind}/tiny-1/.complete"
        docker("exec", SWITCH, "sh", "-c", f"mkdir -p {Path(done).parent} && echo '{{}}' > {done}")

    def config(self, engine: str) -> str:
        """The gateway's, as the product renders it."""
        base = f"http://proxy:{shared.PROXY_PORT}/{engine}/v1/"
        provider = tensorzero.Provider(kind=kind_of(engine), api_base=base, model_name="tiny")
        model = tensorzero.ChatModel(name="tiny", providers=(provider,), timeouts=GATEWAY_TIMES)
        return tensorzero.render(tensorzero.GatewayConfig(models=(model,)))

    def make_gateway(self, name: str, engine: str, start: bool = False) -> None:
        container = f"{PREFIX}-{name}"
        docker(
            *("create", "--name", container, "--network", NETWORK, "--network-alias", "gateway"),
            *(*labelled("gateway"), GATEWAY_IMAGE, *tensorzero.COMMAND),
        )
        self.put(container, tensorzero.CONFIG_FILE, self.config(engine))
        if start:
            docker("start", container)

    def put(self, container: str, path: str, content: str) -> None:
        docker("exec", "-i", SWITCH, "sh", "-c", "mkdir -p /tmp/up && cat > /tmp/up/file", stdin=content)
        subprocess.run(
            f"docker exec {SWITCH} tar -C /tmp/up --transform 's|file|{path.lstrip('/')}|' -cf - file "
            f"| docker cp - {container}:/",
            shell=True,
            check=True,
        )

    def plan(
        self,
        engine: str,
        gateway: str = "",
        *,
        cutover: Mode = "hold",
        seconds: Mapping[str, float] | None = None,
        gate_timeout: float = 5,
        floor: float = 1,
        config: str | None = None,
        image: str = PYTHON,
    ) -> Plan:
        """`seconds` are those of its times that differ."""
        kind = kind_of(engine)
        routing = ROUTING.format(engine=engine, kind=kind) + (ROUTING_GATEWAY if self.gateways else "")
        for key, limit in self.limits.items():
            routing, found = re.subn(rf"(?m)^{key} = .*", f"{key} = {limit}", routing)
            assert found == 1, key
        plan = Plan(
            engine=PlannedEngine(
                name=engine,
                kind=kind,
                container="",
                port=engines.PORT,
                model="tiny",
                weights="tiny-1",
                gpu_bytes=0,
                host_bytes=2**30,
            ),
            cutover=cutover,
            insist=False,
            memory=Memory(gpu=0, host=0),
            seconds=replace(SECONDS, **(seconds or {})),
            gate=Gate(
                completions=3,
                max_tokens=8,
                timeout=gate_timeout,
                tokens_per_second=floor,
                prompt_tokens=300,
                sense=True,
                traps=(Trap(words=("over and over",), hint="other kernels"),),
            ),
            gateway=PlannedGateway(
                image=GATEWAY_IMAGE,
                config=config or self.config(engine),
                path=tensorzero.CHAT_PATH,
                model=tensorzero.qualified("tiny"),
                port=tensorzero.PORT,
                config_file=tensorzero.CONFIG_FILE,
                validate=tensorzero.VALIDATE,
            )
            if self.gateways
            else None,
            routing=routing,
            about=About(
                engine_image=image,
                gateway_image=GATEWAY_IMAGE,
                reason="the test wants it",
                sum="nothing",
                loading_seconds=1,
                images=(),
            ),
        )
        return plan.leading_to(f"{PREFIX}-{engine}", f"{PREFIX}-{gateway}" if gateway else "")

    def tell(self, verb: str, plan: Plan) -> None:
        docker("exec", "-i", SWITCH, "python3", "-m", "switch", verb, stdin=plan.text)

    def follow(self, seconds: float = 60) -> tuple[int, str]:
        said, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            done = subprocess.run(
                ["docker", "exec", SWITCH, "python3", "-m", "switch", "follow"],
                capture_output=True,
                text=True,
                check=False,
            )
            said += done.stdout
            if done.returncode != 75:
                return done.returncode, said
        return 75, said

    def flip(self, engine: str, gateway: str, **changed: Any) -> tuple[int, str]:
        """What a whole `pulumi up` does."""
        self.tell("prepare", self.plan(engine, **changed))
        code, said = self.follow()
        if code:
            return code, said
        if self.gateways:
            self.make_gateway(gateway, engine, start=True)
        self.tell("commit", self.plan(engine, gateway, **changed))
        code, more = self.follow()
        if code == 0:
            self.engine, self.gateway = engine, gateway
        return code, said + more

    @staticmethod
    def started(name: str) -> str:
        return docker("inspect", "-f", "{{.State.StartedAt}}", f"{PREFIX}-{name}")

    def live(self) -> str:
        """What is live, as the switch tells it to coordinators; nothing before it has looked."""
        return docker("exec", SWITCH, "cat", shared.LIVE_FILE, check=False).removeprefix(f"{PREFIX}-")

    def status(self) -> dict[str, Any]:
        return STATUS_OF_SWITCH.ask()

    def settled(self) -> bool:
        """Whether the switch runs, has looked at the containers, and has nothing under way."""
        state = docker("inspect", "-f", "{{.State.Running}} {{.State.Restarting}}", SWITCH)
        if state != "true false":
            return False
        try:
            status = self.status()
            return status["under_way"] is None and bool(status["gated"]) and bool(self.live())
        except AssertionError:  # it has just gone
            return False

    def serves(self) -> bool:
        """Whether exactly the engine and gateway that are meant to be live are."""
        status = self.status()
        ready = status["gated"] and not status["under_way"] and self.live() == self.engine
        return ready and sorted(self.names()) == sorted(self.live_names())


def fill_wheels() -> None:
    """Puts the proxy and its packages, as they are locked, into the volume that it runs from."""
    with tempfile.TemporaryDirectory() as name:
        lock = ["--require-hashes", "--no-deps", "-r", str(ROOT / "proxy" / "requirements.lock")]
        target = ["--target", name, "--python-version", "3.11", "--only-binary", ":all:"]
        subprocess.run(
            [ROOT / ".venv/bin/uv", "pip", "install", "--quiet", "--link-mode", "copy", *target, *lock],
            check=True,
        )
        shutil.copytree(ROOT / "proxy", Path(name, "proxy"), ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(name, quiet=2)  # as in a deployment: a proxy that starts can't keep it
        helper = docker("create", *labelled("helper"), "-v", f"{WHEELS}:/wheels", PYTHON, "true")
        subprocess.run(f"tar -C {name} -cf - . | docker cp - {helper}:/wheels", shell=True, check=True)
        docker("rm", helper)


@contextmanager
def coordinator(plan: Plan, log: Path, verb: str = "prepare") -> Iterator[subprocess.Popen[bytes]]:
    """The program's own script, which `pulumi up` runs for both phases; what is left of it is killed."""
    environment = {**os.environ, "SWITCH": SWITCH, "STACK": "it"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["sh", str(ROOT / "components/change.sh"), verb],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
        )
        assert process.stdin
        process.stdin.write(plan.text.encode())
        process.stdin.close()
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def build_gateway() -> None:
    """Makes the image of the plain gateway."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plain_gateway.py").write_text((ROOT / "tests/support/plain_gateway.py").read_text())
        (folder / "Dockerfile").write_text(
            f'FROM {PYTHON}\nCOPY plain_gateway.py /\nENTRYPOINT ["python3", "-u", "/plain_gateway.py"]\n'
        )
        subprocess.run(
            ["docker", "build", "-q", "-t", GATEWAY_IMAGE, str(folder)],
            check=True,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
            capture_output=True,
        )
