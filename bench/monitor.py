"""How much memory and CPU a monitor takes while users ask, and how much `make watch` takes.

Run: `python -m bench.monitor`. It deploys a stack on this machine's Docker engine, in which the test engine
stands for both engines, with a key for each tenant.

The engine is changed once before the measurement, so that there are the time series of both. CPU is in
percent of one core, over as many seconds as are asked for; memory is what Docker counts at the end of them.
`make watch` runs in a terminal of its own; what it starts on the host is the switch's `observe`.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping

from bench.stack import deployed, machine, table
from common import ROOT, main_guard
from components.gpu_memory import ALERTS_RAM, STORE_RAM
from tests.support.load import LoadGenerator
from tests.support.project import Project, docker, free_port
from tests.support.way import cpu_seconds, cpu_seconds_of

LIMITS = {"monitor": STORE_RAM, "alerts": ALERTS_RAM}
"""The memory limit of each of the monitor's containers, in bytes, by its role."""
MINUTE = 65
"""Seconds after which `make watch` has a whole minute of looks."""
ROWS, COLUMNS = 45, 140
"""The size of the terminal in which `make watch` draws, in characters."""
WATCH = """
import sys
from tools import watch
watch.switch_of = lambda stack: sys.argv[2]
watch.watch(sys.argv[1])
"""
"""The program of `make watch`, without its check whose the stack is: the stack is this program's."""


def ask(port: int, query: str) -> float:
    """The value of an expression of the monitor's store, which must have just one; `port` is the store's."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        (found,) = json.load(answer)["data"]["result"]
    return float(found["value"][1])


def mib(container: str) -> float:
    """The memory of a container in MiB, as Docker counts it."""
    said = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).split()[0]
    sizes = {"KiB": 2**-10, "MiB": 1, "GiB": 2**10}
    unit = next(each for each in sizes if said.endswith(each))
    return float(said.removesuffix(unit)) * sizes[unit]


def used(containers: Mapping[str, str], seconds: float) -> dict[str, float]:
    """How much CPU each of the containers uses in so many seconds, in percent of one core, by role."""
    before, began = {role: cpu_seconds(name) for role, name in containers.items()}, time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {role: 100 * (cpu_seconds(name) - before[role]) / took for role, name in containers.items()}


@contextlib.contextmanager
def watching(stack: str, switch: str) -> Iterator[subprocess.Popen[bytes]]:
    """`make watch` of a stack, in a terminal that takes whatever it draws, until the block ends. `switch` is
    the name of the switch's container."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    command = [sys.executable, "-c", WATCH, stack, switch]
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)

    def look() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 65536):
                pass

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            os.write(ours, b"q")
        process.wait(30)
        reader.join()
        os.close(ours)


def observing(switch: str) -> float:
    """Seconds of CPU that the switch's `observe` has used on the host so far."""
    rows = docker("top", switch, "-eo", "pid,args").splitlines()[1:]
    return sum(cpu_seconds_of(row.split()[0]) for row in rows if "switch observe" in row)


def measured(project: Project, port: int, seconds: float, tenants: int, users: int) -> list[str]:
    """Both tables with their titles: the monitor's containers, and `make watch`, over so many `seconds` each.

    `port` is that of the monitor's store.
    """
    containers = {role: project.containers(role)[0] for role in (*LIMITS, "proxy", "switch")}
    alone = used({role: containers[role] for role in ("proxy", "switch")}, seconds)
    cpu = used(containers, seconds)
    series = ask(port, 'count({__name__=~".+"})')
    rows: list[list[object]] = [
        [role, cpu[role], mib(containers[role]), f"{limit / 2**20:.0f}"] for role, limit in LIMITS.items()
    ]
    title = f"{users} users of {tenants} tenants, {series:.0f} series, {seconds:.0f} s, {machine()}"
    said = [f"A monitor: {title}\n", table(["container", "CPU, % of a core", "MiB", "limit"], rows)]
    with watching(project.stack, containers["switch"]) as process:
        time.sleep(MINUTE)
        before, observed = cpu_seconds_of(str(process.pid)), observing(containers["switch"])
        meanwhile = used({role: containers[role] for role in ("proxy", "switch")}, seconds)
        assert process.poll() is None, "make watch has ended"
        here = 100 * (cpu_seconds_of(str(process.pid)) - before) / seconds
        there = 100 * (observing(containers["switch"]) - observed) / seconds
    more = meanwhile["proxy"] - alone["proxy"]
    rows = [["here", here], ["`observe` on the host", there], ["the proxy, more than without", more]]
    return [*said, f"\n`make watch`: {title}\n", table(["where", "CPU, % of a core"], rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tenants", type=int, default=4, help="(default: 4)")
    parser.add_argument("--users", type=int, default=40, help="of all of them together (default: 40)")
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement (default: 60)")
    parser.add_argument("--pause", type=float, default=2, help="s between a user's requests (default: 2)")
    options = parser.parse_args()
    port = free_port()
    keys = {f"tenant-{number}": f"a-key-of-tenant-{number:04}" for number in range(options.tenants)}
    with (
        deployed("bench-monitor", fast=True, monitor=True, monitorPort=port, apiKeys=keys) as project,
        contextlib.ExitStack() as asking,
    ):
        outputs = project.outputs()
        each = options.users // options.tenants
        loads = [
            LoadGenerator(
                outputs["endpoint"], outputs["model"], clients=each, api_key=key, pause=options.pause
            )
            for key in keys.values()
        ]
        for load in loads:
            asking.enter_context(load)
            load.wait_for_answers(each)
        project.configure(engine="vllm")
        project.up()
        for load in loads:
            load.wait_for_answers(2 * each)
        said = measured(project, port, options.seconds, options.tenants, options.users)
        lost = sum(len(load.bad) for load in loads)
    print("\n".join(said))
    sent = sum(len(load.outcomes) for load in loads)
    print(f"\n{sent} requests, {lost} failed or cut.")
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main_guard(main)
