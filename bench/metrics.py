"""What it costs the proxy to count a request, and to be scraped.

Run: `python -m bench.metrics`. It needs neither Docker nor a network: it runs the proxy's own code alone,
with this machine's Python.

To count a request is to enter it into counters and histograms, and to write its line in the access log, which
goes to Docker's log and into a file. A scrape is one text of all series, of which there are more with more
tenants, engines and endpoints. While it is made, a coroutine that wants its turn each millisecond shows how
long others wait. The table has microseconds for a request, and milliseconds for a scrape and the wait.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.stack import machine, table
from bench.usage import ENDPOINT, ENGINES, MODEL
from common import main_guard
from measure.levels import percentile
from monitor.render import SCRAPE_SECONDS
from proxy.answers import Usage
from proxy.records import Books, RequestRecord

ROUND = 1000
"""How many requests are timed together: timed alone, the clock itself would be a part of the figure."""


def record(chance: random.Random, tenants: int) -> RequestRecord:
    """A made-up request of one of so many tenants that has ended."""
    return RequestRecord(
        began=0,
        endpoint=ENDPOINT,
        tenant=f"tenant-{chance.randrange(tenants)}",
        known=True,
        model=MODEL,
        engine=chance.choice(ENGINES),
        stream=True,
        status=200,
        usage=Usage(500, 200),
        held=chance.random() * 3,
        first=chance.random() * 4,
    )


def entered(books: Books, rounds: int, tenants: int) -> list[float]:
    """For each of `rounds` rounds, the seconds that it takes to enter one request."""
    chance, seen = random.Random(1), []
    for _ in range(rounds):
        records = [record(chance, tenants) for _ in range(ROUND)]
        began = time.perf_counter()
        for each in records:
            books.enter(each, 20.0)
        seen.append((time.perf_counter() - began) / ROUND)
    return seen


async def scraped(books: Books, rounds: int) -> tuple[int, list[float], list[float]]:
    """Scrapes the books `rounds` times.

    Returns how many series there are, the seconds that each scrape took, and for each the seconds of the
    longest wait for a turn of the event loop meanwhile.
    """
    seen, waits, text = [], [], b""
    for _ in range(rounds):
        longest, over = 0.0, asyncio.Event()

        async def others(over: asyncio.Event = over) -> None:
            nonlocal longest
            while not over.is_set():
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - began - 0.001)

        task = asyncio.create_task(others())
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        text = await books.exposed()
        seen.append(time.perf_counter() - began)
        over.set()
        await task
        waits.append(longest)
    return sum(not line.startswith(b"#") for line in text.splitlines()), seen, waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tenants", type=int, nargs="*", default=[5, 40], help="(default: 5 and 40)")
    parser.add_argument("-n", type=int, default=50, help="rounds of 1,000 requests (default: 50)")
    options = parser.parse_args()
    rows: list[list[object]] = []
    for tenants in options.tenants:
        with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
            with contextlib.redirect_stdout(nowhere):
                books = Books(Path(folder), "host")
            both = entered(books, options.n, tenants)
            books._log.disabled = True
            counted = entered(books, options.n, tenants)
            books._log.disabled = False
            series, scrapes, waits = asyncio.run(scraped(books, options.n))
            books.close()
        micro = [statistics.median(each) * 1e6 for each in (counted, both)]
        milli = statistics.median(scrapes) * 1e3
        rows.append(
            [
                *(tenants, series, f"{micro[0]:.0f}", f"{percentile(counted, 95) * 1e6:.0f}"),
                *(f"{micro[1] - micro[0]:.0f}", milli, f"{milli / 10 / SCRAPE_SECONDS:.1f} %"),
                *(statistics.median(waits) * 1e3, percentile(waits, 95) * 1e3),
            ]
        )
    with_ = f"N = {options.n} × {ROUND}, {machine()}, Python {sys.version.split()[0]}"
    print(f"A request in the proxy's books, {with_}\n")
    head = (
        *("tenants", "series", "counted, µs", "p95", "its line in the log, µs"),
        *("a scrape, ms", "of a core", "others wait, ms", "p95"),
    )
    print(table(head, rows))


if __name__ == "__main__":
    main_guard(main)
