"""Flips back and forth across the pods of a cluster of three machines, under a load of which every request
must come through whole that its client does not hang up on, and none may wait for a host.

Each flip is a real `pulumi up`, and both engines are the test engine. A pod's time is from one host with the
new engine to the next one, of the second host and the later ones: what it drains, ends, starts, and is gated.
How long its drain took is known to itself only, and goes with it, so that is not taken off: the longest
answer takes half a second.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.flips import FlipRecord, answered, record, summary
from bench.stack import kept, machine, table
from common import main_guard
from tests.support.cluster.images import LOAD_SECONDS
from tests.support.cluster.project import WAIT_SECONDS, ClusterLoad, ClusterProject, load, on_cluster

COLUMNS = ("to", "flips", "sent", "aborted", "failed", "cut", "lost at most", "longest gap")
MORE = ("p50 outside", "p99 outside", "p50 inside", "p99 inside", "total")
SKIPPED = 8
"""The place in the summary of a column that is about one host."""


def flip(project: ClusterProject, there: ClusterLoad, engine: str, first: int) -> FlipRecord:
    """One change to `engine`, with the requests before, in and after it, from the load's `first` on."""
    project.configure(engine=engine)
    there.wait_for_answers(there.round)
    began = time.monotonic()
    project.up()
    ended = time.monotonic()
    there.wait_for_answers(there.round)
    certificate = project.certificates()[-1]
    return record(
        "across",
        engine,
        there.outcomes[first:],
        texts=there.outcomes,
        began=began,
        ended=ended,
        pods=pods(certificate),
        fewest=certificate["fewest"],
    )


def pods(certificate: Mapping[str, Any]) -> list[float]:
    """Seconds of each pod but the first."""
    reached = {step["new"]: step["seconds"] for step in reversed(certificate["steps"])}
    return [later - sooner for sooner, later in itertools.pairwise(reached[n] for n in sorted(reached) if n)]


def longest(flip: FlipRecord) -> float:
    """Seconds that the longest answer took."""
    return max((each[1] - each[0] for each in flip["requests"] if answered(each)), default=0.0)


def row(engine: str, flips: list[FlipRecord]) -> list[object]:
    its = summary(engine, flips)
    times = [seconds for each in flips for seconds in each["pods"]]
    its = [*its[:SKIPPED], *its[SKIPPED + 1 : SKIPPED + 1 + len(MORE)]]
    median, fewest = statistics.median(times), min(each["fewest"] for each in flips)
    pod = f"{median:.1f} (most {max(times):.1f})"
    return [*its, f"{max(map(longest, flips)):.2f}", pod, median - LOAD_SECONDS, fewest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=15, help="flips there and back (default: 15)")
    parser.add_argument("--clients", type=int, default=6, help="clients of the load (default: 6)")
    parser.add_argument(
        "--aborts", type=int, default=8, help="hang up on one of so many; 0: none (default: 8)"
    )
    parser.add_argument("--json", type=Path, default=Path("flips-across.jsonl"), help="the file of results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, on_cluster(Path(folder), "bench") as project:
        print(f"three machines were ready after {project.cluster.took:.0f} s", file=sys.stderr, flush=True)
        taken = 0
        with load(project, clients=options.clients, aborts=options.aborts) as there:
            for number in range(options.n):
                for engine in ("vllm", "ollama"):
                    one = flip(project, there, engine, taken)
                    taken += len(one["requests"])
                    with options.json.open("a") as out:
                        out.write(json.dumps(one) + "\n")
                    lost = [each[3] for each in one["requests"] if each[3]]
                    said = f"{number + 1}: to {engine} {one['length']:.1f} s, lost: {lost[:3]}"
                    said += f", longest answer {longest(one):.1f} s"
                    print(said, file=sys.stderr, flush=True)
        if changes := project.changes():
            raise SystemExit(f"the preview after the way back is not empty: {changes}")
    flips = kept(options.json)
    print(
        f"Flips across three hosts under {options.clients} clients, one of {options.aborts} requests hung up "
        f"on, a test engine that loads for {LOAD_SECONDS} s, {machine()}; seconds\n"
    )
    engines = [(engine, [each for each in flips if each["to"] == engine]) for engine in ("vllm", "ollama")]
    last = ("longest answer", "a pod", "of it beyond loading", "fewest that serve")
    print(table((*COLUMNS, *MORE, *last), [row(*each) for each in engines]))
    if waited := [round(longest(one), 1) for one in flips if longest(one) >= WAIT_SECONDS]:
        print(f"Somebody waited: an answer took {WAIT_SECONDS:.0f} s or more in {waited}", file=sys.stderr)
    raise SystemExit(bool(waited) or any(each[3] for one in flips for each in one["requests"]))


if __name__ == "__main__":
    main_guard(main)
