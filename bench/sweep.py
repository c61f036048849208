"""What a growing number of users gets from both engines: through the endpoint, and from the engine itself.

Run: `python -m bench.sweep`. It deploys a stack on this machine's Docker engine. With --url it asks what is
there, a stack of yours or an engine, and deploys nothing; its API key, if it needs one, is taken from
OPENAI_API_KEY. With --read it asks nobody, and prints and draws what --json has kept.

All users of a level ask at once, and ask again as soon as they are answered, with prompts and answers of the
same lengths; no two prompts begin alike. At each level both ways have their turns. The table's times are
seconds, but for the milliseconds `for each token`. Tokens are those that the engine's `usage` says.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.crowd import DIRECT, THROUGH, network
from bench.stack import deployed, machine, table
from bench.ways import EDGE_PORT, Client
from common import main_guard
from components.engines import PORT
from measure.client import here
from measure.levels import COLUMNS, LEVELS, cells
from measure.picture import picture
from measure.sweep import Sweep

ASKED = ("levels", "tokens", "prompt", "each", "least", "seconds")
"""The options that are fields of a `Sweep`, too."""


def asks(inside: Client, plan: Mapping[str, Any]) -> Any:
    """Carries out a plan of `measure.client` from a container in the stack's network."""
    return inside.do(plan["do"], **plan)


def stacks(options: argparse.Namespace, sweep: Sweep) -> list[dict[str, Any]]:
    """The levels of both engines, one after the other, in a stack that is deployed for it."""
    found = list[dict[str, Any]]()
    with deployed(
        "bench-sweep",
        fast=options.engine == "fast",
        engine="ollama",
        cutover="hold",
        parallel=options.parallel,
        gateway=options.gateway,
    ) as project:
        for kind in ("ollama", "vllm"):
            if kind == "vllm":
                sweep.say("to vllm")
                project.configure(engine=kind)
                project.up()
            (edge,) = project.containers("edge")
            ways = {DIRECT: f"{project.live()}:{PORT}", THROUGH: f"{edge}:{EDGE_PORT}"}
            with Client(network(project)) as inside:
                sweep.ask = partial(asks, inside)
                found += sweep.engine(kind, {way: f"http://{place}" for way, place in ways.items()})
    return found


def prompt_of(levels: Sequence[Mapping[str, Any]]) -> str:
    """The median length of the prompts in tokens, as the engines counted them; `-` if they didn't."""
    counted = [level["prompt"] for level in levels if level["prompt"]]
    return f"{statistics.median(counted):.0f}" if counted else "-"


def numbers(text: str) -> tuple[int, ...]:
    """The integers of a list such as `1,2,4`."""
    return tuple(int(each) for each in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    every = ",".join(map(str, LEVELS))
    parser.add_argument("--levels", type=numbers, default=LEVELS, help=f"users at once (default: {every})")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (default: 64)")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument("--each", type=int, default=2, help="answers for each user (default: 2)")
    parser.add_argument("--least", type=int, default=8, help="answers of a level at least (default: 8)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of a level in which requests begin (default: 60)"
    )
    parser.add_argument("--parallel", default="auto", help="of the engines, as the setting (default: auto)")
    parser.add_argument(
        "--gateway", choices=("tensorzero", "none"), default="tensorzero", help="(default: tensorzero)"
    )
    parser.add_argument(
        "--engine", choices=("real", "fast"), default="real", help="`fast`: the test engine (default: real)"
    )
    parser.add_argument("--url", help="ask this instead, such as http://127.0.0.1:8080")
    parser.add_argument("--model", default="tiny", help="with --url (default: tiny)")
    parser.add_argument("--name", default="-", help="with --url: the engine, for the table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add each level to it as a line of JSON")
    parser.add_argument("--read", type=Path, metavar="FILE", help="ask nobody: print and draw these levels")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write an SVG")
    options = parser.parse_args()

    def keep(level: Mapping[str, Any]) -> None:
        if options.json:
            with options.json.open("a") as lines:
                lines.write(json.dumps(level) + "\n")

    if options.read:
        levels = [json.loads(line) for line in options.read.read_text().splitlines()]
        about = f"as in {options.read}"
    else:
        sweep = Sweep(
            ask=here,
            model=options.model,
            keep=keep,
            key=os.environ.get("OPENAI_API_KEY", "") if options.url else "",
            **{each: getattr(options, each) for each in ASKED},
        )
        if options.url:
            root = options.url.removesuffix("/").removesuffix("/v1")
            levels = sweep.engine(options.name, {root: root})
            about = f"{options.model} at {root}"
        else:
            levels = stacks(options, sweep)
            about = f"parallel: {options.parallel}, gateway: {options.gateway}, {machine()}"
    rows = [cells(level) for level in levels]
    print(f"{about}; prompts of {prompt_of(levels)} tokens\n\n{table(COLUMNS, rows)}")
    if options.picture:
        options.picture.write_text(picture(levels))
    raise SystemExit(any(level["bad"] for level in levels))


if __name__ == "__main__":
    main_guard(main)
