"""Panels and alerts: what they ask for is exposed, and what is rendered is what is defined."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import render
from monitor.alerts import alerts
from monitor.panels import GROWTH, SPAN, pages
from monitor.watched import Watched
from proxy.records import SECONDS, Books
from switch import metrics
from switch.machine import State
from switch.report import report
from tests.support import exposed
from tests.support.monitored import FACTOR, sooner

ALL = Watched(
    stack="prod",
    gpu=True,
    vllm=True,
    gateway=True,
    hold_budget=1080,
    expected={"ollama": 20.4, "vllm": 95.0},
    switch="switch",
    switch_port=8002,
    proxy_port=8001,
    gateway_port=3000,
    engine_port=8000,
)
LEAST = replace(ALL, gpu=False, vllm=False, gateway=False)

WORDS = {
    "and",
    "or",
    "unless",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
}
LABELS = re.compile(r"\{[^}]*\}|\b(by|without|on|ignoring)\s*\([^)]*\)")
NAME = re.compile(r"(?<![\w:.])[A-Za-z_:][\w:]*(?!\s*\(|[\w:])")


def names(expr: str) -> set[str]:
    """The time series of an expression: what is no function, keyword, label, number or window of time."""
    bare = LABELS.sub(" ", re.sub(r"\[[^\]]*\]", " ", expr))
    return {name for name in NAME.findall(bare) if name not in WORDS}


def ours() -> Iterator[str]:
    """What proxy and switch expose, as the code says it."""
    for family in Books(None, "host").registry.collect():
        kind: Any = family.type
        yield from exposed.series({family.name: kind})
    change = {"kind": "vllm", "phase": "loading", "seconds": 1.0}
    last = {"began": 1.0, "seconds": 2.0, "error": "", "abandoned": False, "held_seconds": 0, "steps": []}
    gpu = dict.fromkeys(("busy", "free", "used", "size", "watts", "celsius"), 1.0)
    seen = {
        "active": {"kind": "vllm", "name": "vllm-1", "model": "tiny"},
        "under_way": change,
        "last": last,
        "gated": True,
        "held_since": None,
        "trouble": "",
        "silent": {},
        "journal": None,
        "memory": {"size": 2, "free": 1},
        "disks": {},
    }
    for gpus in ([gpu], "the driver said no"):
        yield from (family.name for family in metrics.families({**seen, "gpus": gpus}, 1, 10.0))


KNOWN = {*ours(), *exposed.series(exposed.VLLM), *exposed.series(exposed.GATEWAY), *exposed.STORE}


def expressions(watched: Watched) -> Iterator[tuple[str, str]]:
    """Every expression with where it is."""
    for page in pages(watched):
        for panel in page.panels:
            for query in panel.queries:
                yield f"{page.name}: {panel.title}", query.expr
    for alert in alerts(watched):
        yield alert.name, alert.expr


def test_the_names_in_an_expression_are_found() -> None:
    text = 'sum by (le, engine) (rate(a_total{b=~"c.*"}[$span])) / ignoring(x) group_left d > 2 unless on() e'
    assert names(text) == {"a_total", "d", "e"}
    assert names("vllm:up_x and on (instance) ALERTS or vector(0)") == {"vllm:up_x", "ALERTS"}


def test_what_panels_and_alerts_ask_for_is_exposed_by_something_that_is_scraped() -> None:
    unknown = {where: missing for where, expr in expressions(ALL) if (missing := names(expr) - KNOWN)}
    assert not unknown
    assert names("changeover_nothing_total") - KNOWN, "an unknown name would be found"


def test_what_is_not_there_has_no_panel_and_no_alert() -> None:
    found = set().union(*(names(expr) for _, expr in expressions(LEAST)))
    assert not [name for name in found if name.startswith(("vllm:", "tensorzero_", "changeover_gpu"))]
    assert "vllm" not in render.scrape(LEAST) and "gateway" not in render.scrape(LEAST)
    assert {page.name for page in pages(ALL)} - {page.name for page in pages(LEAST)} == {
        "6-gpu",
        "8-gateway",
    }


def test_every_metric_of_ours_has_a_unit_that_its_name_says_or_counts_something() -> None:
    """https://prometheus.io/docs/practices/naming/"""
    units = ("_seconds", "_bytes", "_ratio", "_watts", "_celsius", "_total", "_bucket", "_sum", "_count")
    counts = {
        f"changeover_{name}"
        for name in (
            *("running", "waiting", "engine", "engine_gated", "trouble", "silent", "journal_damaged"),
            *("change_phase", "last_change_failed", "gpu_lost", "host_load1"),
        )
    }
    assert not [name for name in ours() if not name.endswith(units) and name not in counts]


def test_histograms_reach_beyond_the_longest_hold() -> None:
    from components.fit import HOLD_BUDGET_MAXIMUM

    assert max(SECONDS) > HOLD_BUDGET_MAXIMUM


def test_a_dashboard_of_another_stack_is_another_one_for_grafana() -> None:
    stacks = ["local", "a" * 29, *(f"{'a' * 40}-{name}" for name in ("one", "two"))]
    uids = [render.uid(stack) for stack in stacks]
    assert uids[0] == "changeover-local" and len({*uids}) == len(stacks)
    assert max(map(len, uids)) == 40


def test_the_stores_pages_and_grafanas_dashboard_have_the_same_panels() -> None:
    files = render.files(ALL)
    stored = []
    for name in sorted(name for name in files if name.startswith(render.PAGES)):
        (row,) = json.loads(files[name])["rows"]
        for panel in row["panels"]:
            assert len(panel["expr"]) == len(panel["alias"])
            stored.append((panel["title"], panel["alias"]))
    dashboard = json.loads(files[render.GRAFANA])
    charts = [panel for panel in dashboard["panels"] if panel["type"] == "timeseries"]
    assert stored == [
        (each["title"], [target["legendFormat"] for target in each["targets"]]) for each in charts
    ]
    assert len({each["id"] for each in dashboard["panels"]}) == len(dashboard["panels"])
    spots = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in dashboard["panels"]]
    assert len(set(spots)) == len(spots), "no panel is on another"
    every = "".join(files.values())
    assert SPAN not in every and GROWTH not in every


def test_the_store_is_asked_for_growth_by_the_function_that_invents_none_after_a_gap() -> None:
    files = render.files(ALL)
    asked = "".join(text for name, text in files.items() if name != render.GRAFANA)
    assert "increase_prometheus(" in asked and "increase(" not in asked
    assert "increase(" in files[render.GRAFANA], "Prometheus has no other"


def test_the_rules_are_the_alerts_and_each_says_what_to_type() -> None:
    (group,) = yaml.safe_load(render.files(ALL)[render.RULES])["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [alert.name for alert in alerts(ALL)]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])
    for rule in group["rules"]:
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_requests_that_no_engine_answered_neither_hide_an_engine_that_hangs_nor_errors() -> None:
    """Clients ask for the models again and again, some have no key, and others give up waiting and retry."""
    found = {alert.name: alert.expr for alert in alerts(ALL)}
    for name in ("Errors", "NothingFinishes"):
        counted = re.findall(r"changeover_requests_total(\{[^}]*\})?\[", found[name])
        assert {*counted} <= {'{engine!="-",status!="0"}', '{status=~"5.."}'}, name


def test_a_hold_is_too_long_by_the_engine_that_is_changed_to_and_by_the_budget() -> None:
    found = {alert.name: alert.expr for alert in alerts(ALL)}
    longer = found["HoldLongerThanExpected"]
    assert '> 71 and on (instance) changeover_change_phase{kind="ollama"}' in longer
    assert '> 220 and on (instance) changeover_change_phase{kind="vllm"}' in longer
    assert found["HoldNearItsBudget"].endswith("> 756")


def test_where_everything_is_ten_times_as_fast_so_is_all_that_an_alert_waits_for() -> None:
    found = {alert.name: sooner(alert) for alert in alerts(ALL)}
    assert "[2m]" in {alert.name: alert.expr for alert in alerts(ALL)}["NothingFinishes"]
    assert "[12s]" in found["NothingFinishes"].expr and "_seconds) < 6" in found["NothingFinishes"].expr
    assert found["HeldWithoutChange"].expr.startswith("changeover_held_duration_seconds > 6 and")
    assert (
        "[60s]))) > 3 unless" in found["SlowFirstByte"].expr and "[90s]) > 0" in found["SlowFirstByte"].expr
    )
    assert found["HoldNearItsBudget"].expr.endswith("> 75.6")
    assert [each.seconds * FACTOR for each in found.values()] == [alert.seconds for alert in alerts(ALL)]
    assert not [each.name for each in found.values() if re.search(r"\[\d+m\]", each.expr)]


def test_all_that_runs_is_scraped_by_name_and_what_is_stopped_is_no_target() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(render.scrape(ALL))["scrape_configs"]}
    assert list(jobs) == ["switch", "proxy", "gateway", "vllm"]
    asked = [job["http_sd_configs"][0]["url"] for job in list(jobs.values())[1:]]
    assert asked == [
        f"http://switch:8002/targets?role={role}&port={port}"
        for role, port in (("proxy", 8001), ("gateway", 3000), ("engine&kind=vllm", 8000))
    ]


def test_before_a_first_change_the_switch_exposes_what_the_alerts_of_its_parts_need() -> None:
    page = metrics.page(report(State(), {}, {}, Path("/nowhere"), 1.0), 0, 1.0)
    for name in ("changeover_engine_gated", "changeover_change_duration_seconds", "changeover_trouble"):
        assert re.search(rf"^{name} \d", page, re.MULTILINE), name


@pytest.mark.parametrize("watched", [ALL, LEAST])
def test_no_line_of_what_is_rendered_depends_on_the_order_of_a_set(watched: Watched) -> None:
    assert render.files(watched) == render.files(replace(watched))
