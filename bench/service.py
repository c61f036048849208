"""What the way through a cluster's Service and proxies adds to a request, against the way on one host.

Run: `python -m bench.service`. It needs Docker for the one host, and makes a cluster of three machines.

Short requests are sent one at a time over connections that stay open, to one host and to the cluster by
turns: to an engine alone, and through what stands in front of it, which is edge, proxy and gateway on one
host, and Service, proxy and gateway on the cluster. Engines answer at once. What a way adds is what it takes
more than its own engine alone.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import client
from bench.stack import table
from bench.ways import ALONE, WITH, Client, place, say, started, where
from common import StepFailed, main_guard
from components import engines
from measure.levels import percentile
from tests.support.cluster.cluster import CONTROLS
from tests.support.cluster.project import KEY, ClusterProject, on_cluster

TURN = 50
"""Requests of each kind, before the other place is asked again."""
ONE, CLUSTER = "one host", "cluster"
THROUGH = {ONE: "edge, proxy, gateway", CLUSTER: "Service, proxy, gateway"}
Told = Mapping[str, Any]


def ask(project: ClusterProject, plan: Told) -> Told:
    """What `bench.client.turns` does on the cluster: the engine is asked from its own node, since nobody else
    may ask it, and the Service from outside of all nodes."""
    pod, endpoint = project.pods("engine")[0], urlsplit(project.endpoint)
    engine = {ALONE: (pod["status"]["podIP"], engines.PORT)}
    through = {THROUGH[CLUSTER]: (endpoint.hostname, endpoint.port)}

    def there(of: str, ways: Told) -> Told:
        project.cluster.on_network(of)
        return dict(client.turns({**plan, "ways": ways, "key": KEY}))

    both = list[Told]()
    for of, ways in ((str(pod["spec"]["nodeName"]), engine), (CONTROLS, through)):
        with ThreadPoolExecutor(1) as pool:  # the network is that of its thread
            both.append(pool.submit(there, of, ways).result())
    return {"seen": {**both[0]["seen"], **both[1]["seen"]}, "lost": both[0]["lost"] + both[1]["lost"]}


def rows(where: str, seen: Mapping[str, list[float]]) -> tuple[list[list[object]], float]:
    """Of the table, and how many milliseconds the way adds at the median. `seen` has seconds.

    Raises StepFailed where nobody was answered.
    """
    if silent := [name for name, times in seen.items() if not times]:
        raise StepFailed(f"{where}: no request was answered by {' and '.join(silent)}")
    alone = statistics.median(seen[ALONE]) * 1000
    made = list[list[object]]()
    for name, times in seen.items():
        took = [seconds * 1000 for seconds in times]
        median = statistics.median(took)
        more: list[object] = [""] if name == ALONE else [f"{median - alone:.2f}"]
        made.append([where, name, len(took), f"{median:.2f}", f"{percentile(took, 99):.2f}", *more])
    return made, statistics.median(seen[THROUGH[where]]) * 1000 - alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=500, help="requests of each kind (default: 500)")
    options = parser.parse_args()
    heading, lost = where(), 0
    seen: dict[str, dict[str, list[float]]] = {
        place: {ALONE: [], through: []} for place, through in THROUGH.items()
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        on_cluster(Path(folder), "service") as project,
        started(WITH) as ways,
        Client(ways[WITH].run) as there,
    ):
        one = {ALONE: place(ways, ALONE), THROUGH[ONE]: place(ways, WITH)}
        plan: dict[str, Any] = {"n": TURN, "bytes": 0}
        for turn in range(-(-options.n // TURN)):
            both = {
                ONE: there.do("turns", **plan, ways=one),
                CLUSTER: ask(project, plan),
            }
            for where_, done in both.items():
                lost += done["lost"]
                for name, times in done["seen"].items():
                    seen[where_][name] += [seconds for _, seconds in times]
            say(f"{(turn + 1) * TURN} requests of each kind")
    made, added = list[list[object]](), dict[str, float]()
    for where_, times_ in seen.items():
        its_rows, added[where_] = rows(where_, times_)
        made += its_rows
    print(f"One short request at a time, {heading}; milliseconds\n")
    print(table(("where", "way", "N", "median", "p99", "added at the median"), made))
    print(f"\nThe cluster's way adds {added[CLUSTER] - added[ONE]:+.2f} ms against one host. Lost: {lost}.")
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main_guard(main)
