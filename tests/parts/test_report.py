"""What a report says of made figures, and that what it measures is what an engine does."""

import argparse
import base64
import html.parser
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from advise.again import busiest
from common import ROOT, StepFailed
from components.code import Code
from components.proxy import WHEELS_MOUNT
from measure import client, report
from measure.client import here
from measure.levels import row
from measure.report import UserLimits, claims, engine, markdown, page, served, verdict
from measure.sweep import Sweep
from stacks.blueprint import blueprint_of
from stacks.settings import from_files
from tests.support.project import free_port
from tests.support.way import eventually
from tools import report as tool
from tools import standby
from tools.render import MEASURED
from tools.report import BOOT, sample
from traffic.load import LoggedRequest

LIMITS = UserLimits(first=5, tokens=5)


def level(
    kind: str, users: int, rate: float, first: float, *, bad: int = 0, busy: float | None = None
) -> Any:
    """As an engine gives `rate` tokens a second to so many users together, alike."""
    return {
        "engine": kind,
        "users": users,
        "answers": max(4, users),
        "bad": bad,
        "problems": {"HTTP 500": bad} if bad else {},
        "seconds": 10.0,
        "rate": rate,
        "user": rate / users,
        "user_p5": rate / users,
        "first_p50": first / 2,
        "first_p95": first,
        "token": users / rate,
        "tokens": 128.0,
        "prompt": 256,
        "gpu": {} if busy is None else {"busy": busy, "power": 60.0, "memory": 13000.0},
    }


def both(*, gpu: bool = True) -> dict[str, Any]:
    """Ollama gives 80 tokens a second to 8 at once and lets more wait, vLLM ever more."""
    busy = (lambda value: value) if gpu else (lambda value: None)
    ours = [
        level("ollama", users, 10.0 * min(users, 8), 0.4 if users <= 8 else users / 2, busy=busy(60))
        for users in (1, 2, 4, 8, 16, 20)
    ]
    theirs = [
        level("vllm", users, 12.0 * users if users <= 16 else 200 + users, 0.3 + users / 50, busy=busy(88))
        for users in (1, 2, 4, 8, 16, 20, 32, 40)
    ]
    about: dict[str, Any] = {"version": "1", "quantization": "q", "kv_cache": "16 bits", "context": 4096}
    about["command"] = "run | it"
    return {
        "ollama": engine(ours, LIMITS, 20.0, name="ollama-1", parallel=8, **about),
        "vllm": engine(theirs, LIMITS, 100.0, name="vllm-1", parallel=58, **about),
    }


def content(engines: dict[str, Any]) -> dict[str, Any]:
    sampled: dict[str, Any] = {"busy": 60.0, "watts": 50.0, "memory": 1.0, "cpu": 20.0, "waiting": 0}
    samples = [{**sampled, "at": n * 1.0, "running": n % 3} for n in range(100)]
    if engines["ollama"]["gpu"] is None:
        samples = [{**each, "busy": None, "watts": None} for each in samples]
    return {
        "stack": "prod",
        "day": "2025-11-28",
        "model": "qwen-2.5-coder-7b",
        "card": "NVIDIA T4",
        "driver": " (Tesla T4, 580.1)",
        "limits": {"first_p95": LIMITS.first, "user": LIMITS.tokens},
        "asked": {"tokens": 128, "prompt": 256, "levels": [1, 2], "seconds": 10},
        "engines": engines,
        "claims": claims(engines, LIMITS),
        "held": {"seconds": 70.0, "requests": 3},
        "remarks": [],
        "timeline": {
            "samples": samples,
            "spans": [[0, 30, "Ollama is measured", False], [30, 60, "loading", True]],
        },
        "traffic": None,
    }


@pytest.mark.parametrize(
    ("levels", "users", "more"),
    [
        ([(1, 50, 0.1, 0), (8, 50, 1, 0), (16, 50, 6, 0)], 8, False),
        ([(1, 50, 0.1, 0), (8, 50, 1, 0)], 8, True),
        ([(1, 50, 0.1, 0), (2, 50, 9, 0), (4, 50, 1, 0)], 1, False),
        ([(1, 4, 0.1, 0)], 0, False),
        ([(1, 50, 0.1, 1)], 0, False),
        ([(10, 50, 5, 0)], 10, True),
        ([(11, 50, 5, 0)], 0, False),
        ([], 0, True),
    ],
)
def test_served_is_the_most_users_for_whom_and_for_all_fewer_the_limits_hold(
    levels: list[tuple[int, float, float, int]], users: int, more: bool
) -> None:
    seen = [level("vllm", n, rate, first, bad=bad) for n, rate, first, bad in levels]
    assert served(seen, LIMITS) == (users, more)


def test_users_are_not_served_where_more_than_one_in_twenty_gets_too_few_tokens() -> None:
    slow = {**level("vllm", 8, 80.0, 0.1), "user_p5": LIMITS.tokens - 0.1}
    assert served([slow], LIMITS) == (0, False)
    assert served([{**slow, "user_p5": LIMITS.tokens}], LIMITS) == (8, True)


def test_a_level_without_a_good_answer_serves_nobody() -> None:
    none = {"engine": "vllm", **row([], 4), "gpu": {}}
    assert served([none], LIMITS) == (0, False)
    assert engine([none], LIMITS, None)["rate"] is None


def of(rows: list[dict[str, Any]], beginning: str) -> dict[str, Any]:
    (found,) = [each for each in rows if each["metric"].startswith(beginning)]
    return found


def test_each_claim_stands_beside_what_it_is_here() -> None:
    engines = both()
    rows = claims(engines, LIMITS)
    assert (engines["ollama"]["users"], engines["ollama"]["more"]) == (8, False)
    assert (engines["vllm"]["users"], engines["vllm"]["more"]) == (40, True)
    rate = of(rows, "throughput")
    assert (rate["ollama"], rate["vllm"]) == ("80.0 with 8 users", "240.0 with 40 users")
    assert (rate["ratio"], rate["holds"]) == ("3.00 times", "yes, and more than claimed")
    users = of(rows, "users")
    assert (users["ollama"], users["vllm"], users["ratio"]) == ("8", "40 or more", "at least 5.00 times")
    latency = of(rows, "latency, seconds of an answer (median) with 8 users")
    assert (latency["ollama"], latency["vllm"]) == ("12.80", "10.67")
    assert (latency["ratio"], latency["holds"]) == ("17 % lower", "no: less than claimed")
    busy = of(rows, "GPU")
    assert (busy["ratio"], busy["holds"]) == ("1.47 times", "yes")
    start = of(rows, "start")
    assert (start["ollama"], start["vllm"], start["holds"]) == ("20", "100", "yes")


@pytest.mark.parametrize(
    ("busy", "holds"),
    [
        ((60, 58), "no: it is the other way round"),
        ((60, 76), "no: less than claimed"),
        ((60, 77), "yes"),
        ((60, 94), "yes"),
        ((60, 95), "yes, and more than claimed"),
    ],
)
def test_a_claim_that_is_about_a_number_holds_where_a_tenth_is_missing(
    busy: tuple[int, int], holds: str
) -> None:
    engines = both()
    for each, value in zip(engines.values(), busy, strict=True):
        each["gpu"] = value
    row = of(claims(engines, LIMITS), "GPU")
    assert row["holds"] == holds and row["verdict"] == re.split("[:,]", holds)[0]


def test_what_is_the_other_way_round_and_what_was_not_measured_is_said_so() -> None:
    engines = both(gpu=False)
    turned = {"ollama": engines["vllm"], "vllm": engines["ollama"]}
    rows = claims(turned, LIMITS)
    assert of(rows, "throughput")["holds"] == "no: it is the other way round"
    assert of(rows, "latency")["ratio"] == "20 % higher"
    assert of(rows, "latency")["holds"] == "no: it is the other way round"
    assert of(rows, "start")["holds"] == "no: vLLM starts faster"
    assert of(rows, "users")["ratio"] == "at most 0.20 times"
    assert of(rows, "users")["holds"] == "no: it is the other way round"
    assert of(rows, "GPU")["holds"].startswith("not measured: no GPU here")
    assert of(rows, "GPU")["verdict"] == "unknown"
    text = markdown(content({**engines, **turned}))
    assert "| **no: it is the other way round** |" in text


@pytest.mark.parametrize(
    ("ollama", "vllm", "ratio", "holds"),
    [
        ((20, True), (32, False), "at most 1.60 times", "no: less than claimed"),
        ((16, True), (40, False), None, "not known: Ollama served every number of users that was tried"),
        ((20, True), (20, True), None, "not known: Ollama served every number of users that was tried"),
        (
            (20, False),
            (32, True),
            "at least 1.60 times",
            "not known: vLLM served every number of users that was",
        ),
        ((0, False), (8, False), None, "not known: Ollama served nobody within the limits"),
        ((0, False), (8, True), None, "not known: Ollama served nobody within the limits"),
        ((0, False), (0, False), None, "no: neither served anybody within the limits"),
        ((8, False), (0, False), "0.00 times", "no: it is the other way round"),
    ],
)
def test_of_users_only_what_follows_from_the_numbers_that_were_tried_is_said(
    ollama: tuple[int, bool], vllm: tuple[int, bool], ratio: str | None, holds: str
) -> None:
    engines = {
        kind: {**each, "users": users, "more": more}
        for (kind, each), (users, more) in zip(both().items(), (ollama, vllm), strict=True)
    }
    row = of(claims(engines, LIMITS), "users")
    assert row["ratio"] == ratio and row["holds"].startswith(holds), row
    assert row["verdict"] == ("unknown" if holds.startswith("not known") else "no")


def test_the_text_decides_first_and_names_what_was_measured() -> None:
    text = markdown(content(both()))
    first = text.split("\n\n")[1]
    assert first.startswith(
        "Here Ollama serves 8 users at the same time, and vLLM 40 or more. vLLM generates 3.00 times "
    )
    assert "Up to 8 users at the same time, Ollama is enough." in first and "make advise STACK=prod" in first
    for said in ("NVIDIA T4 (Tesla T4, 580.1)", "2025-11-28", "within 5 s", "run \\| it", "held for 70 s"):
        assert said in text
    assert len(re.findall(r"^\| (ollama|vllm) \| \d+ ", text, re.M)) == 6 + 8
    assert verdict(content(both(gpu=False))) == first


class Reader(html.parser.HTMLParser):
    """What tags a page has, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.open, self.fetched = list[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.fetched += [str(value) for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        while self.open.pop() != tag:
            assert self.open


@pytest.mark.parametrize("gpu", [True, False])
def test_the_page_is_one_file_with_all_plots(gpu: bool) -> None:
    text = page(content(both(gpu=gpu)))
    reader = Reader()
    reader.feed(text)
    assert reader.fetched == [] and "url(" not in text and "@import" not in text
    assert reader.tags.count("svg") == 2 and "script" not in reader.tags
    assert text.count("<polyline") == 3 * 2 + (5 if gpu else 3)
    assert ("power of the GPU" in text) == gpu
    assert "limit: 5" in text and "loading" in text and "<b>no: less than claimed</b>" in text
    assert "&lt;" not in text and "**" not in text


def test_rendering_leaves_a_report_where_it_is() -> None:
    assert set(report.FILES) <= set(MEASURED)


# what is measured


@pytest.fixture
def url() -> Iterator[str]:
    """The test engine: a token every 30 ms, to everybody at once."""
    port, names = free_port(), f"tiny {from_files('local', ROOT).name}"
    environment = {**os.environ, "FAST_PORT": str(port), "FAST_TOKENS": "0.03", "FAST_NAMES": names}
    program = str(ROOT / "tests/support/fast_engine.py")

    def listens() -> bool:
        socket.create_connection(("127.0.0.1", port)).close()
        return True

    with subprocess.Popen([sys.executable, program], env=environment) as process:
        try:
            eventually(listens)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def swept(ask: Any, url: str, **more: Any) -> list[dict[str, Any]]:
    sweep = Sweep(
        ask=ask, model="tiny", levels=(1, 2), tokens=10, prompt=50, each=1, least=2, say=lambda line: None
    )
    return sweep.engine("vllm", {"": url}, **more)


def test_what_asks_in_a_container_is_taken_from_stdin_and_measures_what_bench_sweep_does(
    url: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdin and process.stdout
        into, out = process.stdin, process.stdout
        into.write(base64.b64encode(Code("measure").zip()).decode() + "\n")

        def ask(plan: Any) -> Any:
            into.write(json.dumps(plan) + "\n")
            into.flush()
            return json.loads(out.readline())

        inside = swept(ask, url)
        into.close()
        assert process.wait(10) == 0, "it ends with its stdin"
    lines = tmp_path / "levels.jsonl"
    words = ["--url", url, "--levels", "1,2", "--tokens", "10", "--prompt", "50"]
    words += ["--least", "2", "--each", "1"]
    command = [sys.executable, "-m", "bench.sweep", *words, "--json", str(lines)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    bench = [json.loads(line) for line in lines.read_text().splitlines()]
    for ours, theirs in zip(inside, bench, strict=True):
        same = ("users", "answers", "bad", "tokens", "prompt")
        assert [ours[key] for key in same] == [theirs[key] for key in same]
        assert ours.keys() == theirs.keys()
        for each in (ours, theirs):  # how close to it depends on what else the machine has to do
            assert 0 < each["rate"] <= each["users"] / 0.03


def test_no_more_users_are_asked_as_once_it_is_enough(url: str) -> None:
    assert [each["users"] for each in swept(here, url, enough=lambda levels: True)] == [1]


def test_an_answer_that_takes_longer_than_the_patience_is_bad(url: str) -> None:
    plan = {"do": "level", "url": url, "model": "tiny", "n": 1, "each": 1, "tokens": 200, "pieces": 1}
    (asked,) = here({**plan, "seconds": 1, "run": 0, "patience": 0.5})["asked"]
    assert asked["problem"] == "cut: TimeoutError"


def test_real_traffic_is_asked_for_with_its_lengths_at_its_times(url: str) -> None:
    sweep = Sweep(ask=here, model="tiny")
    sweep.measure(url)
    asked = sweep.again(url, [(0.0, 40, 10), (0.5, 200, 30), (0.6, 80, 20)])
    assert [each["problem"] for each in asked] == [""] * 3
    assert [each["tokens"] for each in asked] == [10, 30, 20]
    assert all(abs(each["prompt"] - wanted) <= 5 for each, wanted in zip(asked, (40, 200, 80), strict=True))
    first = asked[0]["began"]
    assert [each["began"] - first for each in asked] == pytest.approx([0, 0.5, 0.6], abs=0.25)


def prompts(sweep: Sweep) -> list[str]:
    """What a sweep asks, by plan and user."""
    plans = list[Any]()

    def ask(plan: Any) -> Any:
        plans.append(plan)
        asked = {"prompt": 50 + 5 * plan["pieces"], "problem": "", "began": 0.0, "first": 1.0, "last": 2.0}
        return {"asked": [{**asked, "ended": 2.0, "tokens": 1}] * plan["n"]}

    sweep.ask, sweep.say = ask, lambda line: None
    sweep.engine("vllm", {"": "http://engine"})
    return [
        client.prompt((plan["run"] * 1000 + number) * 100, plan["pieces"])
        for plan in plans
        for number in range(plan["n"])
    ]


def test_no_sweep_asks_what_another_has_asked_before() -> None:
    """Else an engine that has served since then has the prompts in its cache: its first token comes early."""
    one, two = (prompts(Sweep(ask=here, model="tiny", levels=(1, 40))) for _ in range(2))
    assert len(set(one)) == len(one) and not set(one) & set(two)
    assert len({each.index(" ") for each in (*one, *two)}) == 1, "all as long"


def test_a_request_that_filled_the_context_does_so_again_and_no_more() -> None:
    plans = list[Any]()

    def ask(plan: Any) -> Any:
        plans.append(plan)
        return {"asked": []}

    sweep = Sweep(ask=ask, model="tiny")
    sweep.empty, sweep.piece = 40.0, 5.0
    sweep.again("http://engine", [(0.0, tokens, 10) for tokens in range(45, 300)])
    for (_, pieces, _), tokens in zip(plans[0]["asked"], range(45, 300), strict=True):
        assert tokens - 5 < sweep.empty + pieces * sweep.piece <= tokens


def requests(seed: int) -> list[LoggedRequest]:
    rng = random.Random(seed)
    return [
        LoggedRequest(
            ended=rng.uniform(0, 600),
            total=rng.uniform(0.1, 5),
            held=0,
            engine="ollama-1",
            failed=rng.random() < 0.1,
            prompt=rng.choice([None, 10, 500, 3000]),
            completion=rng.choice([None, 0, 20, 200]),
        )
        for _ in range(200)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_busiest_time_is_that_with_the_most_tokens(seed: int) -> None:
    known = [each for each in requests(seed) if each.prompt and each.completion and not each.failed]
    found = busiest(requests(seed), 60, 1000)
    assert found is not None

    def tokens(begins: float) -> int:
        return sum(
            (each.prompt or 0) + (each.completion or 0)
            for each in known
            if begins <= each.began < begins + 60
        )

    assert tokens(found.begins) == max(tokens(each.began) for each in known)
    assert len(found.asked) == sum(found.begins <= each.began < found.ends for each in known)
    assert all(
        after < 60 and prompt >= 1 and prompt + answer <= 1000 for after, prompt, answer in found.asked
    )


def test_what_had_more_than_the_context_keeps_its_answer_as_far_as_that_goes() -> None:
    had = [
        LoggedRequest(ended=float(n), total=1.0, held=0.0, prompt=p, completion=c)
        for n, (p, c) in enumerate([(3000, 200), (10, 5000), (0, 7)])
    ]
    found = busiest(had, 60, 1000)
    assert found and [tuple(each[1:]) for each in found.asked] == [(800, 200), (1, 999), (1, 7)]


def test_of_no_answered_request_there_is_nothing_to_ask_again() -> None:
    assert busiest([LoggedRequest(1, 1, 0), LoggedRequest(2, 1, 0, completion=3)], 60, 100) is None


def test_a_look_at_the_host_has_what_each_card_says_and_no_more() -> None:
    gpu = {"busy": 40.0, "watts": None, "used": 2.0 * 2**30}
    said = {
        "status": {
            "gpus": [gpu, {**gpu, "busy": 60.0}],
            "held_since": 5.0,
            "proxies": {"one": {"running": {"ollama-1": 2}, "held": 3}, "gone": None},
        },
        "cpu": {"busy": 150, "all": 300, "count": 2},
    }
    found = sample(said, {"busy": 100, "all": 200}, 7.0)
    assert found == {
        "at": 7.0,
        "busy": 50.0,
        "watts": None,
        "memory": 4096.0,
        "cpu": 50.0,
        "running": 2,
        "waiting": 3,
        "held": True,
    }
    said["status"]["gpus"] = "nvidia-smi can't be run"  # type: ignore[index]
    assert sample(said, None, 7.0)["busy"] is None and sample(said, None, 7.0)["cpu"] is None


def test_everything_that_a_plan_may_name_is_there() -> None:
    assert set(client.DOES) == {"level", "replay"}


# a whole run, with both engines one test engine and a Docker host that is none

DOCKER = """#!{python}
import json, os, sys
words = sys.argv[1:]
if words[0] == "run":
    os.environ.pop("PYTHONPATH", None)
    os.execv(sys.executable, [sys.executable, "-c", words[-1]])
assert words[0] == "exec" and words[-1] == "observe", words
gpus = [{{"busy": 70.0, "watts": 60.0, "used": 2.0 * 2**30}}]
proxies = {{"one": {{"running": {{"ollama-1": 2}}, "held": 0}}}}
for n, _ in enumerate(sys.stdin):
    status = {{"gpus": gpus, "held_since": None, "proxies": proxies}}
    print(json.dumps({{"status": status, "cpu": {{"busy": n, "all": 2 * n, "count": 2}}}}), flush=True)
"""


class Made:
    """A stack's host on which every engine is the test engine, and a switch that does what it is told."""

    switch_name, change = "switch", "0a1b2c"
    ready = 0
    """What `follow` ends with."""

    def __init__(self) -> None:
        self.told = list[str]()
        self.ready_at = 0.0

    def containers(self, role: str, *_: str) -> list[str]:
        return [role]

    def engine(self, spec: object) -> str:
        return "127.0.0.1"

    def switch(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        self.told.append(words[0])
        return subprocess.CompletedProcess(words, 0, "", "")

    def follow(self, container: str) -> int:
        self.ready_at = self.ready_at or time.time()
        return self.ready

    def status(self) -> dict[str, Any]:
        steps = [
            {"phase": "loading", "at": 0.0, "seconds": 40.0},
            {"phase": "prepared", "at": self.ready_at, "seconds": 60.0},
            {"phase": "restoring", "at": 0, "seconds": 9},
        ]
        last = {"container": "127.0.0.1", "phase": "failed", "steps": steps, "held_seconds": 60.0}
        return {
            "last": last,
            "under_way": None,
            "gated": True,
            "gateway": "gateway",
            "containers": {"gateway": "running"},
            "active": {"kind": "ollama"},
        }


@pytest.fixture
def made(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.format(python=sys.executable))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("YES", "1")
    host, settings = Made(), from_files("local", ROOT)
    ours, other = (blueprint_of(replace(settings, engine=kind)) for kind in settings.kinds)
    there = standby.Pair(settings, cast(Any, host), ours, other, "127.0.0.1")
    inspected = {
        "Mounts": [{"Name": "wheels", "Destination": WHEELS_MOUNT}],
        "NetworkSettings": {"Networks": {"network": {}}},
        "Image": "sha256:0",
    }
    monkeypatch.setattr(tool, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(tool, "pair", lambda stack, root: there)
    monkeypatch.setattr(
        tool, "docker", lambda *words, **_: subprocess.CompletedProcess(words, 0, json.dumps([inspected]), "")
    )
    monkeypatch.setattr(tool, "PORT", int(url.rpartition(":")[2]))
    return host


def options(**more: object) -> argparse.Namespace:
    short = {"levels": (1, 2), "tokens": 8, "prompt": 40, "seconds": 1.0, "traffic": False}
    return argparse.Namespace(**{**short, **more})


def test_a_run_borrows_the_standby_gives_it_back_and_writes_its_three_files(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday = [LoggedRequest(ended=n, total=1, held=0, prompt=30, completion=5 + n) for n in (1, 2)]
    monkeypatch.setattr(tool, "requests_of", lambda stack, since: (yesterday, 0.0))
    found = tool.report("local", tmp_path, options(traffic=True))
    assert made.told == ["prepare", "abandon"]
    said = capsys.readouterr().out
    assert said.index("requests wait for at most about") < said.index("1 users:")
    measured = said[said.index("requests of yesterday, replayed") :]
    assert "of measuring" in measured, "how long it will be is known by then"
    assert json.loads((tmp_path / "rendered/local/report.json").read_text()) == json.loads(json.dumps(found))
    for kind in ("ollama", "vllm"):
        engine = found["engines"][kind]
        assert [(each["users"], each["bad"], each["tokens"]) for each in engine["levels"]] == [
            (1, 0, 8),
            (2, 0, 8),
        ]
        assert engine["gpu"] == 70 and engine["users"] == 2 and engine["more"]
        assert found["traffic"]["engines"][kind]["answers"] == 2
    assert (found["engines"]["ollama"]["start"], found["engines"]["vllm"]["start"]) == (9, 40)
    assert found["remarks"] == [
        "Ollama's start was measured when it was brought back at the end, and includes the stop of the "
        "other.",
        "While Ollama was measured, it also had up to 2 requests of users.",
    ]
    spans = {what: held for _, _, what, held in found["timeline"]["spans"]}
    assert spans == {
        "loading": True,
        "vLLM is measured": True,
        "Ollama is measured": False,
        "restoring": True,
    }
    assert "Here Ollama serves 2 or more users" in (tmp_path / "rendered/local/report.html").read_text()


def test_a_standby_that_is_taken_away_leaves_no_report(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(standby, "FOLLOW_SECONDS", 0.01)
    follow = made.follow

    def once(container: str) -> int:
        made.ready = 1
        return 0

    monkeypatch.setattr(made, "follow", lambda container: (follow if made.ready else once)(container))
    with pytest.raises(StepFailed, match=r"undid the change .* Run the same command again"):
        tool.report("local", tmp_path, options())
    assert made.told == ["prepare", "abandon"]
    assert not (tmp_path / "rendered").exists()
    of_it = capsys.readouterr().out.partition("is ready; measuring it")[2]
    assert "1 users" in of_it and "2 users" not in of_it, "it ends with the next level"


def test_without_a_yes_nothing_is_asked(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("YES")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(StepFailed, match="in advance: YES=1 make report"):
        tool.report("local", tmp_path, options())
    assert made.told == [] and "users:" not in capsys.readouterr().out


def test_what_would_let_requests_wait_for_too_long_is_not_begun(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "SWEEP_SECONDS", 5000.0)
    with pytest.raises(
        StepFailed, match=r"the proxy lets them wait only 1080 s .* pulumi config set holdBudget"
    ):
        tool.report("local", tmp_path, options(levels=tuple(range(1, 40))))
    assert made.told == []
