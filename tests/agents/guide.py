"""The guide to coding agents, and how one is run as it is written there."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from common import ROOT
from tests.support.alone import Alone

GUIDE = ROOT / "docs/agents.md"
NAME = "qwen-2.5-coder-0.5b"
PORT = 8080
"""What the guide calls model and port."""
ASKS = '"What is in harbour.txt?"'
"""What the agents are told in the guide."""
FILE, HELD = "harbour.txt", "a grey seal"
SECONDS = 240
"""Longer than whatever an agent is let wait for."""


def commands() -> dict[str, str]:
    """Agent → what the guide has people type."""
    found = dict[str, str]()
    for part in re.split(r"^## ", GUIDE.read_text(), flags=re.MULTILINE)[1:]:
        (text,) = re.findall(r"^```sh\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        found[part.splitlines()[0]] = text
    return found


def begun(folder: Path) -> Path:
    """A git repository with one file, in a home of its own."""
    home, repository = folder / "home", folder / "home/work"
    repository.mkdir(parents=True)
    (repository / FILE).write_text(f"{HELD}\n")
    (home / ".gitconfig").write_text("[user]\n\tname = Test\n\temail = test@example.com\n")
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "Begin")):
        subprocess.run(["git", *words], cwd=repository, env=_environment(repository), check=True)
    return repository


def _environment(repository: Path, programs: Path | None = None) -> dict[str, str]:
    """Nothing of who runs the tests: agents look for each other's settings and keys."""
    path = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
    return {"HOME": str(repository.parent), "PATH": path, "LANG": "C.UTF-8", "TERM": "dumb"}


def run(
    agent: str, told: str, repository: Path, programs: Path, where: Alone
) -> subprocess.CompletedProcess[str]:
    """What the guide has people type, with `told` in the place of what the agent is told there."""
    text = commands()[agent]
    assert ASKS in text
    text = text.replace(ASKS, shlex.quote(told))
    return where.run(
        ["bash", "-euc", text], cwd=repository, env=_environment(repository, programs), seconds=SECONDS
    )
