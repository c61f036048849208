"""Stops the gateway again and again under many clients, and counts what was lost: it should be nothing."""

import argparse
import time

from bench.stack import deployed, machine, table
from tests.support.load import Load
from tests.support.project import docker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=48, help="(default: 48)")
    parser.add_argument("--stops", type=int, default=40, help="(default: 40)")
    options = parser.parse_args()
    with deployed("bench-stops") as project:
        outputs = project.outputs()
        (gateway,) = project.containers("gateway")
        load = Load(
            endpoint=outputs["endpoint"], model=outputs["model"], clients=options.clients, max_tokens=(4,)
        )
        with load:
            load.wait_for_answers(options.clients)
            for number in range(options.stops):
                docker("stop", "--time", "120", gateway)
                docker("start", gateway)
                load.wait_for_answers(options.clients)
                print(f"stop {number + 1} of {options.stops}: {load.summary()}", flush=True)
                time.sleep(0.5)
    print(f"\n{options.stops} stops of the gateway under {options.clients} clients, {machine()}\n")
    rows = [[len(load.outcomes), len(load.bad), load.longest]]
    print(table(["requests", "failed or cut", "longest s"], rows))
    raise SystemExit(1 if load.bad else 0)


if __name__ == "__main__":
    main()
