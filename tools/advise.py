"""`make advise`: how many concurrent requests there were, hour by hour, and which engine they speak for.

It reads what the stack's monitor has kept, where there is one, and else the proxies' access log. It changes
nothing. Where `make report` was run, it also says how many users the card serves with each engine.
"""

import argparse
import contextlib
import datetime
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

from advise.capacity import capacity
from advise.rule import DAYS, Advice, Day, advise, by_clock, days
from common import ROOT, StepFailed, main_guard, say
from components.monitor import STORE_PORT
from monitor.render import SCRAPE_SECONDS
from proxy.route import NOBODY
from stacks.settings import RENDERED, SettingsError, from_files
from tools import advice
from tools.status import NoContainer, containers_of
from traffic.load import (
    HOUR,
    Hour,
    LoggedRequest,
    Share,
    SteadySpan,
    Traffic,
    Window,
    engines,
    merged,
    most,
    of_log,
    of_samples,
    percentile,
    unwatched,
)
from traffic.log import requests

STORE_DAY = 24 * HOUR
SHOWN_TENANTS = 10


def midnight(now: float) -> float:
    """When the day (UTC) began."""
    return now // STORE_DAY * STORE_DAY


# the access log


def requests_of(stack: str, since: float) -> tuple[list[LoggedRequest], float | None]:
    """The log's requests that ended since then, and when the log begins. Raises StepFailed."""
    proxy = containers_of(stack, "proxy")[0]
    words = ["docker", "exec", proxy, "python3", "-m", "proxy.traffic", repr(since)]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip()
        if "No module named proxy.traffic" in why:
            why = f"it is of an older version. Run: pulumi up --stack {stack}"
        raise StepFailed(f"{proxy} can't read its log: {why}")
    return requests(done.stdout)


def from_log(stack: str, now: float) -> Traffic:
    """The traffic that the proxies' access log tells. Raises StepFailed."""
    since = midnight(now) - DAYS * STORE_DAY
    requests, begins = requests_of(stack, since)
    return of_log(requests, max(since, now if begins is None else begins), now, "the access log")


# the monitor's store

Series = list[tuple[dict[str, str], list[tuple[float, float]]]]


@dataclass
class Store:
    """The store of a stack's monitor, asked from inside the stack's network by its switch."""

    monitor: str
    process: subprocess.Popen[str]

    def ask(self, path: str, **query: object) -> Any:
        """The JSON that the store answers at `path`. Raises StepFailed."""
        assert self.process.stdin and self.process.stdout
        request = {
            "container": self.monitor,
            "port": STORE_PORT,
            "path": f"{path}?{urlencode(query)}",
            "method": "GET",
        }
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            said = json.loads(self.process.stdout.readline())
            if said.get("status") != 200:
                why = said.get("error") or said.get("body")
                raise StepFailed(f"the monitor's store does not answer: {why}")
            return json.loads(said["body"])["data"]["result"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StepFailed(f"the monitor's store can't be asked: {error!r}") from None

    def over(self, query: str, begins: float, ends: float, step: float) -> Series:
        """The values of an expression every `step` seconds, by their time."""
        found = self.ask("/api/v1/query_range", query=query, start=begins, end=ends, step=step, nocache=1)
        return [
            (each["metric"], [(float(at), float(value)) for at, value in each["values"]]) for each in found
        ]


@contextlib.contextmanager
def asked(stack: str, monitor: str) -> Iterator[Store]:
    """The store of the stack's monitor, to be asked. Raises StepFailed."""
    switch = containers_of(stack, "switch")[0]
    words = ["docker", "exec", "-i", switch, "python3", "-m", "switch", "exchange"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Store(monitor, process)
        finally:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def from_store(stack: str, monitor: str, now: float) -> Traffic:
    """Raises StepFailed, also where the store has nothing yet."""
    with asked(stack, monitor) as store:
        return stored(store, now)


def stored(store: Store, now: float) -> Traffic:
    """What a store knows. Raises StepFailed."""
    first = midnight(now) - DAYS * STORE_DAY
    line, holds, served = list[SteadySpan](), list[Window](), list[tuple[float, str]]()
    looks = list[tuple[float, float]]()
    for begins in (first + number * STORE_DAY for number in range(DAYS + 1)):
        ends = min(begins + STORE_DAY, now // SCRAPE_SECONDS * SCRAPE_SECONDS)
        if ends <= begins:
            continue
        line += samples(store, begins, ends)
        holds += _holds(store, begins, ends)
        served += _kinds(store, begins, ends)
        for _, values in store.over("max(changeover_host_boot_time_seconds)", begins, ends, 60):
            looks += values
    hours, tenants = _counts(store, first, now)
    if not line:
        raise StepFailed("the monitor's store does not have numbers of concurrent requests yet")
    since, holds = line[0].begins, merged(holds)
    traffic = Traffic(
        "the monitor's store", since, now, of_samples(line, holds, (since, now)), holds, engines(served, now)
    )
    traffic.unknown = unwatched(looks)
    for begins, ends, kind in traffic.served:
        for hour in of_samples(
            [each for each in line if begins <= each.begins < ends], holds, (max(begins, since), ends)
        ).values():
            traffic.by_kind.setdefault(kind, Hour()).add(hour)
    for at, counts in hours.items():
        if at in traffic.hours:
            mine = traffic.hours[at]
            mine.requests, mine.asked, mine.failed, mine.hung_up = (
                round(counts.get(what, 0)) for what in ("requests", "asked", "failed", "hung_up")
            )
    traffic.tenants = {name: each for name, each in tenants.items() if each.requests}
    return traffic


def samples(store: Store, begins: float, ends: float) -> Iterator[SteadySpan]:
    """How many there were, every SCRAPE_SECONDS. Where nobody waits or runs the proxies still say so, by
    `changeover_waiting`."""
    step = SCRAPE_SECONDS
    last = ends - step
    waiting = [
        each for _, values in store.over("sum(changeover_waiting)", begins, last, step) for each in values
    ]
    running = {
        at: value
        for _, values in store.over("sum(changeover_running)", begins, last, step)
        for at, value in values
    }
    for at, value in waiting:
        yield SteadySpan(at, at + step, round(running.get(at, 0)), round(value))


def _holds(store: Store, begins: float, ends: float) -> Iterator[Window]:
    """What the switch says to have held."""
    for _, values in store.over("max(changeover_held_duration_seconds)", begins, ends, SCRAPE_SECONDS):
        for at, seconds in values:
            if seconds > 0:
                yield at - seconds, at + SCRAPE_SECONDS / 2


def _kinds(store: Store, begins: float, ends: float) -> Iterator[tuple[float, str]]:
    for labels, values in store.over("max by (kind) (changeover_engine)", begins, ends, 60):
        for at, _ in values:
            yield at, labels["kind"]


def _counts(
    store: Store, begins: float, ends: float
) -> tuple[dict[float, dict[str, float]], dict[str, Share]]:
    """Requests and errors by hour, and what each tenant had of them; the last hour as far as it is."""
    hours: dict[float, dict[str, float]] = {}
    tenants: dict[str, Share] = {}
    for name, counter in (
        ("requests", "changeover_requests_total"),
        ("asked", f'changeover_requests_total{{engine!="{NOBODY}"}}'),
        ("failed", 'changeover_requests_total{status=~"5.."}'),
        ("failed", "changeover_cut_total"),
        ("hung_up", "changeover_hung_up_total"),
    ):
        for at, tenant, value in growth(store, counter, begins, ends):
            counts, share = hours.setdefault(at, {}), tenants.setdefault(tenant, Share())
            counts[name] = counts.get(name, 0) + value
            share.requests += round(value) if name == "requests" else 0
            share.failed += round(value) if name == "failed" else 0
    for sign, counter in ((1, "changeover_request_seconds_sum"), (-1, "changeover_held_seconds_sum")):
        for _, tenant, value in growth(store, counter, begins, ends):
            tenants.setdefault(tenant, Share()).work += sign * value
    return hours, tenants


def growth(store: Store, counter: str, begins: float, ends: float) -> Iterator[tuple[float, str, float]]:
    """By the beginning of each hour: a tenant, and by how much its counter grew in that hour.

    The store's `increase` counts from the last value before an hour, however old that is, and so also what
    came while the store was away. But where it knows of none it may take a small value for growth: there,
    in a series' first hour, what counts is the growth since its first value, which is 0 of a new series. That
    is decided by when a series begins in what is asked for, so all hours are asked for at once, and one more
    before them, which is left out.
    """
    hour = f"{counter}[1h]"
    known = f"range_first(tfirst_over_time({hour})) <= time() - {HOUR}"
    query = f"sum by (tenant) ((increase({hour}) and ({known})) or increase_prometheus({hour}))"
    for labels, values in store.over(query, begins, math.ceil(ends / HOUR) * HOUR, HOUR):
        for at, value in values:
            if at > begins:
                yield at - HOUR, labels.get("tenant", ""), value


# what is said


def known(stack: str, now: float) -> tuple[Traffic, str]:
    """The traffic, and why it is not from the monitor where there is one. Raises StepFailed."""
    try:
        monitor = containers_of(stack, "monitor")[0]
    except NoContainer:
        return from_log(stack, now), ""
    try:
        return from_store(stack, monitor, now), ""
    except StepFailed as error:
        return from_log(stack, now), str(error)


def report_of(stack: str) -> dict[str, Any] | None:
    """What `make report` has written; None where it was not run, or can't be read."""
    file = ROOT / RENDERED / stack / "report.json"
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        return None


def hours_table(traffic: Traffic) -> Table:
    """The hours of the day, all days together."""
    table = Table("hour (UTC)", "p50", "p95", "p99", "most", "requests", "failed", "hung up", "waiting")
    for column in table.columns[1:]:
        column.justify = "right"
    for clock, hour in by_clock(traffic).items():
        seconds = sum(hour.levels.values())
        if not hour.requests and not most(hour.levels):
            continue
        table.add_row(
            f"{clock:02}:00",
            *(str(percentile(hour.levels, share)) for share in (0.5, 0.95, 0.99)),
            *(str(each) for each in (most(hour.levels), hour.requests, hour.failed, hour.hung_up)),
            f"{100 * hour.crowded / seconds:.1f} %" if seconds > 0 else "-",
        )
    return table


def days_table(traffic: Traffic) -> Table:
    """A row for each day that had requests: its busiest hour, what was left out, and whether it counts."""
    table = Table("day (UTC)", "busiest hour", "p95", "most", "requests", "failed", "left out", "counts")
    for day in days(traffic):
        if not day.requests and not day.most:
            continue
        table.add_row(
            day.name,
            f"{day.busiest:02}:00",
            *(str(each) for each in (day.figure, day.most, day.requests, day.failed)),
            f"{day.left_out:.0f} s" if day.left_out else "",
            "yes" if day.counts else f"no: {_why_not(traffic, day)}",
        )
    return table


def _why_not(traffic: Traffic, day: Day) -> str:
    if traffic.until < _end(day.name):
        return "not over"
    return "no engine was asked" if day.whole else "not known in full"


def _end(day: str) -> float:
    begins = datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00")
    return (begins + datetime.timedelta(days=1)).timestamp()


def tenants_table(traffic: Traffic) -> Table:
    """A row for each tenant, the one with the largest share of the work first."""
    table = Table("tenant", "requests", "failed", "share of the work", "most at once")
    every = sum(share.work for share in traffic.tenants.values()) or 1
    order = sorted(traffic.tenants.items(), key=lambda each: -each[1].work)
    for name, share in order[:SHOWN_TENANTS]:
        table.add_row(
            name,
            str(share.requests),
            str(share.failed),
            f"{100 * share.work / every:.1f} %",
            "" if share.most is None else str(share.most),
        )
    return table


def remarks(traffic: Traffic) -> list[str]:
    """What a reader of the tables has to know."""
    said = [
        f"From {traffic.source}, {_clock(traffic.since)} to {_clock(traffic.until)} UTC. A request counts "
        "from its arrival until its answer ended; `waiting` is the share of the time in which at least one "
        "waited because the engine was busy."
    ]
    if traffic.holds:
        seconds = sum(hour.left_out for hour in traffic.hours.values())
        times = len(traffic.holds)
        said.append(
            f"Requests were held {'once' if times == 1 else f'{times} times'}; these times, and as long "
            f"again after each, are left out: {seconds:.0f} s in all."
        )
    if len(traffic.served) > 1:
        changes = ", ".join(f"{kind} from {_clock(begins)}" for begins, _, kind in traffic.served)
        figures = "; ".join(
            f"{kind}: p95 {percentile(hour.levels, 0.95)}, most {most(hour.levels)}"
            for kind, hour in traffic.by_kind.items()
        )
        said.append(
            f"The engine changed: {changes}. While each served, {figures}. With a faster engine the same "
            "users make fewer concurrent requests."
        )
    return said


def _clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def capacity_of(stack: str, traffic: Traffic) -> list[str]:
    """What the card can serve, where that was measured."""
    report = report_of(stack)
    if report is None:
        return [
            "How many users this card can serve is not known yet. To measure it, once: make report "
            f"STACK={stack}"
        ]
    try:
        return capacity(report, from_files(stack, ROOT), _peak(traffic))
    except SettingsError as error:
        raise StepFailed(str(error)) from None


def _peak(traffic: Traffic) -> tuple[str, int]:
    """Today's most concurrent requests, or those of all days where there were none today yet."""
    every = days(traffic)
    if every and every[-1].requests and traffic.until < _end(every[-1].name):
        return "Today's peak", every[-1].most
    return f"The peak of the last {DAYS} days", max((day.most for day in every), default=0)


def say_all(stack: str) -> None:
    """Prints tables and advice, and keeps its line. Raises StepFailed."""
    now = time.time()
    traffic, why = known(stack, now)
    said = advise(traffic, serves(stack, traffic), stack)
    keep(stack, said, now)
    if why:
        say(f"Not from the monitor: {why}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    if any(hour.requests for hour in traffic.hours.values()):
        for table in (hours_table(traffic), days_table(traffic), tenants_table(traffic)):
            console.print(table)
    for line in remarks(traffic):
        say(line)
    say("")
    for line in (*said.words, "", *capacity_of(stack, traffic)):
        say(line)


def keep(stack: str, said: Advice, now: float) -> None:
    """Keeps what is advised, for other commands to show."""
    advice.keep(stack, "" if said.verdict == "too little" else said.short, said.verdict, now)


def serves(stack: str, traffic: Traffic) -> str:
    """The kind of engine that serves, by what was asked last, or else by the settings."""
    if traffic.served:
        return traffic.served[-1][2]
    try:
        return from_files(stack, ROOT).engine
    except SettingsError as error:
        raise StepFailed(str(error)) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack")
    parser.add_argument(
        "--line", action="store_true", help="print nothing; only keep the line that other commands show"
    )
    options = parser.parse_args()
    if not options.line:
        say_all(options.stack)
        return
    signal.alarm(advice.GIVEN_UP_SECONDS)
    now = time.time()
    traffic, _ = known(options.stack, now)
    said = advise(traffic, serves(options.stack, traffic), options.stack)
    keep(options.stack, said, now)


if __name__ == "__main__":
    main_guard(main)
