"""Each alert on made-up time series, by vmalert's own tool: when it fires, and when it does not.

No Docker: the tool brings a store of its own.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import render
from monitor.alerts import alerts
from offline.tools import VMALERT_TOOL, build_one, go_version
from tests.unit.test_monitor import ALL

pytestmark = pytest.mark.engine

STEP = 15
"""Seconds between two samples, and between two looks of the alerts."""
MINUTE = 60 // STEP
LENGTH = 20 * MINUTE
BEGINS = 946684800
"""When vmalert's tool has its time series begin, in seconds since the epoch: the first of January 2000."""

SWITCH = 'job="switch", instance="switch"'
PROXY = 'job="proxy", instance="proxy-1"'
VLLM = 'job="vllm", instance="vllm-1", engine="0", model_name="tiny"'
GPU = f'{SWITCH}, gpu="0"'
DISK = f'{SWITCH}, volume="vllm"'

Values = Mapping[str, str]
"""Series → its values in promtool's short form."""


def always(value: float) -> str:
    return f"{value}x{LENGTH}"


def rising(a_step: float) -> str:
    return f"0+{a_step:g}x{LENGTH}"


def bucket(le: str) -> str:
    return f'changeover_first_byte_seconds_bucket{{{PROXY}, le="{le}"}}'


def requests(status: int, more: str = PROXY) -> str:
    return f'changeover_requests_total{{{more}, status="{status}"}}'


WELL: Values = {
    f'up{{job="{job}", instance="{at}"}}': always(1)
    for job, at in (("switch", "switch"), ("proxy", "proxy-1"), ("gateway", "gateway-1"), ("vllm", "vllm-1"))
} | {
    requests(200): rising(10),
    requests(400): rising(10),  # a client's own mistakes are no errors
    # what no engine answered says nothing of one
    requests(0, f'{PROXY}, engine="vllm-1"'): rising(100),
    requests(401, f'{PROXY}, endpoint="/v1/chat/completions", engine="-"'): rising(100),
    requests(200, f'{PROXY}, endpoint="/v1/models", engine="-"'): rising(100),
    f"changeover_cut_total{{{PROXY}}}": always(0),
    f'changeover_running{{{PROXY}, engine="vllm-1"}}': always(4),
    f'changeover_engine_silent_seconds{{{PROXY}, engine="vllm-1"}}': always(0.1),
    bucket("1"): rising(9.9),
    bucket("30"): rising(10),
    bucket("100"): rising(10),
    bucket("+Inf"): rising(10),
    f"changeover_held_duration_seconds{{{SWITCH}}}": always(0),
    f"changeover_change_duration_seconds{{{SWITCH}}}": always(0),
    f"changeover_last_change_failed{{{SWITCH}}}": always(0),
    f"changeover_last_change_timestamp_seconds{{{SWITCH}}}": always(0),
    f"changeover_engine_gated{{{SWITCH}}}": always(1),
    f"changeover_trouble{{{SWITCH}}}": always(0),
    f"changeover_journal_damaged{{{SWITCH}}}": always(0),
    f"vllm:num_requests_waiting{{{VLLM}}}": always(3),
    f"vllm:num_requests_running{{{VLLM}}}": always(4),
    f"vllm:kv_cache_usage_perc{{{VLLM}}}": always(0.9),
    f"changeover_model_gpu_ratio{{{SWITCH}}}": always(1),
    f"changeover_gpu_temperature_celsius{{{GPU}}}": always(80),
    f"changeover_gpu_memory_bytes{{{GPU}}}": always(15e9),
    f"changeover_gpu_memory_used_bytes{{{GPU}}}": always(14e9),
    f"changeover_disk_bytes{{{DISK}}}": always(200e9),
    f"changeover_disk_free_bytes{{{DISK}}}": always(20e9),
    f"changeover_host_memory_bytes{{{SWITCH}}}": always(16e9),
    f"changeover_host_memory_available_bytes{{{SWITCH}}}": always(2e9),
}
"""A stack under load with which nothing is wrong."""

HELD = f"changeover_held_duration_seconds{{{SWITCH}}}"
CHANGES = f"changeover_change_duration_seconds{{{SWITCH}}}"
GATED = f"changeover_engine_gated{{{SWITCH}}}"


def phase(kind: str) -> str:
    return f'changeover_change_phase{{{SWITCH}, kind="{kind}", phase="loading"}}'


@dataclass(frozen=True)
class Case:
    """What is otherwise than well, and the labels of the alerts that fire of it at the end."""

    alert: str
    values: Values
    fires: tuple[Mapping[str, str], ...] = ({},)


def by_label(text: str) -> dict[str, str]:
    return {key: json.loads(value) for key, value in (each.split("=") for each in text.split(", "))}


ON_SWITCH = (by_label(SWITCH),)
CASES = (
    Case("Errors", {requests(500): rising(3)}),
    Case(
        "Errors",
        {
            requests(200): f"_x{LENGTH}",
            requests(400): f"_x{LENGTH}",
            requests(503, f'{PROXY}, engine="-"'): rising(1),
        },
    ),
    Case("AnswersCut", {f"changeover_cut_total{{{PROXY}}}": rising(0.1)}),
    Case("HeldWithoutChange", {HELD: f"0x40 0+{STEP}x{LENGTH - 41}", GATED: always(0)}, ON_SWITCH),
    Case(
        "NothingFinishes",
        {
            requests(200): always(7),
            requests(400): always(7),
            f'changeover_engine_silent_seconds{{{PROXY}, engine="vllm-1"}}': rising(STEP),
        },
    ),
    Case("SlowFirstByte", {bucket("1"): always(0), bucket("30"): always(0), bucket("100"): rising(10)}),
    Case(
        "HoldLongerThanExpected",
        {HELD: rising(STEP), CHANGES: rising(STEP), phase("vllm"): always(1), GATED: always(0)},
        ON_SWITCH,
    ),
    Case(
        "HoldNearItsBudget",
        {HELD: rising(STEP), CHANGES: rising(STEP), phase("vllm"): always(1), GATED: always(0)},
        ON_SWITCH,
    ),
    Case(
        "ChangeFailed",
        {
            f"changeover_last_change_failed{{{SWITCH}}}": always(1),
            f"changeover_last_change_timestamp_seconds{{{SWITCH}}}": always(BEGINS),
        },
        ON_SWITCH,
    ),
    Case("NoGatedEngine", {GATED: always(0)}, ON_SWITCH),
    Case("SwitchInTrouble", {f"changeover_trouble{{{SWITCH}}}": always(1)}, ON_SWITCH),
    Case(
        "Silent",
        {f'changeover_silent{{{SWITCH}, container="vllm-1"}}': always(1)},
        (by_label(f'{SWITCH}, container="vllm-1"'),),
    ),
    Case("JournalDamaged", {f"changeover_journal_damaged{{{SWITCH}}}": always(1)}, ON_SWITCH),
    Case(
        "TargetDown",
        {
            'up{job="gateway", instance="gateway-1"}': always(0),
            'up{job="vllm", instance="vllm-1"}': always(0),
        },
        ({"job": "gateway", "instance": "gateway-1"}, {"job": "vllm", "instance": "vllm-1"}),
    ),
    Case("NoProxy", {'up{job="proxy", instance="proxy-1"}': always(0)}),
    Case("NoSwitch", {'up{job="switch", instance="switch"}': always(0)}),
    Case("VllmAdmitsNothing", {f"vllm:num_requests_running{{{VLLM}}}": always(0)}, (by_label(VLLM),)),
    Case("KvCacheFull", {f"vllm:kv_cache_usage_perc{{{VLLM}}}": always(0.99)}, (by_label(VLLM),)),
    Case("ModelLeftGpu", {f"changeover_model_gpu_ratio{{{SWITCH}}}": always(0.6)}, ON_SWITCH),
    Case("GpuLost", {f"changeover_gpu_lost{{{SWITCH}}}": always(1)}, ON_SWITCH),
    Case("GpuHot", {f"changeover_gpu_temperature_celsius{{{GPU}}}": always(90)}, (by_label(GPU),)),
    Case("GpuFull", {f"changeover_gpu_memory_used_bytes{{{GPU}}}": always(14.9e9)}, (by_label(GPU),)),
    Case("DiskNearlyFull", {f"changeover_disk_free_bytes{{{DISK}}}": always(6e9)}, (by_label(DISK),)),
    Case(
        "MemoryNearlyFull",
        {f"changeover_host_memory_available_bytes{{{SWITCH}}}": always(0.5e9)},
        ON_SWITCH,
    ),
)


def changes() -> Values:
    """Ten changes by hold, one every two minutes: each holds for 45 s, in which no byte comes from an engine
    and vLLM answers no scrape, and takes a minute in all."""
    held = " ".join(["0 15 30 45 0 0 0 0"] * 10)
    under_way = " ".join(["0 15 30 45 60 0 0 0"] * 10)
    return {
        HELD: held,
        CHANGES: under_way,
        phase("vllm"): " ".join(["_ 1 1 1 1 stale _ _"] * 10),
        GATED: " ".join(["1 0 0 0 1 1 1 1"] * 10),
        'up{job="vllm", instance="vllm-1"}': " ".join(["1 0 0 0 1 1 1 1"] * 10),
        f'changeover_running{{{PROXY}, engine="vllm-1"}}': " ".join(["4 0 0 0 4 4 4 4"] * 10),
        f'changeover_engine_silent_seconds{{{PROXY}, engine="vllm-1"}}': " ".join(
            ["0 15 30 45 0 0 0 0"] * 10
        ),
        bucket("1"): rising(5),  # half of all requests are held for up to 45 s
        bucket("30"): rising(7),
        bucket("100"): rising(10),
    }


def away() -> Values:
    """A store that comes back after a gap, in which a few requests had waited for long, and none since."""
    counts = {"1": 0, "30": 0, "100": 9, "+Inf": 9}
    return {bucket(le): f"_x{8 * MINUTE} {count}x{12 * MINUTE}" for le, count in counts.items()}


QUIET = {"well": {}, "ten changes": changes(), "away": away()}


def unit_test(
    name: str, values: Values, expected: Mapping[str, list[Any]], times: list[str]
) -> dict[str, Any]:
    return {
        "name": name,
        "interval": f"{STEP}s",
        "input_series": [{"series": series, "values": text} for series, text in {**WELL, **values}.items()],
        "alert_rule_test": [
            {"eval_time": time, "alertname": alert, "groupname": "changeover", "exp_alerts": found}
            for time in times
            for alert, found in expected.items()
        ],
    }


def test_every_alert_has_a_case() -> None:
    assert list(dict.fromkeys(case.alert for case in CASES)) == [alert.name for alert in alerts(ALL)]


def tried(folder: Path, *tests: dict[str, Any]) -> str:
    """What vmalert's tool says of these tests; empty where all of them hold."""
    rules = yaml.safe_load(render.rules(alerts(ALL)))
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]  # what it says to people is no part of it
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    content = {"rule_files": ["rules.yml"], "evaluation_interval": f"{STEP}s", "tests": tests}
    (folder / "tests.yml").write_text(yaml.safe_dump(content, width=1000))
    program = build_one(VMALERT_TOOL, go_version()) / VMALERT_TOOL.program
    done = subprocess.run(
        [program, "unittest", "--files", folder / "tests.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def never(case: Case) -> Case:
    """The same, where no request has ever ended."""
    gone = {name: f"_x{LENGTH}" for name in case.values if name.startswith("changeover_requests_total")}
    return replace(case, values={**case.values, **gone})


def test_each_alert_fires_by_its_fault(tmp_path: Path) -> None:
    severities = {alert.name: alert.severity for alert in alerts(ALL)}
    first_of_all = [never(case) for case in CASES if case.alert == "NothingFinishes"]
    tests = [
        unit_test(
            case.alert,
            case.values,
            {
                case.alert: [
                    {"exp_labels": {**labels, "severity": severities[case.alert]}} for labels in case.fires
                ]
            },
            ["19m"],
        )
        for case in (*CASES, *first_of_all)
    ]
    said = tried(tmp_path, *tests)
    assert not said, said[-5000:]


@pytest.mark.parametrize("name", QUIET)
def test_no_alert_fires_where_nothing_is_wrong(name: str, tmp_path: Path) -> None:
    nothing: dict[str, list[Any]] = {alert.name: [] for alert in alerts(ALL)}
    times = [f"{minute}m" for minute in range(2, 20)]
    said = tried(tmp_path, unit_test(name, QUIET[name], nothing, times))
    assert not said, said[-5000:]


def test_a_test_that_does_not_hold_is_noticed(tmp_path: Path) -> None:
    said = tried(tmp_path, unit_test("wrong", {}, {"Errors": [{"exp_labels": {}}]}, ["19m"]))
    assert "Errors" in said
