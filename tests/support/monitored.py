"""The switch's stack with the real store and the real vmalert beside it, and what falls ill in it.

Its engines, its gateway and its card's `nvidia-smi` are test doubles, and what the switch is told of its
host's memory is a file in the place of the kernel's.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from common import ROOT
from components import engines, pins, tensorzero
from components.containers import NOBODY
from components.gpu_memory import ALERTS_RAM, STORE_RAM
from components.monitor import (
    CONFIG_MOUNT,
    HISTORY_MOUNT,
    STORE_ALIAS,
    STORE_PORT,
    alerts_command,
    store_command,
)
from monitor import render
from monitor.alerts import Alert, alerts
from monitor.panels import Page
from monitor.watched import Watched
from switch import metrics
from switch.plan import Plan
from switch.shared import ALERTS_ALIAS, PROXY_PORT
from tests.support.project import free_port, pid_of
from tests.support.switch_stack import NETWORK, PREFIX, PYTHON, SWITCH, Stack, docker, labelled, wait

FACTOR = 10
"""By so much everything that an alert waits for is shorter here. So are the switch's and the proxy's own
limits in this stack (`Stack.plan`), about: an engine that hangs is ended after 48 s, not 8 minutes."""
LOOK = "1s"
"""Between two scrapes, two looks at what there is to scrape, and two of the alerts."""
HOLD_SECONDS = 200
"""The hold budget, of which the alert's part is 14 s here."""
EXPECTED_SECONDS = 40.0
"""That a request is said to wait in a change: one that holds is too long from 11 s on here. It holds for some
6 s, most of them in the switch's own pauses, which are as long as ever."""
GPU_BYTES = 4 * 2**30
"""What an engine wants of the card, which the double has free."""

SPARE, SPARE_MIB, SPARE_USED_MIB = "/weights/spare", 5 * 1024 + 200, 300
"""A disk beside those of the weights, its size, and what has to be used of it for an alert."""
HISTORY_MIB = 1100
"""Of the store's disk: a little more than the store leaves free."""

WINDOW = re.compile(r"\[(\d+)m\]")
BOUND = re.compile(r"(_seconds\)? [<>] |\)\)\) > )([\d.]+)")
"""A number of seconds that something is compared with: a gauge of seconds, or the quantile of a histogram."""

CROWD = """
import http.client, json, sys, threading
count, tokens = map(int, sys.argv[1:])
said = [{"role": "user", "content": "-"}]
ask = {"model": "tiny", "messages": said, "max_tokens": tokens, "stream": True}
def client():
    while True:
        c = http.client.HTTPConnection("proxy", 8080, timeout=90)
        try:
            c.request("POST", "/v1/chat/completions", json.dumps(ask))
            c.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass
        c.close()
for _ in range(count):
    threading.Thread(target=client).start()
"""
"""So many users at once, with answers of so many tokens, who take what comes."""


def sooner(alert: Alert, factor: int = FACTOR) -> Alert:
    """The same alert where everything goes `factor` times as fast: how long it waits, the windows that it
    looks at, and the seconds that it compares with."""
    expr = WINDOW.sub(lambda found: f"[{int(found[1]) * 60 // factor}s]", alert.expr)
    expr = BOUND.sub(lambda found: f"{found[1]}{float(found[2]) / factor:g}", expr)
    return replace(alert, expr=expr, seconds=alert.seconds // factor)


def without_data(shown: Iterable[Page], lines: Callable[[str], Iterable[Any]]) -> list[str]:
    """The queries of these pages that have no number, as where something is divided by 0. `lines` has the
    time series of an expression, as the store gives them for a span of time."""
    return [
        f"{page.name}: {panel.title}: {query.expr}"
        for page in shown
        for panel in page.panels
        for query in panel.queries
        if not any(
            math.isfinite(float(value))
            for line in lines(render.in_store(query))
            for _, value in line["values"]
        )
    ]


def watched(switch: str = "switch") -> Watched:
    """What there is to watch of this stack; its gateway, a double, exposes nothing."""
    return Watched(
        stack="it",
        gpu=True,
        vllm=True,
        gateway=False,
        hold_budget=HOLD_SECONDS,
        expected=dict.fromkeys(("ollama", "vllm"), EXPECTED_SECONDS),
        switch=switch,
        switch_port=metrics.PORT,
        proxy_port=PROXY_PORT,
        gateway_port=tensorzero.PORT,
        engine_port=engines.PORT,
    )


def files() -> dict[str, str]:
    """The monitor's files as they are rendered, but that it looks once a second, and alerts are sooner."""
    found = render.files(watched())
    scrape = yaml.safe_load(found[render.SCRAPE])
    scrape["global"] |= {"scrape_interval": LOOK, "scrape_timeout": LOOK}
    rules = yaml.safe_load(render.rules([sooner(each) for each in alerts(watched())]))
    (group,) = rules["groups"]
    group["interval"] = LOOK
    return {**found, render.SCRAPE: yaml.safe_dump(scrape), render.RULES: yaml.safe_dump(rules)}


class Monitored(Stack):
    """An engine of each kind, of which one serves, and store and vmalert beside them, set as they are in the
    product. Its page is at `port` of the loopback address."""

    def __init__(self) -> None:
        self.began = time.time()
        self.port, self.configuration, self.history = free_port(), f"{PREFIX}-config", f"{PREFIX}-history"
        self.folder = Path(tempfile.mkdtemp(prefix="monitored-"))
        self.folder.chmod(0o755)
        self.meminfo = self.folder / "meminfo"
        self.host_memory()
        (self.folder / "card").mkdir()
        smi = ROOT / "tests/support/nvidia_smi.py"
        super().__init__(
            switch_options=(
                *("--network-alias", "switch", "--tmpfs", f"{SPARE}:size={SPARE_MIB}m"),
                *("-v", f"{smi}:/usr/local/bin/nvidia-smi:ro", "-v", f"{self.folder}/card:/gpu:ro"),
                *("-v", f"{self.meminfo}:/proc/meminfo:ro"),
            )
        )
        self.engines = {"ollama": self.engine, "vllm": "vllm-1"}
        self.make_engine("vllm-1", options=("-e", "FAST_CACHE=1000"))
        self.make_monitor()

    def make_engine(
        self,
        name: str,
        mode: str = "ok",
        delay: float = 0,
        tokens: float = 0.02,
        options: tuple[str, ...] = (),
        image: str = PYTHON,
    ) -> None:
        (self.folder / name).mkdir()
        super().make_engine(name, mode, delay, tokens, (*options, "-v", f"{self.folder / name}:/tmp"), image)

    def plan(self, engine: str, gateway: str = "", **changed: Any) -> Plan:
        plan, was = super().plan(engine, gateway, **changed), "hold_seconds = 80"
        assert was in plan.routing
        return replace(
            plan,
            engine=replace(plan.engine, gpu_bytes=GPU_BYTES),
            routing=plan.routing.replace(was, f"hold_seconds = {HOLD_SECONDS}"),
        )

    def make_monitor(self) -> None:
        """The store, with its history on a disk of its own, and vmalert, set as the product sets them."""
        for volume in (self.configuration, self.history):
            docker("volume", "rm", volume, check=False)
        docker("volume", "create", self.configuration)
        disk = f"o=size={HISTORY_MIB}m,mode=777"
        docker(
            "volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", disk, self.history
        )
        # its content is gone once no container has it, as while a store that was killed is started again
        keeper = ("run", "-d", "--name", f"{PREFIX}-keeper", *labelled("keeper"))
        docker(*keeper, "-v", f"{self.history}:{HISTORY_MOUNT}", PYTHON, "sleep", "infinity")
        content = {
            "CONFIG": self.configuration,
            "HISTORY": self.history,
            "IMAGE": PYTHON,
            "OWNER": NOBODY,
            "CONTENT": "1",
        }
        subprocess.run(
            ["sh", ROOT / "components/monitor_files.sh"],
            input=json.dumps(files()),
            env={**os.environ, **content},
            check=True,
            capture_output=True,
            text=True,
        )
        store, slow = store_command(), "-promscrape.httpSDCheckInterval=10s"
        store[store.index(slow)] = slow.replace("10s", LOOK)
        history = ("-v", f"{self.history}:{HISTORY_MOUNT}", "-p", f"127.0.0.1:{self.port}:{STORE_PORT}")
        for role, alias, pin, memory, more, command in (
            ("monitor", STORE_ALIAS, pins.STORE, STORE_RAM, history, store),
            ("alerts", ALERTS_ALIAS, pins.ALERTS, ALERTS_RAM, (), alerts_command(self.port, "")),
        ):
            docker(
                *("run", "-d", "--name", f"{PREFIX}-{role}", "--network", NETWORK, "--network-alias", alias),
                *(*labelled(role), "--restart", "unless-stopped", "--user", NOBODY, "--read-only"),
                *("--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--memory", str(memory)),
                *("-v", f"{self.configuration}:{CONFIG_MOUNT}:ro", *more, pin.offline, *command),
            )
        wait(self.sees_all, 60, "the store does not scrape all that runs")

    def end(self) -> None:
        """Nothing of it is left."""
        self.wipe()
        for volume in (self.configuration, self.history):
            docker("volume", "rm", volume, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    # the store

    def get(self, path: str, **query: object) -> Any:
        """What the store's page is answered. Raises OSError where it answers nothing."""
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    def takes_nothing(self) -> bool:
        """Whether it says that its disk is too full to take anything."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            said = answer.read().decode()
        return any(
            line.startswith("vm_storage_is_read_only") and line.endswith(" 1") for line in said.splitlines()
        )

    def values(self, query: str) -> list[Any]:
        """The time series of an expression, with their values now."""
        return list(self.get("/api/v1/query", query=query)["data"]["result"])

    def lines(self, query: str) -> list[Any]:
        """The time series of an expression since the stack is there, as the page asks for them."""
        asked = {"query": query, "start": self.began, "end": time.time(), "step": render.SCRAPE_SECONDS}
        return list(self.get("/api/v1/query_range", **asked)["data"]["result"])

    def sees_all(self) -> bool:
        """Whether switch and proxy are scraped, and vmalert has looked at its rules."""
        try:
            up = {line["metric"]["job"] for line in self.values("up == 1")}
            (group,) = self.get("/vmalert/api/v1/rules")["data"]["groups"]
        except (OSError, ValueError):
            return False
        wrong = [rule["lastError"] for rule in group["rules"] if rule["lastError"]]
        return up >= {"switch", "proxy"} and not wrong

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        return {line["metric"]["alertname"] for line in self.values('ALERTS{alertstate="firing"}')}

    def fired(self, since: float) -> dict[str, list[Mapping[str, str]]]:
        """Those that fired at some moment since then, in seconds since the epoch, and of what."""
        asked = {"query": 'ALERTS{alertstate="firing"}', "start": since, "end": time.time(), "step": 1}
        found: dict[str, list[Mapping[str, str]]] = {}
        for line in self.get("/api/v1/query_range", **asked)["data"]["result"]:
            found.setdefault(line["metric"]["alertname"], []).append(line["metric"])
        return found

    # changes

    def change(self, kind: str, **changed: Any) -> tuple[int, str]:
        """A change to the engine of this kind."""
        return self.flip(self.engines[kind], self.new_names()[1], **changed)

    def to(self, kind: str) -> None:
        """The engine of this kind serves."""
        if self.engine != self.engines[kind]:
            code, said = self.change(kind)
            assert code == 0, said
        wait(self.serves, 60)

    # what falls ill

    @contextmanager
    def ill(self, engine: str, **files: object) -> Iterator[None]:
        """With these files in the engine's `/tmp`, each of which is an illness of the test engine."""
        paths = {self.folder / engine / name: str(text) for name, text in files.items()}
        for path, text in paths.items():
            path.write_text(text)
        try:
            yield
        finally:
            for path in paths:
                path.unlink()

    @contextmanager
    def card(self, says: Mapping[str, object]) -> Iterator[None]:
        """The card's tool says this."""
        file = self.folder / "card" / "says.json"
        file.write_text(json.dumps(says))
        try:
            yield
        finally:
            file.unlink()

    def host_memory(self, available: float | None = None) -> None:
        """What the switch is told of the host's memory: the kernel's words, or so large a part is left."""
        text = Path("/proc/meminfo").read_text()
        if available is not None:
            total = int(re.search(r"MemTotal: +(\d+)", text)[1])  # type: ignore[index]
            text = re.sub(r"(MemAvailable: +)\d+", rf"\g<1>{round(total * available)}", text)
        with self.meminfo.open("r+" if self.meminfo.exists() else "w") as file:  # it is never empty
            file.write(text)
            file.truncate()

    @contextmanager
    def little_memory(self) -> Iterator[None]:
        self.host_memory(0.03)
        try:
            yield
        finally:
            self.host_memory()

    @contextmanager
    def little_disk(self) -> Iterator[None]:
        """A disk of the host fills up."""
        filling = f"{SPARE}/filling"
        docker("exec", SWITCH, "dd", "if=/dev/zero", f"of={filling}", "bs=1M", f"count={SPARE_USED_MIB}")
        try:
            yield
        finally:
            docker("exec", SWITCH, "rm", filling)

    @contextmanager
    def full_history(self) -> Iterator[None]:
        """No room on the store's disk."""
        into = ["docker", "exec", f"{PREFIX}-keeper"]
        filling = f"{HISTORY_MOUNT}/filling"
        command = [*into, "dd", "if=/dev/zero", f"of={filling}", "bs=1M"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "No space left on device" in done.stderr, done.stderr
        try:
            yield
        finally:
            subprocess.run([*into, "rm", filling], check=True)

    @contextmanager
    def paused(self, *containers: str) -> Iterator[None]:
        """These stand still."""
        names = [f"{PREFIX}-{each}" for each in containers]
        docker("pause", *names)
        try:
            yield
        finally:
            docker("unpause", *names)

    @contextmanager
    def crowd(self, users: int, tokens: int) -> Iterator[None]:
        """So many users at once, beside the one of the stack."""
        name = f"{PREFIX}-crowd"
        what = (PYTHON, "python3", "-c", CROWD, str(users), str(tokens))
        docker("run", "-d", "--name", name, "--network", NETWORK, *labelled("client"), *what)
        try:
            yield
        finally:
            docker("rm", "-f", name)


def crash(container: str) -> None:
    """Ends its process as a fault does: Docker starts it again by its policy."""
    os.kill(pid_of(f"{PREFIX}-{container}"), signal.SIGKILL)
