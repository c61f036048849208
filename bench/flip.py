"""Flips back and forth under load. Every request must be answered whole, unless its client hangs up on it.

Run: `python -m bench.flip -n 25`. It deploys a stack on this machine's Docker engine; `--engine fast` takes
the test engine in the place of both real engines.

Each flip is a real `pulumi up`. Its result is appended to a file as soon as it has ended: if the program is
run again, it continues, and the table is over all flips in the file. Durations are in seconds. `beyond` is
the hold without the drain and without the engine's own loading, gate included: what the change itself costs
its users. `ours` is the whole update without these two.
"""

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import picture
from bench.flips import COLUMNS, FlipRecord, record, summary
from bench.stack import deployed, kept, machine, table
from common import main_guard
from switch.protocols import PROTOCOLS
from tests.support.load import LoadGenerator
from tests.support.project import Project, free_port

PAUSE = {"real": 0.5, "fast": 0.1}
"""Seconds between two requests of a client, by the kind of the engines: real ones need the machine's cores
for themselves, too."""

ALERTS_SECONDS = 25
"""After the last flip: by then the alerts, which look every 15 s, have seen all that was scraped of it."""

MARKS = {
    "draining": "drained",
    "stopping": "old engine stopped",
    "loading": "loaded and gated",
    "starting": "released",
    "retiring": "old side gone",
}
"""What has happened when a phase of a change ends, in the words of the picture."""


def flip(project: Project, load: LoadGenerator, engine: str, mode: str, way: str, first: int) -> FlipRecord:
    """One flip to `engine` with the setting `cutover` at `mode`; the table calls it `way`.

    The record has the requests since the flip before it, in it and after it: those of the load from number
    `first` on.
    """
    project.configure(engine=engine, cutover=mode)
    offset, began = time.time() - time.monotonic(), time.monotonic()
    project.up()
    ended = time.monotonic()
    load.wait_for_answers(load.round)
    last = json.loads(project.switch("status", "--json"))["last"]
    seconds = {step["phase"]: step["seconds"] for step in last["steps"]}
    ends = {step["phase"]: step["at"] + step["seconds"] - offset - began for step in last["steps"]}
    hold_began = next((step["at"] for step in last["steps"] if step["phase"] == "draining"), None)
    drain, loading = seconds.get("draining", 0.0), seconds["loading"]
    return record(
        way,
        engine,
        load.outcomes[first:],
        texts=load.outcomes,
        began=began,
        ended=ended,
        hold=last["held_seconds"] if mode == "hold" else 0.0,
        held_from=None if hold_began is None else hold_began - offset - began,
        beyond=last["held_seconds"] - drain - loading if mode == "hold" else None,
        marks=[["pulumi up", 0.0], *([MARKS[phase], at] for phase, at in ends.items() if phase in MARKS)],
        drain=drain,
        loading=loading,
        ours=ended - began - drain - loading,
    )


def inputs(project: Project) -> dict[str, Any]:
    """What every resource of the state was declared with, by its URN. The name of the gateway's container
    ends at random, and is replaced in it."""
    # in plain text: a secret is encrypted anew in each update, and would differ
    text = project.pulumi("stack", "export", "--show-secrets")
    for gateway in project.containers("gateway"):
        text = text.replace(gateway, "GATEWAY")
    state = json.loads(text)
    return {each["urn"]: each.get("inputs") for each in state["deployment"]["resources"]}


def before_flips(project: Project, modes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The inputs of all resources in each mode, with the first engine and before any flip.

    The first of the modes is the one that is set afterwards.
    """
    known = {}
    for mode in reversed(modes):
        project.configure(engine="ollama", cutover=mode)
        project.up()
        known[mode] = inputs(project)
    return known


def check(project: Project, before: dict[str, Any]) -> None:
    """After a flip back to the first engine: raises SystemExit unless the preview is empty and all inputs are
    those `before` the first flip."""
    if changes := project.changes():
        raise SystemExit(f"the preview after the way back is not empty: {changes}")
    if found := different(before, inputs(project)):
        raise SystemExit(f"the way back left other inputs behind: {found}")


def different(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The URNs of the resources that are on one side only, or have other inputs on the other side."""
    return sorted(urn for urn in before.keys() | now.keys() if before.get(urn) != now.get(urn))


def fired(port: int, since: float) -> list[str]:
    """The alerts that the monitor at this port has had since then, in seconds since the epoch."""
    asked = {"query": 'ALERTS{alertstate="firing"}', "start": since, "end": time.time(), "step": 5}
    url = f"http://127.0.0.1:{port}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return sorted({line["metric"]["alertname"] for line in json.load(answer)["data"]["result"]})


def show(flips: list[FlipRecord]) -> str:
    """The table over all of these flips, with one row for each way and engine."""
    ways = dict.fromkeys((each["way"], each["to"]) for each in flips)
    rows = [
        summary(f"{way} to {to}", [each for each in flips if (each["way"], each["to"]) == (way, to)])
        for way, to in ways
    ]
    return table(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mode", choices=("hold", "overlap", "both"), default="both", help="(default: both)")
    parser.add_argument("-n", type=int, default=3, help="flips there and back in each mode (default: 3)")
    parser.add_argument("--clients", type=int, default=4, help="clients of the load (default: 4)")
    parser.add_argument(
        "--aborts", type=int, default=8, help="hang up on one request of so many; 0: on none (default: 8)"
    )
    parser.add_argument("--engine", choices=("real", "fast"), default="real", help="(default: real)")
    parser.add_argument(
        "--delay", type=float, default=0, help="seconds that a fast engine needs to start (default: 0)"
    )
    parser.add_argument(
        "--protocols",
        choices=("chat", "all"),
        default="chat",
        help="what clients speak: chat, or all four protocols in turn (default: chat)",
    )
    parser.add_argument(
        "--gateway", choices=("tensorzero", "none"), default="tensorzero", help="(default: tensorzero)"
    )
    parser.add_argument(
        "--every", type=int, default=10, help="check the preview every N rounds (default: 10)"
    )
    parser.add_argument(
        "--monitor", action="store_true", help="with a monitor: say which alerts fire; any is a failure"
    )
    parser.add_argument(
        "--stack", help="its name; two runs on one host need two, and two files (default: bench-flip-ENGINE)"
    )
    parser.add_argument("--json", type=Path, help="the file of results (default: flips-ENGINE.jsonl)")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing")
    parser.add_argument("--picture", type=Path, help="an SVG of the last two flips")
    options = parser.parse_args()
    if options.delay and options.engine != "fast":
        parser.error("--delay is of --engine fast")
    file: Path = options.json or Path(f"flips-{options.engine}.jsonl")
    if options.fresh:
        file.unlink(missing_ok=True)
    modes = ("hold", "overlap") if options.mode == "both" else (options.mode,)
    checks, taken, alerts = 0, 0, list[str]()
    port, began = free_port(), time.time()
    monitor: dict[str, object] = {"monitor": True, "monitorPort": port} if options.monitor else {}
    without = ", no gateway" if options.gateway == "none" else ""
    stack = options.stack or f"bench-flip-{options.engine}"
    fast = options.engine == "fast"
    with deployed(stack, fast=fast, delay=options.delay, gateway=options.gateway, **monitor) as project:
        known = before_flips(project, modes)
        outputs = project.outputs()
        with LoadGenerator(
            outputs["endpoint"],
            outputs["model"],
            clients=options.clients,
            pause=PAUSE[options.engine],
            aborts=options.aborts,
            protocols=list(PROTOCOLS) if options.protocols == "all" else ["chat"],
        ) as load:
            load.wait_for_answers(load.round)
            for number in range(options.n):
                for mode in modes:
                    for engine in ("vllm", "ollama"):
                        one = flip(project, load, engine, mode, f"{mode}{without}", taken)
                        taken += len(one["requests"])
                        with file.open("a") as out:
                            out.write(json.dumps(one) + "\n")
                        lost = [each[3] for each in one["requests"] if each[3]]
                        print(
                            f"{number + 1}: {mode} to {engine} {one['length']:.1f} s, lost: {lost[:3]}",
                            file=sys.stderr,
                            flush=True,
                        )
                    if number % options.every == 0 or number == options.n - 1:
                        check(project, known[mode])
                        checks += 1
        if options.monitor:
            time.sleep(ALERTS_SECONDS)
            alerts = fired(port, began)
    flips = kept(file)
    hang_up = f" that hang up on one of {options.aborts} requests" if options.aborts else ""
    print(
        f"Flips of {options.engine} engines under {options.clients} clients{hang_up}, protocols: "
        f"{options.protocols}, {machine()}; seconds\n"
    )
    print(show(flips))
    print(
        "\nThe preview was empty, and every input what it was before the first flip, in "
        f"{checks} of {checks} checks of this run."
    )
    if options.monitor:
        print(f"\nAlerts that fired in this run: {', '.join(alerts) or 'none'}.")
    if options.picture:
        picture.draw({f"{each['way']} to {each['to']}": each for each in flips[-2:]}, options.picture)
    raise SystemExit(bool(alerts) or any(each[3] for one in flips for each in one["requests"]))


if __name__ == "__main__":
    main_guard(main)
