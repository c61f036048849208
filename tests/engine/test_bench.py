"""The short form of `bench.flip`: a flip there and back in each mode, and not one request lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.flip import read
from tools.environment import ROOT

pytestmark = pytest.mark.engine


def test_flips_there_and_back_in_both_modes_lose_no_request(tmp_path: Path) -> None:
    results = tmp_path / "flips.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "bench.flip", "--engine", "fast", "-n", "1", "--json", str(results)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    flips = read(results)
    assert [(flip["way"], flip["to"]) for flip in flips] == [
        (way, engine) for way in ("hold", "overlap") for engine in ("vllm", "ollama")
    ]
    assert all(flip["requests"] for flip in flips)
    assert "what it was before the first flip, in 2 of 2 checks" in done.stdout
