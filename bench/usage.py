"""How long `make usage` takes to read an access log of made-up requests, in the files that proxies leave.

Run: `python -m bench.usage`. It needs neither Docker nor a network.

The proxy's own code writes the lines, and the proxy's own program reads them, with this machine's Python.
Each request belongs to one of some tenants, is streamed or not, and one in fifty was broken off. The table
has seconds of time and of CPU.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.stack import machine, table
from common import ROOT, main_guard
from proxy.answers import Usage
from proxy.records import LOG_BYTES, RequestRecord

ENDPOINT, MODEL, ENGINES = "/v1/chat/completions", "qwen-2.5-coder-7b", ("ollama-e68d4c1b", "vllm-29f59b46")
READ = "import json, sys; from pathlib import Path; from proxy.usage import lines, summed; "
READ += "json.dump(summed(lines(Path(sys.argv[1]))), sys.stdout)"
"""The program that sums up the log in a folder, as `make usage` runs it in a proxy's container."""


def write(folder: Path, count: int, tenants: int) -> int:
    """Writes `count` lines into files in `folder`, beginning another file when one is full.

    Returns how many bytes they have.
    """
    chance, written, files = random.Random(count), 0, 0
    made = lines(chance, tenants)
    while count:
        files += 1
        with (folder / f"access-{files:04}.log").open("w") as log:
            size = 0
            while count and size < LOG_BYTES:
                size += log.write(next(made) + "\n")
                count -= 1
        written += size
    return written


def lines(chance: random.Random, tenants: int) -> Iterator[str]:
    """Made-up lines of an access log, without end, of requests of so many tenants."""
    while True:
        cut = chance.random() < 0.02
        usage = Usage() if cut else Usage(chance.randrange(10, 4000), chance.randrange(1, 800))
        record = RequestRecord(
            began=0,
            endpoint=ENDPOINT,
            tenant=f"tenant-{chance.randrange(tenants)}",
            known=True,
            model=MODEL,
            engine=chance.choice(ENGINES),
            stream=chance.random() < 0.7,
            status=200,
            usage=usage,
            events=chance.randrange(1, 800),
            held=chance.random() * 3,
            first=chance.random() * 4,
            hung_up=cut,
        )
        yield record.line(chance.random() * 20)


def read(folder: Path, count: int) -> tuple[float, float]:
    """How many seconds, and seconds of CPU, a new process takes to sum up the log in `folder`.

    It must have `count` requests.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", READ, folder], cwd=ROOT, check=True, capture_output=True, text=True
    )
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(done.stdout)
    summed = sum(each["requests"] for day in said["days"].values() for each in day.values())
    assert (summed, said["unreadable"]) == (count, 0)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="*", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--tenants", type=int, default=40, help="(default: 40)")
    parser.add_argument("-n", type=int, default=5, help="times that each is read (default: 5)")
    options = parser.parse_args()
    rows: list[list[object]] = []
    for count in options.lines:
        with tempfile.TemporaryDirectory() as name:
            size = write(Path(name), count, options.tenants)
            seen = [read(Path(name), count) for _ in range(options.n)]
        seconds, cpu = (statistics.median(column) for column in zip(*seen, strict=True))
        most = max(each for each, _ in seen)
        rows.append([f"{count:,}", f"{size / 2**20:.0f}", f"{seconds:.2f}", f"{most:.2f}", f"{cpu:.2f}"])
    print(f"An access log of {options.tenants} tenants, N = {options.n}, {machine()}\n")
    print(table(["requests", "MiB", "median s", "most s", "CPU s"], rows))


if __name__ == "__main__":
    main_guard(main)
