"""A stack with a monitor on the real engines, in order: deployed, changed under load, without one again."""

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components.monitor import STALE_SECONDS
from components.naming import HISTORY
from monitor import render
from monitor.alerts import NO_LONGER_THAN, SLACK_SECONDS
from monitor.panels import Page, pages
from stacks.blueprint import blueprint_of
from stacks.settings import from_files
from tests.support import exposed
from tests.support.load import LoadGenerator
from tests.support.monitored import without_data
from tests.support.project import CommandFailed, Project, docker, free_port, offline_settings, pid_of
from tests.support.switch_stack import wait
from tools import dashboard
from traffic.load import HOUR

pytestmark = pytest.mark.engine

TENANT, KEY = "acme", "a-key-of-a-test-0123456789"
LONG_HELD = 3
"""Seconds, a bound of the histograms: who was held longer waited for the change."""
KEPT_SECONDS = 5
"""After so long what a store was told is on its disk: it writes it every second."""
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "none", "schema": "none"}}
"""A form of an answer at which Ollama 0.17.4 fails with HTTP 500 (`Completion` in its `llm/server.go`)."""


class Receiver:
    """Takes what an Alertmanager is sent, at an address of this machine that containers reach. `posted` has
    the path and the content of each request."""

    def __init__(self) -> None:
        posted: list[tuple[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        bridge = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
        self.server, self.posted = ThreadingHTTPServer((bridge.strip(), 0), Handler), posted
        host, port = self.server.server_address[:2]
        self.url = f"http://{host!s}:{port}/team-a"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def names(self) -> set[str]:
        """Of the alerts that came."""
        return {each["labels"]["alertname"] for _, content in list(self.posted) for each in content}


class Watched:
    """The stack, its page, and the load that it was changed under."""

    def __init__(self, folder: Path) -> None:
        self.port, self.began = free_port(), time.time()
        self.receiver = Receiver()
        monitor = {"monitor": True, "monitorPort": self.port, "alertReceiver": self.receiver.url}
        settings = offline_settings(parallel=2, apiKeys={TENANT: KEY}, **monitor)
        self.project = Project(folder, "watched", **settings)
        self.project.wipe()
        self.load: LoadGenerator | None = None
        self.failed: list[int] = []
        """Statuses of the requests beside the load that were to fail."""

    def ask(self, **more: object) -> int:
        """The status of the answer to a short chat, of which `more` is changed."""
        outputs = self.project.outputs()
        message = {"role": "user", "content": "Count."}
        content = {"model": outputs["model"], "messages": [message], "max_tokens": 8, **more}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        url, raw = f"{outputs['endpoint']}/chat/completions", json.dumps(content).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, raw, headers), timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def get(self, path: str, **query: object) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)

    def value(self, query: str) -> float:
        """Of an expression with one value; 0 where it has none yet."""
        result = self.get("/api/v1/query", query=query, step=f"{STALE_SECONDS}s")["data"]["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def lines(self, query: str) -> list[Any]:
        """The time series of an expression since the stack is there, as the page asks for them."""
        asked = {"query": query, "start": self.began, "end": time.time(), "step": render.SCRAPE_SECONDS}
        return list(self.get("/api/v1/query_range", **asked)["data"]["result"])

    def fired(self) -> set[str]:
        """The alerts that fired since the stack is there."""
        return {line["metric"]["alertname"] for line in self.lines('ALERTS{alertstate="firing"}')}

    def pages(self) -> Sequence[Page]:
        """What its page is to show."""
        seen = blueprint_of(from_files("watched", self.project.folder)).watched
        assert seen is not None
        return pages(seen)

    def longest_expected(self) -> float:
        """Seconds of a hold to vLLM after which an alert says that it takes long."""
        seen = blueprint_of(from_files("watched", self.project.folder)).watched
        assert seen is not None
        return round(seen.expected["vllm"] * NO_LONGER_THAN + SLACK_SECONDS)

    def allowed(self) -> set[str]:
        """The alerts that may have fired: of the change that failed, and of a hold that a busy machine made
        longer than is expected."""
        held = self.value("max_over_time(changeover_held_duration_seconds[1h])")
        return {"ChangeFailed", *(["HoldLongerThanExpected"] if held > self.longest_expected() else [])}

    def container(self, role: str) -> str:
        (name,) = self.project.containers(role)
        return name


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("watched"))
    yield watched
    watched.project.wipe()
    watched.receiver.end()


def crash(container: str) -> None:
    """Ends its process as a fault does: Docker starts it again by its policy."""
    os.kill(pid_of(container), signal.SIGKILL)


def test_a_monitor_is_deployed_beside_the_stack_and_changes_nothing_afterwards(watched: Watched) -> None:
    watched.project.up()
    assert dashboard.published(watched.container("monitor")) == watched.port
    assert docker("port", watched.container("monitor")).strip() == f"8428/tcp -> 127.0.0.1:{watched.port}"
    assert docker("port", watched.container("alerts")).strip() == ""
    assert watched.project.changes() == {}
    watched.project.pulumi("refresh", "--yes", "--skip-preview")
    assert watched.project.changes() == {}


def test_a_change_that_fails_is_an_alert_on_the_page_in_make_watch_and_at_the_receiver(
    watched: Watched,
) -> None:
    project = watched.project
    project.configure(engine="vllm", loadSeconds=1)
    try:
        with pytest.raises(CommandFailed, match="was not ready after 1 s"):
            project.up()
    finally:
        project.configure(engine="ollama", loadSeconds=None)

    def seen() -> list[str]:
        ask = ["docker", "exec", "-i", watched.container("switch"), "python3", "-m", "switch", "observe"]
        said = subprocess.run(ask, input="\n", capture_output=True, text=True, check=True).stdout
        return [each["name"] for each in json.loads(said)["alerts"]]

    wait(lambda: "ChangeFailed" in seen(), 90, "make watch does not say it")
    wait(lambda: "ChangeFailed" in watched.fired(), 30, "the store does not keep it")
    assert watched.fired() <= watched.allowed()
    wait(lambda: "ChangeFailed" in watched.receiver.names(), 30, "the receiver is not sent it")
    path, (sent, *_) = watched.receiver.posted[0]
    assert path == "/team-a/api/v2/alerts"
    assert sent["labels"]["severity"] == "warning" and sent["labels"]["alertname"] == "ChangeFailed"
    assert "failed" in sent["annotations"]["summary"] and sent["annotations"]["description"]
    wait(project.settled, 60, "the old engine does not come back")


def test_a_change_under_load_loses_nothing_while_the_monitor_is_killed(
    watched: Watched, tmp_path: Path
) -> None:
    project, outputs, log = watched.project, watched.project.outputs(), tmp_path / "up.log"
    wait(lambda: watched.value('up{job="proxy"}') == 1, 60, "the proxy is not scraped")
    watched.failed = [watched.ask(model="unknown"), watched.ask(response_format=NO_SCHEMA)]
    assert watched.failed == [404, 500]
    project.configure(engine="vllm")
    with LoadGenerator(outputs["endpoint"], outputs["model"], api_key=KEY, pause=0.5) as load:
        watched.load = load
        load.wait_for_answers(8)
        # a store that is killed counts a series from the first value that it did not lose
        kept = f"count(changeover_requests_total offset {KEPT_SECONDS}s)"
        wait(lambda: watched.value(kept) == 3, 60, "the store does not have a series for each status")
        update = project.start("up", "--yes", "--skip-preview", log=log)
        wait(lambda: "loading" in log.read_text() or update.poll() is not None, 120)
        assert update.poll() is None, log.read_text()
        for role in ("monitor", "alerts"):
            crash(watched.container(role))
        assert update.wait(timeout=300) == 0, log.read_text()
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    assert project.live().startswith("changeover-watched-vllm-")
    changed = [line for line in log.read_text().splitlines() if "monitor" in line or "alerts" in line]
    assert not changed, "a change of the engine changes nothing of the monitor"
    wait(lambda: watched.value('up{job="vllm"}') == 1, 60, "vLLM is not scraped")


def test_store_access_log_and_load_count_the_same(watched: Watched) -> None:
    load = watched.load
    assert load is not None
    (proxy,) = watched.project.containers("proxy")
    lines = [json.loads(line) for line in docker("logs", proxy).splitlines() if line.startswith("{")]
    ours = [line for line in lines if line["tenant"] == TENANT]
    of = f'tenant="{TENANT}"'
    counted = {
        "requests": f"sum(changeover_requests_total{{{of}}})",
        "errors": f'sum(changeover_requests_total{{{of}, status!="200"}})',
        "errors (5xx)": f'sum(changeover_requests_total{{{of}, status=~"5.."}})',
        "tokens": f'sum(changeover_tokens_total{{{of}, kind="completion"}})',
        "held": f"sum(changeover_held_seconds_count{{{of}}}) - "
        f'sum(changeover_held_seconds_bucket{{{of}, le="{LONG_HELD}.0"}})',
    }
    logged = {
        "requests": len(ours),
        "errors": sum(line["status"] != 200 for line in ours),
        "errors (5xx)": sum((line["status"] or 0) >= 500 for line in ours),
        "tokens": sum(line["completion_tokens"] or 0 for line in ours),
        "held": sum(line["held_ms"] > LONG_HELD * 1000 for line in ours),
    }
    assert logged["requests"] == len(load.outcomes) + len(watched.failed)
    assert (logged["errors"], logged["errors (5xx)"]) == (2, 1)
    assert logged["tokens"] == sum(each.tokens for each in load.outcomes)
    # each of its clients asked during the hold, and was answered after it; a slow answer was not held
    assert load.clients <= logged["held"] <= sum(each.took > LONG_HELD for each in load.outcomes)

    def stored() -> dict[str, float]:
        return {what: watched.value(query) for what, query in counted.items()}

    wait(lambda: stored() == logged, 30, f"{stored()} in the store, {logged} in the log")


def usage(watched: Watched, file: Path) -> list[dict[str, str]]:
    """The rows that `make usage` writes for the tenant, by the names of the columns."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.usage", watched.project.stack],
        cwd=ROOT,
        env={**watched.project.for_tools, "CSV": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [row for row in csv.DictReader(file.read_text().splitlines()) if row["tenant"] == TENANT]


def test_make_usage_has_what_the_load_asked_for_also_once_the_proxy_was_started_again_or_killed(
    watched: Watched, tmp_path: Path
) -> None:
    load, (proxy,) = watched.load, watched.project.containers("proxy")
    assert load is not None
    before = usage(watched, tmp_path / "before.csv")
    assert {what: sum(int(row[what]) for row in before) for what in ("requests", "failed", "completion")} == {
        "requests": len(load.outcomes) + len(watched.failed),
        "failed": len(watched.failed),
        "completion": sum(each.tokens for each in load.outcomes),
    }

    def runs() -> bool:
        done = subprocess.run(["docker", "exec", proxy, "true"], capture_output=True, check=False)
        return done.returncode == 0

    docker("restart", proxy)
    assert usage(watched, tmp_path / "restarted.csv") == before
    crash(proxy)
    wait(runs, 30, "Docker does not start the proxy again")
    assert usage(watched, tmp_path / "killed.csv") == before
    assert watched.ask() == 200
    old, new = (
        sum(int(row["requests"]) for row in rows) for rows in (before, usage(watched, tmp_path / "after.csv"))
    )
    assert new == old + 1


ADVISED = """
import json, sys, time
from tools import advise
monitor, since, until = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
now = time.time()
log, store = advise.from_log("watched", now), advise.from_store("watched", monitor, now)
requests, _ = advise.requests_of("watched", since)
with advise.asked("watched", monitor) as there:
    samples = list(advise.samples(there, since, until))
print(json.dumps({
    "counts": {
        name: {
            "requests": sum(hour.requests for hour in each.hours.values()),
            "failed": sum(hour.failed for hour in each.hours.values()),
            "served": each.served[-1][2],
            "tenant": each.tenants["acme"].requests,
        }
        for name, each in (("log", log), ("store", store))
    },
    "logged": sum(each.total for each in requests if since <= each.began and each.ended <= until),
    "stored": sum((each.running + each.waiting) * (each.ends - each.begins) for each in samples),
    "most": max(each.running + each.waiting for each in samples),
    "peak": max(
        sum(other.began - 0.01 <= each.began <= other.ended + 0.01 for other in requests) for each in requests
    ),
}))
"""


def test_what_is_advised_stands_on_the_same_numbers_from_the_store_and_from_the_log(watched: Watched) -> None:
    project, outputs = watched.project, watched.project.outputs()
    wait(lambda: watched.value("sum(changeover_running)") == 0, 60, "the load has not ended")
    since = time.time() // render.SCRAPE_SECONDS * render.SCRAPE_SECONDS
    with LoadGenerator(outputs["endpoint"], outputs["model"], api_key=KEY, clients=3, max_tokens=(96,)):
        time.sleep(12 * render.SCRAPE_SECONDS)
    time.sleep(3 * render.SCRAPE_SECONDS)  # the store has what came last
    words = [watched.container("monitor"), str(since), str(time.time())]
    done = subprocess.run(
        [sys.executable, "-c", ADVISED, *words],
        cwd=ROOT,
        env=project.for_tools,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["counts"]["log"] == seen["counts"]["store"]
    assert 1 <= seen["most"] <= seen["peak"] == 3
    assert seen["logged"] == pytest.approx(seen["stored"], rel=0.4), seen  # the store looks twelve times


def test_an_alert_counts_nothing_twice_after_a_gap_and_takes_no_old_value_for_a_new_one(
    watched: Watched,
) -> None:
    (step,) = re.findall(
        r"-datasource.queryStep=(\S+?)[\s\]]",
        docker("inspect", "--format", "{{.Args}}", watched.container("alerts")),
    )
    now = time.time()
    ages = [age for age in range(0, 2000, 5) if not 200 < age < 900]
    samples = [f"a_counter 7 {round((now - age) * 1000)}" for age in ages]
    samples += [f"a_gauge 1 {round((now - age) * 1000)}" for age in ages if age > 900]
    samples += [f"a_new_counter {20 * (age < 30)} {round((now - age) * 1000)}" for age in range(0, 40, 5)]
    url = f"http://127.0.0.1:{watched.port}/api/v1/import/prometheus"
    with urllib.request.urlopen(url, data="\n".join(samples).encode(), timeout=30):
        pass

    def asked(query: str) -> list[str]:
        result = watched.get("/api/v1/query", query=query, step=step)["data"]["result"]
        return [each["value"][1] for each in result]

    wait(lambda: asked("a_new_counter") == ["20"], 30, "the store has not what it was given")
    assert asked("increase_prometheus(a_counter[5m])") == ["0"]
    assert asked("increase(a_counter[5m])") == ["7"], "then there is no need for the other function"
    assert asked("increase_prometheus(a_new_counter[5m])") == ["20"]
    assert asked("a_gauge") == [] and asked("last_over_time(a_gauge[20m])") == ["1"]


GROWN = """
import json, sys
from tools import advise
monitor, counter, begins, ends = *sys.argv[1:3], *map(float, sys.argv[3:])
with advise.asked("watched", monitor) as there:
    print(json.dumps(list(advise.growth(there, counter, begins, ends))))
"""
Samples = list[tuple[int, int]]
"""Of one series: when, in seconds since the epoch, and how much."""


def made_up(hour: int, until: int) -> dict[str, Samples]:
    """Counters by tenant. `hour` is when the present hour began."""
    minute = 60
    always = [(at, at // minute % 100_000) for at in range(hour - 5 * HOUR - 1000, until, minute)]
    away = [(at, n) for at, n in always if not hour - 4 * HOUR - 1000 < at < hour - 2 * HOUR - 1000]
    return {
        "always": always,
        "while the store was away": away,
        "old, and unknown before": [(at, 7) for at in range(hour - 2 * HOUR - 500, until, minute)],
        "old, and goes on": [(hour - 2 * HOUR + n * minute, 50 + n) for n in range(30)],
        "new": [(hour - 2 * HOUR + 500, 0), (hour - 2 * HOUR + 505, 20), (hour - HOUR + 5, 21)],
        "started again": [(hour - HOUR - 300 + n, value) for n, value in enumerate((8, 40, 0, 5, 60, 61))],
        "between two hours": [(hour - 3 * HOUR - 2, 10), (hour - 3 * HOUR + 3, 30)],
        "on the hour": [(hour - 3 * HOUR, 10), (hour - 3 * HOUR + 5, 30), (hour - 2 * HOUR, 31)],
        "from the hour before": [(hour - 5 * HOUR - 500, 1), (hour - 4 * HOUR, 9)],
    }


def grown(series: dict[str, Samples], begins: int) -> dict[tuple[int, str], int]:
    """By how much they grew, by the beginning of an hour and tenant, sample by sample."""
    found: dict[tuple[int, str], int] = {}
    for tenant, samples in series.items():
        for (_, before), (at, value) in itertools.pairwise(samples):
            key = (at - 1) // HOUR * HOUR, tenant  # what comes on the hour is of the one that ends
            found[key] = found.get(key, 0) + (value - before if value >= before else value)
    return {key: value for key, value in found.items() if value and key[0] >= begins}


def test_growth_by_the_hour_is_exact_across_gaps_restarts_and_beginnings(watched: Watched) -> None:
    now = int(time.time())
    hour = now // HOUR * HOUR
    begins, series = hour - 5 * HOUR, made_up(hour, now)
    lines = [
        f'made_up{{tenant="{tenant}"}} {value} {at * 1000}'
        for tenant, samples in series.items()
        for at, value in samples
    ]
    url = f"http://127.0.0.1:{watched.port}/api/v1/import/prometheus"
    with urllib.request.urlopen(url, data="\n".join(lines).encode(), timeout=30):
        pass
    environment = watched.project.for_tools
    words = [sys.executable, "-c", GROWN, watched.container("monitor"), "made_up", str(begins), str(now)]

    def stored() -> dict[tuple[int, str], int]:
        said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found = {(int(at), tenant): round(value) for at, tenant, value in json.loads(said.stdout)}
        return {key: value for key, value in found.items() if value}

    expected = grown(series, begins)
    assert {tenant for _, tenant in expected} == series.keys() - {"old, and unknown before"}
    wait(lambda: stored() == expected, 60, f"{stored()} in the store, and {expected} is true")


def test_every_query_of_every_panel_returns_data(watched: Watched) -> None:
    def empty() -> list[str]:
        return without_data(watched.pages(), watched.lines)

    wait(lambda: not empty(), 40, f"these have no data: {empty()}")


def test_the_page_has_what_is_rendered_and_the_alerts_and_none_fires(watched: Watched) -> None:
    shown = watched.get("/vmui/custom-dashboards")["dashboardsSettings"]
    assert [each["title"] for each in shown] == [page.title for page in watched.pages()]
    (group,) = watched.get("/vmalert/api/v1/rules")["data"]["groups"]
    assert not [rule["lastError"] for rule in group["rules"] if rule["lastError"]]
    # of an ordinary change none does
    assert {"ChangeFailed"} <= watched.fired() <= watched.allowed()


def test_the_engine_exposes_what_is_said_of_it(watched: Watched) -> None:
    there = set(watched.get("/api/v1/label/__name__/values")["data"])
    assert set(exposed.series(exposed.VLLM)) <= there


def test_nobody_can_delete_what_is_stored_and_no_other_sites_page_can_read_it(watched: Watched) -> None:
    address = f"http://127.0.0.1:{watched.port}"
    asked = urllib.request.Request(f"{address}/api/v1/admin/tsdb/delete_series?match[]=up", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=30)
    assert refused.value.code in (401, 403)
    refused.value.close()
    with urllib.request.urlopen(f"{address}/api/v1/query?query=up", timeout=30) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_the_setting_nothing_of_it_is_left(watched: Watched) -> None:
    project = watched.project
    project.configure(monitor=None, monitorPort=None, alertReceiver=None)
    project.up()
    left = docker("ps", "--all", "--filter", "label=changeover.stack=watched", "--format", "{{.Names}}")
    left += docker("volume", "ls", "--filter", "label=changeover.stack=watched", "--format", "{{.Name}}")
    assert not [name for name in left.split() if "monitor" in name or "alerts" in name or HISTORY in name]
    assert project.changes() == {}
