"""`make report` on real engines: what it writes, that it and the sweep agree, and that its end is no harm."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.crowd import network
from bench.stack import deployed
from bench.sweep import asks
from bench.ways import Client
from common import ROOT
from components.engines import PORT
from measure.report import FILES
from measure.sweep import Sweep
from tests.support.load import LoadGenerator
from tests.support.project import Project, docker, kill_group
from tests.support.switch_stack import wait

pytestmark = [pytest.mark.engine, pytest.mark.long]

STACK = "reporttest"
SHORT = ("--levels", "1,4", "--tokens", "32", "--prompt", "64", "--seconds", "2")


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with deployed(STACK, cutover="hold") as project:
        yield project


def begun(project: Project, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """`make report` under way, in a process group of its own."""
    words = [sys.executable, "-m", "tools.report", STACK, "--root", str(project.folder), *SHORT]
    with log.open("wb") as out:
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env={**project.for_tools, "YES": "1", "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def left() -> list[str]:
    """The containers that ask."""
    return docker("ps", "--all", "--filter", f"name={STACK}-report-", "--format", "{{.Names}}").split()


def test_both_engines_are_measured_under_load_and_the_active_one_serves_again(
    project: Project, tmp_path: Path
) -> None:
    before, outputs, log = project.live(), project.outputs(), tmp_path / "report.log"
    with LoadGenerator(outputs["endpoint"], outputs["model"], clients=1, pause=1) as load:
        load.wait_for_answers(2)
        process = begun(project, log)
        assert process.wait(timeout=400) == 0, log.read_text()
        load.wait_for_answers(2)
    assert not load.bad, load.summary()
    assert project.settled() and project.live() == before and project.changes() == {}
    assert left() == []
    said = log.read_text()
    assert said.index("requests wait for at most about") < said.index("1 users:"), "it asks first"
    folder = project.folder / "rendered" / STACK
    content: dict[str, Any] = json.loads((folder / FILES[0]).read_text())
    for kind in ("ollama", "vllm"):
        engine = content["engines"][kind]
        assert [(each["users"], each["bad"]) for each in engine["levels"]] == [(1, 0), (4, 0)], said
        assert engine["users"] >= 1 and engine["start"] > 0
    assert len({each["prompt"] for kind in content["engines"].values() for each in kind["levels"]}) == 1
    assert content["card"] == f"a CPU with {os.cpu_count()} cores"
    assert content["held"]["seconds"] > 5 and content["held"]["requests"] >= 1
    assert {"loading", "restoring"} <= {span[2] for span in content["timeline"]["spans"]}
    assert any(each["held"] for each in content["timeline"]["samples"])
    for name in FILES[1:]:
        assert "Here Ollama serves" in (folder / name).read_text()


def test_the_sweep_says_of_the_same_engine_what_the_report_says(project: Project) -> None:
    """Lengths to the token, and rates as far as those of a few short answers can, where the machine has other
    work: within a factor of three."""
    report = json.loads((project.folder / "rendered" / STACK / FILES[0]).read_text())
    levels = report["engines"]["ollama"]["levels"]
    with Client(network(project)) as inside:
        sweep = Sweep(
            ask=lambda plan: asks(inside, plan),
            model=project.outputs()["model"],
            levels=(1, 4),
            tokens=32,
            prompt=64,
            seconds=2,
        )
        swept = sweep.engine("ollama", {"": f"http://{project.live()}:{PORT}"})
    for ours, theirs in zip(levels, swept, strict=True):
        assert [ours[key] for key in ("users", "bad", "tokens", "prompt")] == [
            theirs[key] for key in ("users", "bad", "tokens", "prompt")
        ]
        assert 1 / 3 < ours["rate"] / theirs["rate"] < 3, (ours, theirs)


@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_whoever_is_gone_in_the_middle_leaves_the_engine_that_served(
    project: Project, tmp_path: Path, how: str
) -> None:
    before, log = project.live(), tmp_path / "report.log"
    process = begun(project, log)
    wait(lambda: "measuring it" in log.read_text() or process.poll() is not None, 240, log.read_text())
    assert process.poll() is None, log.read_text()
    time.sleep(1)
    if how == "killed":
        kill_group(process)
    else:
        process.terminate()
        process.wait(timeout=200)
        assert "the active engine was brought back" in log.read_text()
    wait(lambda: project.settled() and project.live() == before, 200, "the engine that served is not back")
    wait(lambda: left() == [], 90, "what asks does not end")
    with LoadGenerator(project.outputs()["endpoint"], project.outputs()["model"], clients=1) as load:
        load.wait_for_answers(2)
    assert not load.bad and project.changes() == {}
