"""Short forms of `bench.flip`, a flip there and back in each mode that loses nothing, and `bench.sweep`."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.stack import kept
from common import ROOT

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("gateway", ["tensorzero", pytest.param("none", marks=pytest.mark.long)])
def test_flips_there_and_back_in_both_modes_lose_no_request_of_any_protocol(
    tmp_path: Path, gateway: str
) -> None:
    results = tmp_path / "flips.jsonl"
    # two clients: so each has had every kind of answer sooner before and after a flip
    what = ["--engine", "fast", "-n", "1", "--protocols", "all", "--clients", "2", "--gateway", gateway]
    command = ["-m", "bench.flip", *what]
    done = subprocess.run(
        [sys.executable, *command, "--json", str(results)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    flips = kept(results)
    assert [(flip["way"], flip["to"]) for flip in flips] == [
        (f"{mode}{', no gateway' if gateway == 'none' else ''}", engine)
        for mode in ("hold", "overlap")
        for engine in ("vllm", "ollama")
    ]
    assert all(flip["requests"] for flip in flips)
    assert any(request[4] for flip in flips for request in flip["requests"]), "a client has hung up"
    assert "what it was before the first flip, in 2 of 2 checks" in done.stdout


@pytest.mark.long
def test_a_sweep_asks_both_engines_by_both_ways(tmp_path: Path) -> None:
    results = tmp_path / "levels.jsonl"
    short = ["--levels", "1,4", "--tokens", "16", "--prompt", "32", "--each", "1", "--least", "4"]
    command = [sys.executable, "-m", "bench.sweep", "--engine", "fast", *short, "--json", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    levels = kept(results)
    assert [(each["engine"], each["users"], each["way"]) for each in levels] == [
        (engine, users, way)
        for engine in ("ollama", "vllm")
        for users in (1, 4)
        for way in ("the engine itself", "through the endpoint")
    ]
    assert {(each["answers"], each["bad"], each["tokens"]) for each in levels} == {(4, 0, 16)}
    assert len({each["prompt"] for each in levels}) == 1, "the same prompts for both engines and ways"
    assert done.stdout.count("| vllm |") == 4 and done.stdout.count("| ollama |") == 4
