"""Stops and kills gateway and proxy by turns under many clients, and counts what was lost.

Run: `python -m bench.stops`. It deploys a stack on this machine's Docker engine.

A gateway that ends loses nothing, in either way, nor does a proxy that is stopped. A proxy that is killed
cuts the answers of which it had given a part, and loses nothing else; the program fails if anything else is
lost.
"""

import argparse
import time

from bench.stack import deployed, machine, table
from common import main_guard
from tests.support.load import LoadGenerator, Outcome, bad
from tests.support.project import Project, docker

STOP, KILL = "stop", "kill"
GRACE = "120"
"""From SIGTERM to SIGKILL, in seconds: longer than any answer here takes."""


def end(container: str, way: str) -> None:
    """Stops or kills a container, by `way`, and starts it again after half a second."""
    docker("stop", "--time", GRACE, container) if way == STOP else docker("kill", container)
    time.sleep(0.5)
    docker("start", container)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=10, help="times each is stopped and killed (default: 10)")
    parser.add_argument("--clients", type=int, default=48, help="(default: 48)")
    parser.add_argument("--engine", choices=("real", "fast"), default="fast", help="(default: fast)")
    options = parser.parse_args()
    seen: dict[tuple[str, str], list[Outcome]] = {}
    with deployed("bench-stops", fast=options.engine == "fast") as project:
        outputs = project.outputs()
        load = LoadGenerator(
            outputs["endpoint"], outputs["model"], clients=options.clients, max_tokens=(8, 96)
        )
        with load:
            load.wait_for_answers(2 * options.clients)
            for number in range(options.n):
                for role in ("gateway", "proxy"):
                    for way in (STOP, KILL):
                        first = len(load.outcomes)
                        end(one(project, role), way)
                        load.wait_for_answers(2 * options.clients)
                        seen.setdefault((role, way), []).extend(load.outcomes[first:])
                        print(f"{number + 1} of {options.n}, {way} {role}: {load.summary()}", flush=True)
    rows: list[list[object]] = []
    failed = 0
    for (role, way), outcomes in seen.items():
        lost = bad(outcomes, load.outcomes)
        cut = [each for each in lost if each.cut and each.streamed]
        meant = cut if (role, way) == ("proxy", KILL) else []
        failed += len(lost) - len(meant)
        longest = max(each.took for each in outcomes)
        rows.append([role, way, options.n, len(outcomes), len(cut), len(lost) - len(cut), longest])
    print(f"\nGateway and proxy stopped and killed under {options.clients} clients, {machine()}\n")
    print(table(["what", "how", "times", "requests", "cut", "lost otherwise", "longest s"], rows))
    raise SystemExit(1 if failed else 0)


def one(project: Project, role: str) -> str:
    """The name of the only container that a project has of a role."""
    (container,) = project.containers(role)
    return container


if __name__ == "__main__":
    main_guard(main)
