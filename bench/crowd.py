"""A crowd of users on both real engines: what the endpoint lets through, and a flip under them.

Run: `python -m bench.crowd`. It deploys a stack with both real engines on this machine's Docker engine.

All users ask at once, and ask again as soon as they are answered. The first table has tokens per second, of
the engine itself and through the endpoint, which are asked by turns. The endpoint lets no more requests to an
engine than it works on and a few more, which must cost nothing. Then the engine is changed under the crowd:
nothing may be lost, and the drain takes as long as an answer. The second table has that in seconds.
"""

import argparse
import json
import statistics
import time
from typing import Any

from bench.stack import deployed, machine, table
from bench.ways import EDGE_PORT, Client, say
from common import main_guard
from components.engines import PORT
from components.gpu_memory import EngineKind
from tests.support.load import LoadGenerator
from tests.support.project import Project, docker
from tests.support.way import eventually

TOKENS = 256
"""Length of an answer while tokens per second are measured. With shorter answers the way would take a larger
part of the cores, which the engine needs as well."""
FLIP_TOKENS = (8, 32)
"""The shortest and the longest answer, in tokens, while the engine is changed."""
RESTARTED_SECONDS = 5
"""By then the switch has seen that an engine ended."""
ENGINE_CORES: dict[str, Any] = {
    "default": "",
    "metavar": "CORES",
    "help": "keep the engines to these (`0`, `0-3`). On a CPU an engine takes each core, and what else runs\n"
    "takes from it what it needs; an engine on a GPU leaves the cores to that (default: all)",
}
"""What `argparse` is told of the option that keeps the engines to some cores."""
DIRECT, THROUGH = "the engine itself", "through the endpoint"


def network(project: Project) -> str:
    """The name of the Docker network on which a stack's engines are."""
    return project.labels.prefix


def keep_to(project: Project, cores: str) -> None:
    """Keeps both engines to these cores (`0-3`). The one that serves is started again; the other one starts
    with them."""
    docker("update", "--cpuset-cpus", cores, *project.containers("engine"))
    # its threads are as many as there were cores: two that wait for each other on one core stand still
    docker("restart", project.live())
    time.sleep(RESTARTED_SECONDS)
    eventually(project.settled, 300, f"{project.live()} serves again")


def tokens(
    project: Project, kind: EngineKind, users: int, each: int, rounds: int, cores: str
) -> list[object]:
    """The row of the engine that serves: tokens per second by both ways, and how many requests were lost.

    `users` ask `each` times in each of `rounds` rounds. If `cores` names any (`0-3`), the engine is kept to
    these.
    """
    if cores:
        keep_to(project, cores)
    (edge,) = project.containers("edge")
    places = {DIRECT: (project.live(), PORT), THROUGH: (edge, EDGE_PORT)}
    rates = {name: list[float]() for name in places}
    lost = 0
    with Client(network(project)) as client:
        for number in range(-1, rounds):  # the first round is for warming up
            for name, place in places.items():
                done = client.do("users", place=place, n=users, each=each, tokens=TOKENS)
                lost += done["lost"]
                rate = (users * each - done["lost"]) * TOKENS / done["seconds"]
                if number >= 0:
                    rates[name].append(rate)
                say(f"{kind}, {name}, {number + 1} of {rounds}: {rate:.1f} tokens/s, {done['lost']} lost")
    medians = [statistics.median(values) for values in rates.values()]
    spread = [f"{min(values):.1f} to {max(values):.1f}" for values in rates.values()]
    ratio = f"{medians[1] / medians[0]:.2f}"
    return [kind, rounds, users * each, TOKENS, medians[0], spread[0], medians[1], spread[1], ratio, lost]


def flipped(project: Project, to: EngineKind, users: int) -> list[object]:
    """The row of a flip to the engine `to` under `users` users; durations in seconds."""
    outputs = project.outputs()
    load = LoadGenerator(
        outputs["endpoint"], outputs["model"], clients=users, max_tokens=FLIP_TOKENS, timeout=600
    )
    with load:
        load.wait_for_answers(users, 600)
        project.configure(engine=to)
        project.up()
        load.wait_for_answers(users, 600)
    last = json.loads(project.switch("status", "--json"))["last"]
    seconds = {step["phase"]: step["seconds"] for step in last["steps"]}
    say(f"to {to}: {load.summary()}")
    drain, held = seconds.get("draining", 0.0), last["held_seconds"]
    return [to, len(load.outcomes), len(load.bad), drain, held, load.longest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=64, help="(default: 64)")
    parser.add_argument("--flip-users", type=int, default=150, help="under a change (default: 150)")
    parser.add_argument("--each", type=int, default=2, help="answers to each user in a round (default: 2)")
    parser.add_argument("-n", type=int, default=5, help="rounds each way (default: 5)")
    parser.add_argument("--parallel", type=int, default=4, help="of the engines (default: 4)")
    parser.add_argument(
        "--gateway", choices=("tensorzero", "none"), default="tensorzero", help="(default: tensorzero)"
    )
    parser.add_argument("--engine-cores", **ENGINE_CORES)
    options = parser.parse_args()
    rates, flips = list[list[object]](), list[list[object]]()
    crowd = options.users, options.each, options.n, options.engine_cores
    with deployed(
        "bench-crowd",
        engine="ollama",
        cutover="hold",
        parallel=options.parallel,
        gateway=options.gateway,
    ) as project:
        rates.append(tokens(project, "ollama", *crowd))
        flips.append(flipped(project, "vllm", options.flip_users))
        rates.append(tokens(project, "vllm", *crowd))
        flips.append(flipped(project, "ollama", options.flip_users))
    cores = options.engine_cores or "all"
    print(
        f"{options.users} users, engines that work on {options.parallel} at one time, "
        f"gateway: {options.gateway}, engine on cores {cores}, {machine()}; tokens/s\n"
    )
    ways = (DIRECT, "from … to", THROUGH, "from … to")
    print(table(("engine", "rounds", "answers a round", "tokens each", *ways, "ratio", "lost"), rates))
    print(f"\nA change of the engine under {options.flip_users} users, by hold; seconds\n")
    print(table(("to", "requests", "failed or cut", "drain", "held", "longest request"), flips))
    raise SystemExit(any(row[-1] for row in rates) or any(row[2] for row in flips))


if __name__ == "__main__":
    main_guard(main)
