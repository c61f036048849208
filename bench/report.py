"""`make report` and the sweep on one stack: whether they say the same of each engine.

Run: `python -m bench.report`. It deploys a stack with both real engines on this machine's Docker engine.

In each round `make report` measures both engines, of which one gets the card only for that. Then the sweep
asks each engine itself, while that one serves, with the same prompts and lengths. The table has medians over
the rounds: tokens per second in all, and the median and p95 of the seconds until the first token. The tokens
of prompts and answers must be equal.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.crowd import ENGINE_CORES, keep_to, network
from bench.stack import deployed, machine, table
from bench.sweep import asks, numbers
from bench.ways import Client
from common import ROOT, StepFailed, main_guard
from components.engines import PORT
from measure.report import FILES
from measure.sweep import Sweep
from stacks.settings import RENDERED
from tests.support.project import Project

STACK = "bench-report"
MEASURES = {"rate": "tokens/s", "first_p50": "first token", "first_p95": "first token, p95"}
LENGTHS = "prompt", "tokens"
"""What must be equal."""


def reported(project: Project, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The levels of each engine in the report that `make report` writes. Raises StepFailed."""
    lengths = ("--tokens", options.tokens, "--prompt", options.prompt, "--seconds", options.seconds)
    levels = ",".join(map(str, options.levels))
    words = ["-m", "tools.report", STACK, "--root", project.folder, "--levels", levels, *lengths]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**project.for_tools, "YES": "1"},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode != 0:
        raise StepFailed("`make report` failed; the reason is above")
    report = json.loads((project.folder / RENDERED / STACK / FILES[0]).read_text())
    return {kind: engine["levels"] for kind, engine in report["engines"].items()}


def swept(project: Project, kind: str, sweep: Sweep) -> list[dict[str, Any]]:
    """The sweep's levels of the engine that serves."""
    with Client(network(project)) as inside:
        sweep.ask = partial(asks, inside)
        return sweep.engine(kind, {"": f"http://{project.live()}:{PORT}"})


Found = dict[tuple[str, int], list[Mapping[str, Any]]]


def rows(report: Found, sweep: Found) -> list[list[object]]:
    """The table: a row for each engine and number of users."""
    found = list[list[object]]()
    for (kind, users), levels in report.items():
        row: list[object] = [kind, users, len(levels)]
        for measure in MEASURES:
            ours, theirs = (
                statistics.median(level[measure] for level in of[kind, users]) for of in (report, sweep)
            )
            row += [f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}"]
        found.append(row)
    return found


def unequal(report: Found, sweep: Found) -> list[str]:
    """Where lengths differ or an answer is bad, in words."""
    return [
        f"{kind}, {users} users: {what} is {ours[what]} in the report and {theirs[what]} in the sweep"
        for (kind, users), levels in report.items()
        for ours, theirs in zip(levels, sweep[kind, users], strict=True)
        for what in (*LENGTHS, "bad")
        if ours[what] != theirs[what] or (what == "bad" and ours[what])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=2, help="rounds (default: 2)")
    parser.add_argument("--levels", type=numbers, default=(1, 4, 16), help="users at once (default: 1,4,16)")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer (default: 256)")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument(
        "--seconds", type=float, default=10, help="of a level in which requests begin (default: 10)"
    )
    parser.add_argument("--engine-cores", **ENGINE_CORES)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the last report's files there")
    options = parser.parse_args()
    report, sweep = Found(), Found()
    with deployed(STACK, engine="ollama", cutover="hold") as project:
        asked = Sweep(
            ask=lambda plan: None,
            model=project.outputs()["model"],
            **{each: getattr(options, each) for each in ("levels", "tokens", "prompt", "seconds")},
        )
        if options.engine_cores:
            keep_to(project, options.engine_cores)
        for number in range(options.n):
            said = reported(project, options)
            for kind, levels in said.items():
                for level in levels:
                    report.setdefault((kind, level["users"]), []).append(level)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                for name in FILES:
                    text = (project.folder / RENDERED / STACK / name).read_text()
                    (options.keep / name).write_text(text)
            order = ("ollama", "vllm") if number % 2 == 0 else ("vllm", "ollama")
            for kind in order:  # the first one serves
                if f"-{kind}-" not in project.live():
                    project.configure(engine=kind)
                    project.up()
                asked.levels = [level["users"] for level in said[kind]]
                for level in swept(project, kind, asked):
                    sweep.setdefault((kind, level["users"]), []).append(level)
    header = ["engine", "users", "rounds"]
    for measure in MEASURES.values():
        header += [f"{measure}: report", "sweep", "ratio"]
    cores = options.engine_cores or "all"
    print(
        f"{options.n} rounds, engines on cores {cores}, {machine()}\n\n{table(header, rows(report, sweep))}"
    )
    wrong = unequal(report, sweep)
    print("\n".join(wrong))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main_guard(main)
