"""The short form of `bench.flip`: a flip there and back in each mode, and not one request lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.flip import read
from tools.environment import ROOT

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("gateway", ["tensorzero", "none"])
def test_flips_there_and_back_in_both_modes_lose_no_request(tmp_path: Path, gateway: str) -> None:
    results = tmp_path / "flips.jsonl"
    command = ["-m", "bench.flip", "--engine", "fast", "-n", "1", "--gateway", gateway]
    done = subprocess.run(
        [sys.executable, *command, "--json", str(results)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    flips = read(results)
    assert [(flip["way"], flip["to"]) for flip in flips] == [
        (f"{way}{', no gateway' if gateway == 'none' else ''}", engine)
        for way in ("hold", "overlap")
        for engine in ("vllm", "ollama")
    ]
    assert all(flip["requests"] for flip in flips)
    assert any(request[4] for flip in flips for request in flip["requests"]), "a client has hung up"
    assert "what it was before the first flip, in 2 of 2 checks" in done.stdout
