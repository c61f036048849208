"""`make advise` at its edges: the log in a proxy, the monitor's store, and the line that others show."""

import datetime
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from advise.capacity import capacity
from advise.rule import Verdict, days
from advise.rule import advise as advised
from common import ROOT, StepFailed
from components.instance_types import GPU_REGIONS
from stacks.blueprint import blueprint_of
from stacks.settings import Settings, from_files
from tests.support.traffic import DAY, MONDAY, chance, level, log_lines, office, served
from tools import advice, advise, port, status
from traffic.load import HOUR, LoggedRequest, percentile

NOW = MONDAY + 7 * DAY

DOCKER = """#!/bin/sh
# `docker exec proxy …`: runs it here, on the test's own log
shift 2
[ "$1" = python3 ] && shift
exec {python} -c 'import sys, pathlib, proxy.traffic as t
t.main(pathlib.Path("{folder}"), float(sys.argv[1]))' "$3"
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a proxy's access log, and a `docker` that reads it."""
    programs, folder = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    folder.mkdir()
    docker = programs / "docker"
    docker.write_text(DOCKER.format(python=sys.executable, folder=folder))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def containers_of(stack: str, role: str) -> list[str]:
        if role == "monitor":
            raise status.NoContainer(f"no monitor of stack `{stack}` runs here")
        return [role]

    monkeypatch.setattr(advise, "containers_of", containers_of)
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(advice, "KEPT", tmp_path / "kept")
    return folder


def close(one: LoggedRequest, other: LoggedRequest) -> bool:
    """But for what the log's milliseconds leave out."""
    times = [
        abs(getattr(one, name) - getattr(other, name)) < 0.002
        for name in ("ended", "total", "held", "admitted")
    ]
    return all(times) and (one.engine, one.tenant, one.failed) == (other.engine, other.tenant, other.failed)


def test_what_the_log_says_arrives_here(log: Path) -> None:
    requests = sorted(served(chance(1, 300, MONDAY, DAY, 40), at_a_time=3), key=lambda each: each.ended)
    (log / "access-one.log").write_text("\n".join([*log_lines(requests), '{"time": "2025']))
    found, since = advise.requests_of("local", MONDAY + 6 * HOUR)
    assert since == pytest.approx(requests[0].ended, abs=0.002)
    wanted = [each for each in requests if each.ended >= MONDAY + 6 * HOUR]
    assert len(found) == len(wanted)
    assert all(close(one, other) for one, other in zip(found, wanted, strict=True))


def test_a_log_of_which_a_part_was_dropped_is_not_known_before_that_whatever_another_proxy_has_left(
    log: Path,
) -> None:
    quiet = [each for day in range(4) for each in office(MONDAY + day * DAY, 2)]
    (log / "access-old.log").write_text("\n".join(log_lines(served(quiet))))
    busy = log_lines(served(office(MONDAY + 5 * DAY, 40)))
    for number in range(5, 0, -1):
        part = busy[-60 * number : len(busy) - 60 * (number - 1)]
        (log / f"access-new.log.{number}").write_text("\n".join(part))
    requests, since = advise.requests_of("local", MONDAY)
    assert len(requests) == 4 * 18 + 300
    assert since == pytest.approx(json_time(busy[-300])), "the first line of the oldest that is left"
    assert advised(advise.from_log("local", NOW), "ollama", "local").verdict == "too little"


def test_a_log_of_which_whole_files_may_have_gone_is_known_from_the_oldest_that_is_left_on(log: Path) -> None:
    for number in range(12):
        file = log / f"access-{number}.log"
        file.write_text("\n".join(log_lines(served(office(MONDAY + number * 3600, 1)))))
        os.utime(file, (MONDAY, MONDAY + DAY + number * 3600))
    assert advise.requests_of("local", MONDAY)[1] == MONDAY + DAY
    (log / "access-0.log").unlink()
    assert advise.requests_of("local", MONDAY)[1] == pytest.approx(MONDAY + 11 * HOUR)


def json_time(line: str) -> float:
    return datetime.datetime.fromisoformat(json.loads(line)["time"]).timestamp()


def test_it_prints_hours_days_tenants_and_the_advice_and_keeps_a_line(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    week = [each for day in range(5) for each in office(MONDAY + day * DAY, 6)]
    before = office(MONDAY - DAY, 2)
    (log / "access-one.log").write_text("\n".join(log_lines(served([*before, *week]))))
    advise.say_all("local")
    out = capsys.readouterr().out
    (nine,) = re.findall(r"^│ 09:00 .*", out, re.MULTILINE)
    assert re.split(r"\s*│\s*", nine)[1:-1] == ["09:00", "6", "6", "6", "6", "30", "0", "0", "0.0 %"]
    (monday,) = re.findall(r"│ 2025-11-24 .*", out)
    assert re.split(r"\s*│\s*", monday)[1:-1] == ["2025-11-24", "09:00", "6", "6", "54", "0", "", "yes"]
    (acme,) = re.findall(r"│ acme .*", out)
    assert re.split(r"\s*│\s*", acme)[1:-1] == ["acme", "270", "0", "100.0 %", "6"]
    assert "Stay with Ollama" in out and "To measure it, once: make report STACK=local" in out
    line, age = advice.kept("local")
    assert line.endswith("a day's busiest hour (p95); advice: stay with Ollama") and age == 0


def test_without_requests_it_says_so_and_others_show_nothing(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    advise.say_all("local")
    assert "Too little is known: there was no traffic." in capsys.readouterr().out
    assert advice.kept("local") == ("", 0)


def test_a_proxy_of_an_older_version_is_named(log: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\necho 'No module named proxy.traffic' >&2\nexit 1\n")
    with pytest.raises(StepFailed, match=r"of an older version\. Run: pulumi up --stack local"):
        advise.requests_of("local", 0)


class MadeStore(advise.Store):
    """Answers as a store that has asked the proxies every 5 s, by counting; but not while it was `away`, and
    the host with it where it was `off`."""

    away: Sequence[tuple[float, float]] = ()
    off = False

    def __init__(self, requests: Sequence[LoggedRequest], holds: Sequence[tuple[float, float]]) -> None:
        self.requests, self.holds = requests, holds

    def over(self, query: str, begins: float, ends: float, step: float) -> advise.Series:
        moments = [begins + n * step for n in range(int((ends - begins) / step) + 1)]
        moments = [each for each in moments if each >= MONDAY]
        if query == "max(changeover_host_boot_time_seconds)":
            return [({}, [(at, self.booted(at)) for at in moments if self.looks(at)])]
        moments = [each for each in moments if self.looks(each)]
        if query == "sum(changeover_waiting)":
            return [({}, [(at, self.waiting(at)) for at in moments])]
        if query == "sum(changeover_running)":
            there = [(at, sum(each.admitted <= at < each.ended for each in self.requests)) for at in moments]
            return [({}, [(at, float(count)) for at, count in there if count])]
        if query == "max(changeover_held_duration_seconds)":
            return [({}, [(at, sum(at - a for a, b in self.holds if a <= at < b)) for at in moments])]
        if "changeover_engine" in query:
            return [({"kind": "ollama"}, [(at, 1.0) for at in moments])]
        return list(self.growth(query, moments))

    def looks(self, at: float) -> bool:
        """Whether the store is there at that time."""
        return not any(begins <= at < ends for begins, ends in self.away)

    def booted(self, at: float) -> float:
        """When the host was started that is there then."""
        return max((ends for _, ends in self.away if self.off and ends <= at), default=MONDAY - DAY)

    def waiting(self, at: float) -> float:
        return sum(each.began <= at < each.admitted for each in self.requests)

    def growth(self, query: str, moments: Sequence[float]) -> Iterator[tuple[dict[str, str], Any]]:
        (counter,) = set(re.findall(r"increase\w*\((.*?)\[1h\]\)", query))
        assert query.startswith("sum by (tenant) (")
        for tenant in sorted({each.tenant for each in self.requests}):
            mine = [each for each in self.requests if tenant == each.tenant]
            values = [
                (at, sum(self.value(each, counter) for each in mine if at - HOUR < each.ended <= at))
                for at in moments
            ]
            yield {"tenant": tenant}, [each for each in values if each[1]]

    def value(self, each: LoggedRequest, counter: str) -> float:
        return {
            "changeover_requests_total": 1,
            'changeover_requests_total{engine!="-"}': each.at_engine,
            'changeover_requests_total{status=~"5.."}': each.failed,
            "changeover_cut_total": each.cut,
            "changeover_hung_up_total": each.hung_up,
            "changeover_request_seconds_sum": each.total,
            "changeover_held_seconds_sum": each.held,
        }[counter]


@pytest.mark.parametrize("seed", range(2))
def test_log_and_store_say_the_same_of_the_same_traffic(log: Path, seed: int) -> None:
    hold = (MONDAY + 5000.0, MONDAY + 5200.0)
    now = MONDAY + 3 * HOUR
    requests = served(chance(seed, 500, MONDAY + 10, 3 * HOUR - 200, 100), at_a_time=6, holds=[hold])
    (log / "access-one.log").write_text("\n".join(log_lines(requests)))
    logged, stored = advise.from_log("local", now), advise.stored(MadeStore(requests, [hold]), now)
    assert stored.source == "the monitor's store" and logged.source == "the access log"
    for at in (MONDAY, MONDAY + HOUR, MONDAY + 2 * HOUR):
        ours, theirs = logged.hours[at], stored.hours[at]
        for share in (0.5, 0.95):
            assert abs(percentile(ours.levels, share) - percentile(theirs.levels, share)) <= 1
        assert ours.left_out == pytest.approx(theirs.left_out, abs=30)
        assert ours.crowded == pytest.approx(theirs.crowded, abs=90)
    assert sum(each.requests for each in stored.hours.values()) == len(requests)
    assert sum(each.asked for each in stored.hours.values()) == sum(each.at_engine for each in requests)
    assert sum(each.failed for each in stored.hours.values()) == sum(each.failed for each in requests)
    for name, mine in logged.tenants.items():
        its = stored.tenants[name]
        assert (mine.requests, mine.failed) == (its.requests, its.failed)
        assert mine.work == pytest.approx(its.work, rel=0.001)
    assert [kind for *_, kind in stored.served] == ["ollama"]
    (one,), (other,) = days(logged), days(stored)
    assert abs(one.figure - other.figure) <= 1 and one.counts == other.counts
    assert advised(stored, "ollama", "local").verdict == "too little"


def test_what_a_counter_grew_before_the_first_hour_is_no_part_of_the_traffic() -> None:
    class Grown(MadeStore):
        def over(self, query: str, begins: float, ends: float, step: float) -> advise.Series:
            return [({"tenant": "acme"}, [(begins + n * HOUR, 10.0**n) for n in range(3)])]

    store = Grown([], [])
    assert list(advise.growth(store, "changeover_cut_total", MONDAY, MONDAY + 2 * HOUR)) == [
        (MONDAY, "acme", 10.0),
        (MONDAY + HOUR, "acme", 100.0),
    ]


@pytest.mark.parametrize("off", [False, True])
def test_a_day_on_which_the_store_was_away_does_not_count_unless_the_host_was_off(off: bool) -> None:
    """It is there again in the evening, and knows nothing of who came in the hours before."""
    store = MadeStore(served([each for n in range(3) for each in level(MONDAY + n * DAY, 300, 2)]), [])
    store.away = [(MONDAY + n * DAY + 7 * HOUR, MONDAY + n * DAY + 19 * HOUR) for n in range(3)]
    store.off = off
    seen = advise.stored(store, MONDAY + 3 * DAY)
    assert [day.counts for day in days(seen)] == [off] * 3
    assert advised(seen, "ollama", "local").verdict == ("stay" if off else "too little")


@pytest.mark.parametrize(
    "answers",
    ["", "no JSON", '{"error": "refused"}', '{"status": 503, "body": ""}', '{"status": 200, "body": "{}"}'],
)
def test_a_store_that_says_nothing_to_be_used_is_named(answers: str) -> None:
    with subprocess.Popen(
        ["sh", "-c", 'read line; echo "$0"', answers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        with pytest.raises(StepFailed, match="the monitor's store"):
            advise.stored(advise.Store("monitor", process), NOW)
        process.communicate()


def test_a_store_that_gives_no_answer_leaves_the_log(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise StepFailed("the monitor's store does not answer: refused")

    monkeypatch.setattr(advise, "containers_of", lambda stack, role: [role])
    monkeypatch.setattr(advise, "from_store", none)
    (log / "access-one.log").write_text("\n".join(log_lines(served(office(MONDAY, 2)))))
    advise.say_all("local")
    out = capsys.readouterr().out
    assert "Not from the monitor: the monitor's store does not answer: refused" in out
    assert "From the access log" in out


# what others show


def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another process that looks for advice does this."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(advice, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(advice, "WAIT_SECONDS", 0.5)


def test_a_line_that_is_not_there_in_time_costs_no_more_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(tmp_path, monkeypatch, "exec sleep 2")
    began = time.monotonic()
    line = advice.Line("local")
    assert line.text() == "" and time.monotonic() - began < 1.9
    assert line._process is not None
    line._process.wait()


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$"])
def test_whoever_fails_to_find_advice_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    looks(tmp_path, monkeypatch, script)
    assert advice.Line("local").text() == ""


def test_a_new_line_is_waited_for_a_fresh_one_is_taken_and_an_old_one_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = json.dumps({"at": time.time(), "line": "new"})
    looks(tmp_path, monkeypatch, f"mkdir -p {tmp_path}/kept && echo '{there}' >{tmp_path}/kept/local.json")
    monkeypatch.setattr(advice, "WAIT_SECONDS", 30)
    assert advice.Line("local").text() == "new"
    looks(tmp_path, monkeypatch, "exit 1")
    assert advice.Line("local")._process is None, "nobody looks again for an hour"
    advice.keep("local", "old", "stay", time.time() - advice.FRESH_SECONDS - 1)
    assert advice.Line("local").text() == "old", "what looks anew has failed"
    advice.keep("local", "ancient", "stay", time.time() - advice.OLD_SECONDS - 1)
    assert advice.Line("local").text() == ""


def test_an_advice_that_is_another_than_before_is_said_to_be_for_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "KEPT", tmp_path / "kept")
    now = NOW

    def after(days: float, verdict: Verdict) -> str:
        nonlocal now
        now += days * DAY
        monkeypatch.setattr(time, "time", lambda: now)
        advice.keep("local", "" if verdict == "too little" else f"advice: {verdict}", verdict, now)
        return advice.kept("local")[0]

    assert after(0, "too little") == ""
    assert after(1, "stay") == "advice: stay", "there was none before"
    assert after(1, "stay") == "advice: stay"
    assert after(1, "upgrade") == "advice: upgrade (since 2025-12-04; before: Ollama)"
    assert after(1, "too little") == "", "such as after `monitor: false`"
    assert after(1, "upgrade") == "advice: upgrade (since 2025-12-04; before: Ollama)"
    assert after(5, "upgrade") == "advice: upgrade"
    assert after(1, "undecided") == "advice: undecided (since 2025-12-12; before: vLLM)"
    (tmp_path / "kept" / "local.json").write_text('{"line": "of an older version", "at": 1}')
    assert advice.kept("local")[0] == "of an older version"
    (tmp_path / "kept" / "local.json").write_text("[1]")
    assert advice.kept("local") == ("", float("inf")) and after(0, "stay") == "advice: stay"


def test_a_line_that_was_kept_while_the_clock_was_ahead_is_not_fresh_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "KEPT", tmp_path / "kept")
    advice.keep("local", "stay with Ollama", "stay", time.time())
    advice.keep("local", "upgrade to vLLM", "upgrade", time.time() + 400 * DAY)
    assert advice.kept("local") == ("upgrade to vLLM", float("inf"))


def test_where_no_other_process_can_be_started_there_is_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert advice.Line("local").text() == ""


def test_make_status_ends_with_the_line_and_is_as_it_was_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks(tmp_path, monkeypatch, "exit 1")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text("#!/bin/sh\nexit 0\n")
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(status, "switch_of", lambda stack: "switch")
    monkeypatch.setattr(port, "trouble", lambda stack: "")
    status.status("local")
    assert capsys.readouterr().out == ""
    advice.keep("local", "4 concurrent requests; advice: stay", "stay", time.time())
    status.status("local")
    assert capsys.readouterr().out == "4 concurrent requests; advice: stay\n"
    (programs / "docker").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(StepFailed, match="it is not known what serves"):
        status.status("local")


# capacity


def report(settings: Settings, ollama: int, vllm: int, *, more: bool = False) -> dict[str, Any]:
    users = {"ollama": ollama, "vllm": vllm}
    return {
        "day": "2025-11-28",
        "card": "NVIDIA T4",
        "limits": {"first_p95": 2, "user": 5},
        "engines": {
            spec.kind: {"name": spec.name, "users": users[spec.kind], "more": more and spec.kind == "vllm"}
            for spec in blueprint_of(settings).specs
        },
    }


def test_with_a_report_there_is_a_capacity_and_the_distance_to_the_peak() -> None:
    settings = from_files("local", ROOT)
    said = capacity(report(settings, 8, 40, more=True), settings, ("Today's peak", 12))
    assert said == [
        "On NVIDIA T4, measured on 2025-11-28, Ollama serves 8 users, vLLM serves 40 users or more at the "
        "same time, with the first token within 2 s and 5 tokens a second for 95 of 100, and no error.",
        "Today's peak of 12 concurrent requests is 4 more than Ollama serves.",
        "Today's peak of 12 concurrent requests is 28 fewer than vLLM serves.",
    ]


@pytest.mark.parametrize(
    ("peak", "said"),
    [
        (0, ["There was no request that could be compared with that."]),
        (1, ["of 1 concurrent request is 7 fewer than Ollama serves.", "39 fewer than vLLM serves."]),
        (8, ["is exactly what Ollama serves.", "32 fewer than vLLM serves."]),
        (40, ["32 more than Ollama serves.", "exactly what vLLM was measured with."]),
        (41, ["33 more than Ollama serves.", "is 1 more than vLLM was measured with."]),
    ],
)
def test_the_distance_of_a_peak_is_a_sentence(peak: int, said: list[str]) -> None:
    settings = from_files("local", ROOT)
    (_, *found) = capacity(report(settings, 8, 40, more=True), settings, ("Today's peak", peak))
    assert [line.endswith(end) for line, end in zip(found, said, strict=True)] == [True] * len(said), found


def test_a_report_of_other_engines_gives_no_capacity() -> None:
    settings = from_files("local", ROOT)
    other = report(from_files("prod", ROOT), 8, 40)
    (said,) = capacity(other, settings, ("Today's peak", 12))
    assert said.endswith(
        "about other engines than the settings give now. Measure again: make report STACK=local"
    )


def test_on_aws_it_says_what_a_second_and_a_larger_instance_cost_and_give() -> None:
    settings = from_files("prod", ROOT)
    said = capacity(report(settings, 8, 40), settings, ("Today's peak", 12))
    assert said[3] == (
        "A second g4dn.xlarge costs $0.562 an hour, $410 a month more. Both together serve 16 with Ollama "
        "and 80 with vLLM, if half of the clients use the second one's address: nothing here balances the "
        "load."
    )
    assert said[4].startswith(
        "A g5.xlarge (1 NVIDIA A10G) costs +$0.480 an hour, +$350 a month. Its memory lets "
    )
    assert re.search(r"vLLM work on \d{3} concurrent requests instead of 58\. Nobody", said[4])
    assert "g6.xlarge (1 NVIDIA L4) costs +$0.279" in said[5]
    assert said[6] == "Prices of us-east-1, on demand, 2026-11-24."


def test_no_instance_is_named_that_its_region_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_files("prod", ROOT)
    monkeypatch.setitem(GPU_REGIONS, "g5", ())
    said = "\n".join(capacity(report(settings, 8, 40), settings, ("Today's peak", 12)))
    assert "A g6.xlarge" in said and "g5.xlarge" not in said
