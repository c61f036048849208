"""How long a preview takes of a stack of 3 hosts and of one of 100, and whether that is the same.

Run: `python -m bench.hosts`. It makes the part of a cluster that controls it, with nodes that only say that
they are there, so that two cores are enough: what a preview asks is real, which is Pulumi, its plugin for
Kubernetes and the cluster's API.

Both stacks are previewed by turns, so that a busy machine slows both: without a change, and with one of the
engine. The table has the medians in seconds, and their ratio.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import offline.images
from bench.stack import table
from bench.ways import where
from common import main_guard
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.played_nodes import PlayedNodes
from tests.support.cluster.project import ClusterProject
from tools.up import place_model

HOSTS = (3, 100)
KINDS = {"nothing changes": "ollama", "a flip": "vllm"}
"""Preview → the engine in the settings. Ollama serves."""


def seconds(project: ClusterProject, engine: str) -> float:
    """How many seconds one preview takes."""
    project.configure(engine=engine)
    began = time.monotonic()
    project.pulumi("preview", *(["--expect-no-changes"] if engine == "ollama" else []))
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=7, help="previews of each kind and stack (default: 7)")
    count = parser.parse_args().n
    heading = where()
    place_model(offline.images.tiny_model())
    stacks = {f"hosts{hosts}": hosts for hosts in HOSTS}
    taken: dict[tuple[str, str], list[float]] = {(stack, kind): [] for stack in stacks for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, Cluster(nodes=0) as cluster, ExitStack() as cleanup:
        cleanup.enter_context(PlayedNodes(cluster, stacks))
        projects = dict[str, ClusterProject]()
        for stack, hosts in stacks.items():
            (own := Path(folder, stack)).mkdir()
            projects[stack] = ClusterProject(own, stack, cluster, hosts=hosts)
            cleanup.callback(projects[stack].end_plugins)
            projects[stack].up()
            print(f"{hosts} hosts serve", file=sys.stderr, flush=True)
        for _ in range(count):
            for kind, engine in KINDS.items():
                for stack, project in projects.items():
                    taken[stack, kind].append(seconds(project, engine))
    few, many = stacks
    rows = []
    for kind in KINDS:
        medians = [statistics.median(taken[stack, kind]) for stack in (few, many)]
        spans = [f"{min(taken[stack, kind]):.1f} to {max(taken[stack, kind]):.1f}" for stack in (few, many)]
        rows.append(
            [kind, count, medians[0], spans[0], medians[1], spans[1], f"{medians[1] / medians[0]:.2f}"]
        )
    print(f"Previews, {heading}; seconds\n")
    names = [word for hosts in HOSTS for word in (f"{hosts} hosts, median", "from, to")]
    print(table(("preview", "N of each", *names, "ratio"), rows))


if __name__ == "__main__":
    main_guard(main)
