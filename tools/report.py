"""`make report`: both engines of a stack on its own card, beside what is claimed of them.

A growing number of users asks the active engine, and then the standby, which gets the GPU inside a change
that is never committed: requests wait meanwhile, and the active engine comes back at the end, or by the
switch's lease if this is killed. TRAFFIC=yesterday also asks both as users did in yesterday's busiest minute.
"""

import argparse
import base64
import contextlib
import datetime
import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from advise.again import Excerpt, busiest
from common import ROOT, StepFailed, main_guard, say, write_whole
from components.code import Code
from components.containers import NOBODY
from components.engines import PORT, EngineSpec
from components.naming import NAMES
from components.proxy import WHEELS_MOUNT
from measure import report as reports
from measure.levels import LEVELS, row
from measure.report import UserLimits
from measure.sweep import Sweep
from stacks.settings import RENDERED
from tools.advise import midnight, requests_of
from tools.ask import agree
from tools.standby import (
    TAKEN_BACK,
    Host,
    Pair,
    brought_back_on_sigterm,
    docker,
    pair,
    standby,
    waits,
)
from traffic.load import HOUR

TOKENS, PROMPT = 128, 256
"""Of an answer, and of a prompt."""
SECONDS, PATIENCE = 10.0, 60.0
"""Of a number of users in which requests begin, and after which an answer that is not whole is bad."""
SWEEP_SECONDS = 300.0
"""After so long no greater number of users is asked as: requests wait."""
REPLAY_SECONDS = 60.0
MISSED = 2
"""After so many numbers of users in a row that were not served no greater one is asked as."""
MEMORY = "512m"
EVERY_SECONDS = 1.0
SAMPLES = 300
"""So many are kept, at most."""

BOOT = """
import base64, sys
open("/tmp/measure.zip", "wb").write(base64.b64decode(sys.stdin.readline()))
sys.path.insert(0, "/tmp/measure.zip")
from measure import client
client.main()
"""
"""Takes the code that is to run from stdin, so that nothing has to be on the Docker host before."""


class Asker:
    """A container on the stack's network in which `measure.client` runs. It ends with whoever began it."""

    def __init__(self, stack: str, proxy: str) -> None:
        (seen,) = json.loads(docker("inspect", proxy).stdout)
        (wheels,) = (each["Name"] for each in seen["Mounts"] if each["Destination"] == WHEELS_MOUNT)
        (network, *_) = seen["NetworkSettings"]["Networks"]
        self._process = subprocess.Popen(
            [
                *(
                    "docker",
                    "run",
                    "--rm",
                    "-i",
                    "--name",
                    f"changeover-{stack}-report-{secrets.token_hex(4)}",
                ),
                *("--network", network, "--memory", MEMORY, "--cap-drop", "ALL", "--user", NOBODY),
                *("--read-only", "--tmpfs", "/tmp", "-v", f"{wheels}:{WHEELS_MOUNT}:ro"),
                *("-e", f"PYTHONPATH={WHEELS_MOUNT}", "-e", "PYTHONDONTWRITEBYTECODE=1"),
                *(seen["Image"], "python3", "-c", BOOT),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tell(base64.b64encode(Code("measure").zip()).decode())

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise StepFailed("the program that asks the engines has ended; the reason is above") from None

    def __call__(self, plan: Mapping[str, Any]) -> Any:
        """What the asking program answers to a plan. Raises StepFailed."""
        self._tell(json.dumps(plan))
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise StepFailed("the program that asks the engines has ended; the reason is above")
        return json.loads(line)

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Watcher:
    """What the stack's switch sees, once a second, as long as this is open. `at` of a sample is the time of
    this machine's monotonic clock, other times are in seconds, too."""

    def __init__(self, host: Host) -> None:
        self.samples: list[dict[str, Any]] = []
        self.cores = 0
        words = ["docker", "exec", "-i", host.switch_name, "python3", "-m", "switch", "observe"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._process.kill()
        self._thread.join()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe
                pipe.close()

    def _look(self) -> None:
        assert self._process.stdin and self._process.stdout
        before: Mapping[str, float] | None = None
        while not self._over.is_set():
            try:
                self._process.stdin.write("\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except OSError:
                return
            if not line:
                return
            said = json.loads(line)
            if "status" in said:
                self.samples.append(sample(said, before, time.monotonic()))
                before, self.cores = said["cpu"], said["cpu"]["count"]
            self._over.wait(EVERY_SECONDS)

    def window(self) -> "MeteredSpan":
        """A meter of what is seen until it is left."""
        return MeteredSpan(self)


def sample(said: Mapping[str, Any], before: Mapping[str, float] | None, at: float) -> dict[str, Any]:
    """A sample from one line of `switch observe`; None stands for what nobody reports."""
    status, cpu = said["status"], said["cpu"]
    gpus = status["gpus"] if isinstance(status["gpus"], list) else []
    proxies = [each for each in status["proxies"].values() if each]
    ticks = cpu["all"] - before["all"] if before else 0
    return {
        "at": at,
        "busy": _mean([each["busy"] for each in gpus]),
        "watts": _sum([each["watts"] for each in gpus]),
        "memory": _sum([each["used"] and each["used"] / 2**20 for each in gpus]),
        "cpu": 100 * (cpu["busy"] - before["busy"]) / ticks if before and ticks else None,
        "running": sum(sum(each["running"].values()) for each in proxies),
        "waiting": sum(each["held"] for each in proxies),
        "held": status["held_since"] is not None,
    }


def _known(values: Sequence[float | None]) -> list[float]:
    return [each for each in values if each is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return sum(known) / len(known) if known else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return sum(known) if known else None


class MeteredSpan:
    """What the host's GPUs did meanwhile; `found` is as `measure.meter.summary` says it."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self._since = watcher, 0.0
        self.found: dict[str, float] = {}

    def __enter__(self) -> "MeteredSpan":
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seen = [each for each in self._watcher.samples if each["at"] >= self._since]
        values = {
            "busy": _mean([each["busy"] for each in seen]),
            "power": _mean([each["watts"] for each in seen]),
            "memory": max(_known([each["memory"] for each in seen]), default=None),
        }
        self.found = {name: value for name, value in values.items() if value is not None}


class Measurement:
    """One run: both engines by the same sweep, and all that happens meanwhile."""

    def __init__(self, both: Pair, options: argparse.Namespace, traffic: Excerpt | None) -> None:
        settings = both.settings
        self.both, self.traffic = both, traffic
        self.limits = UserLimits(settings.report_first_token, settings.report_tokens_per_second)
        self.lost: threading.Event | None = None
        self.levels: dict[str, list[dict[str, Any]]] = {}
        self.again: dict[str, dict[str, Any]] = {}
        self.spans: list[tuple[float, float, str, bool]] = []
        self._until = 0.0
        self.sweep = Sweep(
            ask=self._nobody,
            model=settings.name,
            levels=options.levels,
            tokens=options.tokens,
            prompt=options.prompt,
            seconds=options.seconds,
            patience=PATIENCE,
            say=lambda line: print(f"  {line}", flush=True),
            keep=self._keep,
        )

    def _nobody(self, plan: Mapping[str, Any]) -> Any:
        raise AssertionError(plan)

    @property
    def at_most(self) -> float:
        """For how many seconds one engine is asked, at most."""
        each = self.sweep.seconds + PATIENCE
        levels = min(len(self.sweep.levels) * each, SWEEP_SECONDS + each)
        return levels + (REPLAY_SECONDS + PATIENCE if self.traffic else 0)

    def _keep(self, level: Mapping[str, Any]) -> None:
        if self.lost and self.lost.is_set():
            raise StepFailed(TAKEN_BACK)

    def _enough(self, levels: Sequence[Mapping[str, Any]]) -> bool:
        missed = levels[-MISSED:]
        return time.monotonic() > self._until or (
            len(missed) == MISSED and not any(map(self.limits.hold, missed))
        )

    def of(self, spec: EngineSpec, container: str) -> float:
        """Measures what answers there now; for how many seconds."""
        began, url = time.monotonic(), f"http://{container}:{PORT}"
        self._until = began + SWEEP_SECONDS
        try:
            self.levels[spec.kind] = self.sweep.engine(spec.kind, {"": url}, self._enough)
        except SystemExit as error:  # nothing good comes of asking it
            raise StepFailed(str(error)) from None
        if self.traffic:
            asked = self.sweep.again(url, self.traffic.asked)
            self.again[spec.kind] = row(asked, len(asked))
            print(f"  {len(asked)} requests of yesterday, replayed", flush=True)
            self._keep({})
        ended = time.monotonic()
        self.spans.append((began, ended, f"{NAMES[spec.kind]} is measured", False))
        return ended - began


def of_yesterday(stack: str, context: int, now: float) -> Excerpt:
    """Yesterday's busiest minute. Raises StepFailed where no request of yesterday is in the log."""
    until = midnight(now)
    requests, _ = requests_of(stack, until - 24 * HOUR)
    found = busiest([each for each in requests if each.began < until], REPLAY_SECONDS, context)
    if found is None:
        raise StepFailed(
            "the access log has no answered request of yesterday (UTC). To measure without TRAFFIC: make "
            f"report STACK={stack}"
        )
    return found


def card(both: Pair, cores: int) -> str:
    """What the engines run on, in words, by the settings."""
    gpu = both.settings.gpu
    if gpu is None:
        return f"a CPU with {cores} cores"
    return gpu.name if gpu.count == 1 else f"{gpu.count} {gpu.name}"


def driver(host: Host, both: Pair) -> str:
    """What the card calls itself, and its driver; empty without a card."""
    if both.settings.gpu is None:
        return ""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    done = docker("exec", host.switch_name, *query, check=False)
    said = done.stdout.strip().splitlines()
    return f" ({said[0]})" if done.returncode == 0 and said else " (driver unknown)"


def loading(change: Mapping[str, Any] | None, phase: str = "loading") -> float | None:
    """How long a change needed for a step."""
    found = [step["seconds"] for step in (change or {}).get("steps", []) if step["phase"] == phase]
    return sum(found) if found else None


def engine_of(both: Pair, spec: EngineSpec, measured: Measurement, start: float | None) -> dict[str, Any]:
    """What the report says of one engine, which needed `start` seconds until it served."""
    load = both.settings.load
    return reports.engine(
        measured.levels[spec.kind],
        measured.limits,
        start,
        name=spec.name,
        version=f"{spec.image.name} {spec.image.version}",
        quantization=load.quantization_of(spec.kind),
        kv_cache=spec.kv_cache,
        context=load.context,
        parallel=spec.parallel,
        command=spec.command_line,
    )


@contextlib.contextmanager
def asking(both: Pair, measured: Measurement) -> Iterator[Watcher]:
    """Whoever asks, and whoever watches, until both engines were measured."""
    stack = both.settings.stack
    proxies = both.host.containers("proxy", "--filter", "status=running")
    if not proxies:
        raise StepFailed(f"no proxy of stack `{stack}` runs. Look with: make status STACK={stack}")
    with Watcher(both.host) as watcher, Asker(stack, proxies[0]) as asker:
        measured.sweep.ask, measured.sweep.meter = asker, watcher.window
        yield watcher


def report(stack: str, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measures, writes the three files of `rendered/<stack>/`, and returns the report. Raises StepFailed."""
    both, now = pair(stack, root), time.time()
    traffic = of_yesterday(stack, both.settings.context, now) if options.traffic else None
    measured = Measurement(both, options, traffic)
    ours, other, host = both.ours.active, both.other.active, both.host
    before = host.status()["last"]
    say(
        f"{NAMES[ours.kind]}, which serves, is measured first, with a growing number of users, for "
        f"{measured.at_most:.0f} s at most: the endpoint's own users share it meanwhile. Then "
        f"{NAMES[other.kind]} is measured, the standby."
    )
    waits(both, measured.at_most, "measuring", at_most=True)
    agree("Go on?", "report", stack)
    began = time.monotonic()
    with asking(both, measured) as watcher:
        took = measured.of(ours, both.active)
        others = max((each["running"] for each in watcher.samples), default=0)
        waits(both, took, "measuring")
        with standby(host, both.other, "measuring it") as (container, lost):
            measured.lost = lost
            measured.of(other, container)
            measured.lost = None
    last = host.status()["last"]
    starts: dict[str, float | None] = {other.kind: loading(last), ours.kind: loading(last, "restoring")}
    remarks = [
        f"{NAMES[ours.kind]}'s start was measured when it was brought back at the end, and includes "
        "the stop of the other."
    ]
    if before and before["container"] == both.active and before["phase"] == "committed" and loading(before):
        starts[ours.kind], remarks = loading(before), []
    if others:
        remarks.append(
            f"While {NAMES[ours.kind]} was measured, it also had up to {others} requests of users."
        )
    content = contents(both, measured, watcher, began, last, starts, remarks, now)
    write(root, stack, content)
    return content


def contents(
    both: Pair,
    measured: Measurement,
    watcher: Watcher,
    began: float,
    last: Mapping[str, Any],
    starts: Mapping[str, float | None],
    remarks: Sequence[str],
    now: float,
) -> dict[str, Any]:
    """The report as data."""
    settings, traffic = both.settings, measured.traffic
    engines: dict[str, dict[str, Any]] = {
        spec.kind: engine_of(both, spec, measured, starts[spec.kind])
        for spec in sorted(both.ours.specs, key=lambda spec: spec.kind)
    }
    shift = time.time() - time.monotonic()
    spans, held = [*measured.spans], bool(last["held_seconds"])
    for step in last["steps"]:
        at, until = step["at"] - shift, step["at"] - shift + step["seconds"]
        if step["phase"] == "prepared":  # the standby is measured then
            spans = [(a, b, what, held if at <= a < until else shaded) for a, b, what, shaded in spans]
        elif step["seconds"] >= EVERY_SECONDS:
            spans.append((at, until, step["phase"], held))
    return {
        "stack": settings.stack,
        "day": datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat(),
        "model": settings.model.name,
        "card": card(both, watcher.cores),
        "driver": driver(both.host, both),
        "limits": {"first_p95": measured.limits.first, "user": measured.limits.tokens},
        "asked": {name: getattr(measured.sweep, name) for name in ("levels", "tokens", "prompt", "seconds")},
        "engines": engines,
        "claims": reports.claims(engines, measured.limits),
        "held": {
            "seconds": last["held_seconds"] or 0,
            "requests": max((each["waiting"] for each in watcher.samples if each["held"]), default=0),
        },
        "remarks": list(remarks),
        "timeline": {
            "samples": [
                {
                    name: round(value - (began if name == "at" else 0), 2)
                    if isinstance(value, float)
                    else value
                    for name, value in each.items()
                }
                for each in watcher.samples[:: -(-len(watcher.samples) // SAMPLES) or 1]
            ],
            "spans": [
                [round(max(0, begins - began), 1), round(ends - began, 1), what, shaded]
                for begins, ends, what, shaded in sorted(spans)
            ],
        },
        "traffic": traffic
        and {
            "requests": len(traffic.asked),
            "from": _clock(traffic.begins),
            "until": _clock(traffic.ends),
            "seconds": traffic.ends - traffic.begins,
            "engines": {kind: measured.again[kind] for kind in sorted(measured.again)},
        },
    }


def _clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def write(root: Path, stack: str, content: Mapping[str, Any]) -> None:
    """Writes a report's three files into the stack's rendered folder, and prints it."""
    folder = root / RENDERED / stack
    folder.mkdir(parents=True, exist_ok=True)
    text = reports.markdown(content)
    texts = (json.dumps(content, indent=1) + "\n", text, reports.page(content))
    for name, each in zip(reports.FILES, texts, strict=True):
        write_whole(folder / name, each)
    say(f"\n{text}\nwritten to rendered/{stack}/{', '.join(reports.FILES)}")


def numbers(text: str) -> tuple[int, ...]:
    """The integers of a list such as `1,2,4`, in ascending order."""
    return tuple(sorted({int(each) for each in text.split(",")}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    every = ",".join(map(str, LEVELS))
    parser.add_argument("stack")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    parser.add_argument("--levels", type=numbers, default=LEVELS, help=f"users at once (default: {every})")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of an answer (default: {TOKENS})")
    parser.add_argument("--prompt", type=int, default=PROMPT, help=f"tokens of a prompt (default: {PROMPT})")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"of a level in which requests begin (default: {SECONDS:g})",
    )
    options = parser.parse_args()
    asked = os.environ.get("TRAFFIC", "")
    if asked not in ("", "yesterday"):
        raise StepFailed(
            f"TRAFFIC={asked} cannot work; it must be yesterday. Run: "
            f"TRAFFIC=yesterday make report STACK={options.stack}"
        )
    options.traffic = bool(asked)
    brought_back_on_sigterm()
    report(options.stack, options.root, options)


if __name__ == "__main__":
    main_guard(main)
