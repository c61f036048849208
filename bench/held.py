"""Many requests that are held at once and then released: is each answered, and how soon?

Run: `python -m bench.held`. It starts a proxy, an edge, a gateway and an instant engine in Docker networks of
their own.

It measures with the gateway and without it, and with short prompts and prompts of 30 KB. The table has
milliseconds from the release, and the memory of proxy and edge in MiB, at rest and while all requests wait.
"""

import argparse
import time

from bench.stack import table
from bench.ways import NONE, WITH, Client, memory, place, say, started, where
from common import main_guard
from tests.support.way import Way, eventually

SIZES = {"short": 0, "30 KB": 30_000}
"""By name, the bytes of a request's body; 0: as few as possible."""
PATIENCE = 120
"""Seconds within which all of the requests must have arrived at the proxy."""


def held(client: Client, ways: dict[str, Way], name: str, size: int, count: int) -> list[object]:
    """One hold of `count` requests of `size` bytes by the way `name`, and its release, as a row of the table.

    The row has how many were held and lost, milliseconds from the release to the first and to the last
    answer, and the MiB of the proxy and then of the edge, before and while the requests waited.
    """
    way = ways[name]
    parts = [way.container("proxy-1"), way.container("edge")]
    rest = [memory(part) for part in parts]
    way.route(held=True)
    asking = client.begin("crowd", place=place(ways, name), bytes=size, n=count, apart=0.002)
    eventually(lambda: way.status("proxy-1").get("held") == count, PATIENCE, f"{count} requests are held")
    full = [memory(part) for part in parts]
    way.route()
    released = (way.live / "route.json").stat().st_mtime
    done = client.end(asking)
    after = sorted(at - released for at in done["answered"])
    first, last = (after[0] * 1000, after[-1] * 1000) if after else ("-", "-")
    return [count, done["lost"], first, last, rest[0], full[0], rest[1], full[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=1000, help="requests held at once (default: 1000)")
    parser.add_argument("--at-a-time", type=int, default=64, help="of them at the engine (default: 64)")
    options = parser.parse_args()
    heading, rows, lost = where(), list[list[object]](), 0
    with (
        started(WITH, NONE, at_a_time=options.at_a_time) as ways,
        Client(*(way.run for way in ways.values())) as client,
    ):
        for size, length in SIZES.items():
            for name in ways:
                time.sleep(2)  # what the last round has left is given back
                seen = held(client, ways, name, length, options.n)
                lost += int(str(seen[1]))
                rows.append([size, name, *seen])
                say(f"{size}, {name}: {seen[1]} of {options.n} lost, the first after {seen[2]:.0f} ms")
    print(f"{options.n} requests held at once and released, N = 1 each, {heading}\n")
    header = ("prompt", "way", "held", "lost", "first answer ms", "last ms")
    print(
        table(
            (*header, *(f"{part} MiB {when}" for part in ("proxy", "edge") for when in ("at rest", "held"))),
            rows,
        )
    )
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main_guard(main)
