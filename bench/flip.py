"""How long a change of the engine takes, in both directions, and how much of that is ours.

Under a light load, whose every request must come through. `ours` is the whole `pulumi up` less the drain and
the engine's own loading.
"""

import argparse
import json
import statistics
import time

from bench.stack import deployed, machine, table
from tests.support.load import Load
from tests.support.project import Project


def flip(project: Project, engine: str) -> dict[str, float]:
    """One change to `engine`: seconds of the whole update, its drain, loading, hold, and the rest."""
    project.configure(engine=engine)
    began = time.monotonic()
    project.up()
    whole = time.monotonic() - began
    last = json.loads(project.switch("status", "--json"))["last"]
    steps = {step["phase"]: step["seconds"] for step in last["steps"]}
    drain, loading = steps["draining"], steps["loading"]
    return {
        "whole": whole,
        "drain": drain,
        "loading": loading,
        "held": last["held_seconds"],
        "ours": whole - drain - loading,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=3, help="flips in each direction (default: 3)")
    parser.add_argument("--clients", type=int, default=2, help="clients of the load (default: 2)")
    options = parser.parse_args()
    times: dict[str, list[dict[str, float]]] = {"vllm": [], "ollama": []}
    with deployed("bench-flip") as project:
        outputs = project.outputs()
        load = Load(endpoint=outputs["endpoint"], model=outputs["model"], clients=options.clients)
        with load:
            load.wait_for_answers(2)
            for number in range(options.n):
                for engine in times:
                    times[engine].append(flip(project, engine))
                    print(f"flip {number + 1} to {engine}: {load.summary()}", flush=True)
    print(
        f"\nFlips by hold under {options.clients} clients, N = {options.n} each way, {machine()}; seconds\n"
    )
    columns = ["whole", "drain", "loading", "held", "ours"]
    rows = [
        [f"to {engine}", *(statistics.median(each[column] for each in flips) for column in columns)]
        for engine, flips in times.items()
    ]
    print(table(["median", *columns], rows))
    print(f"\nRequests: {load.summary()}")
    raise SystemExit(1 if load.bad else 0)


if __name__ == "__main__":
    main()
