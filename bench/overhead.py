"""What edge, proxy and gateway add to the time of a request, by the size of its prompt.

Run: `python -m bench.overhead -n 100`. It starts the parts of each way in Docker networks of their own, and
needs the repository's history for the way as it was.

All ways are asked by turns in one run, one request at a time, over connections that stay open, from a
container on their networks: the engine alone, the way with the gateway, the way without it, and the way as
it was at a commit that had no proxy. The engine answers at once, so that the figures are those of the way.
Times are in milliseconds, and so is the CPU time that each part of the way has used for a request.

The second table has how long short requests wait for the prompts of others: they are sent one after another
from a process of their own, while prompts of 16 MiB go the same way.
"""

import argparse
import statistics
import time
from typing import Any

from bench.client import TURNS_BEFORE
from bench.stack import table
from bench.ways import ALONE, BEFORE, NONE, PARTS, WITH, Client, cpu, place, say, started, where
from common import main_guard
from measure.levels import percentile

SIZES = {"short": 0, "30 KB": 30_000, "1 MB": 1_000_000, "16 MiB": 16 * 2**20}
"""By name, the bytes of a request's body; 0: as few as possible."""
PART = {"short": 1.0, "30 KB": 1.0, "1 MB": 0.4, "16 MiB": 0.2}
"""For each size, which part of the number of requests that is asked for is sent."""
LARGEST, NOT_BEFORE = "16 MiB", ("16 MiB",)
"""The size of the other requests in the second table; and the sizes that the way as it was could not take."""
PAUSE = 0.005
"""Seconds between two short requests in the second table."""
QUIET = 5.0
"""Seconds in which the short requests of the second table have the way for themselves, for comparison."""


def added(client: Client, ways: dict[str, Any], most: int) -> tuple[list[list[object]], int]:
    """The rows of the first table, with what each way adds; and how many requests were lost.

    `most` is the number of short requests for each way.
    """
    rows: list[list[object]] = []
    lost, least = 0, dict[str, float]()
    for size, length in SIZES.items():
        names = [ALONE, *(name for name in ways if name != BEFORE or size not in NOT_BEFORE)]
        count = max(10, round(most * PART[size]))
        before = {name: cpu(ways[name]) for name in names[1:]}
        done = client.do("turns", ways={name: place(ways, name) for name in names}, bytes=length, n=count)
        used = {
            name: [b - a for a, b in zip(before[name].values(), cpu(ways[name]).values(), strict=True)]
            for name in names[1:]
        }
        lost += done["lost"]
        alone: list[float] = []
        for name, seen in done["seen"].items():
            took = [seconds * 1000 for _, seconds in seen]
            median, p99 = statistics.median(took), percentile(took, 99)
            if name == ALONE:
                alone = [median, p99]
                rows.append([size, name, len(took), median, p99, *[""] * 6])
                continue
            more = median - alone[0]
            least.setdefault(name, more)
            each = [seconds / (count + TURNS_BEFORE) * 1000 for seconds in used[name]]
            rows.append([size, name, len(took), median, p99, more, p99 - alone[1], more - least[name], *each])
        say(f"{size}: {', '.join(f'{row[1]} {row[3]:.1f} ms' for row in rows if row[0] == size)}")
    return rows, lost


def waited(client: Client, ways: dict[str, Any], count: int) -> tuple[list[list[object]], int]:
    """The rows of the second table, with what short requests wait for `count` large ones; and how many
    requests were lost."""
    rows: list[list[object]] = []
    lost = 0
    for name in (ALONE, *(name for name in ways if name != BEFORE)):
        others = client.begin("small", place=place(ways, name), pause=PAUSE)
        time.sleep(QUIET)
        large = client.do("turns", ways={name: place(ways, name)}, bytes=SIZES[LARGEST], n=count)
        short = client.end(others)
        lost += large["lost"] + short["lost"]
        spans = [(began, began + took) for began, took in large["seen"][name]]
        first, last = spans[0][0], spans[-1][1]
        among = [took * 1000 for at, took in short["seen"] if at < last and at + took > first]
        quiet = [took * 1000 for at, took in short["seen"] if at < short["seen"][0][0] + QUIET - 1]
        before: list[object] = [len(quiet), statistics.median(quiet), max(quiet)]
        while_: list[object] = [len(among), statistics.median(among), percentile(among, 99), max(among)]
        rows.append([name, len(spans), *before, *while_])
        say(f"{name}: a short request took {max(among):.0f} ms at most, {max(quiet):.0f} ms without others")
    return rows, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=500, help="short requests each way (default: 500)")
    parser.add_argument("--before", default="0fb29bc", help="the way as it was (default: 0fb29bc)")
    options = parser.parse_args()
    heading = f"prompts of source code, {where()}"
    with (
        started(WITH, NONE, BEFORE, commit=options.before) as ways,
        Client(*(way.run for way in ways.values())) as client,
    ):
        first, lost = added(client, ways, options.n)
        second, more = waited(client, ways, max(10, round(options.n * PART[LARGEST])))
    print(f"One request at a time, {heading}; milliseconds. `more`: than it adds to a short one\n")
    added_up = ("added at the median", "added at p99", "more", *(f"{part}: CPU ms" for part in PARTS))
    print(table(("prompt", "way", "N", "median", "p99", *added_up), first))
    print(f"\nWhat a short request takes while prompts of {LARGEST} go the same way; milliseconds\n")
    among = ("N among", "median", "p99", "most")
    print(table(("way", "prompts", "N before", "median", "most", *among), second))
    print(f"\nLost: {lost + more}. As it was: {options.before}.")
    raise SystemExit(1 if lost + more else 0)


if __name__ == "__main__":
    main_guard(main)
