"""The CLI of this checkout, as every tool runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT
from tools import environment

CLI = """#!/bin/bash
# as Pulumi's CLI: it hears Ctrl-C, and ends what it has begun, which takes a while
trap 'sleep 1; echo unlocked >{folder}/lock; exit 1' INT
echo locked >{folder}/lock
sleep 5 >/dev/null 2>&1 &
echo began
wait
"""

TOOL = """
import pathlib, signal
from common import main_guard
from tools import environment
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
environment.cli = lambda stack=None: pathlib.Path("{folder}/pulumi")
main_guard(lambda: environment.pulumi("up"))
"""


def test_a_pulumi_that_is_interrupted_unlocks_the_stack_before_the_tool_ends(tmp_path: Path) -> None:
    cli = tmp_path / "pulumi"
    cli.write_text(CLI.format(folder=tmp_path))
    cli.chmod(0o755)
    words = [sys.executable, "-c", TOOL.format(folder=tmp_path)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as tool:
        assert tool.stdout is not None
        tool.stdout.readline()
        os.killpg(tool.pid, signal.SIGINT)  # as a terminal does
        _, said = tool.communicate(timeout=30)
    assert (tmp_path / "lock").read_text() == "unlocked\n"
    assert (tool.returncode, said) == (130, "")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `.changeover` of a checkout in a folder whose name a shell does not like."""
    home = tmp_path / "o'brien" / ".changeover"
    for name, value in {
        "HOME": home,
        "BIN": home / "bin",
        "PULUMI_HOME": home / "pulumi",
        "STATE": home / "state",
        "PASSPHRASE": home / "passphrase",
        "ENV_FILE": home / "env.sh",
    }.items():
        monkeypatch.setattr(environment, name, value)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("echo activated\n")
    return home


def test_a_folder_may_have_a_quote_in_its_name(folder: Path, tmp_path: Path) -> None:
    environment.write()
    said = subprocess.check_output(
        [
            "bash",
            "-c",
            '. "$0"; echo "$PULUMI_CONFIG_PASSPHRASE_FILE"; echo "${PATH%%:*}"',
            "venv/bin/activate",
        ],
        cwd=tmp_path,
        text=True,
    )
    assert said.splitlines() == ["activated", f"{folder}/passphrase", f"{folder}/bin"]


@pytest.mark.parametrize(
    ("built", "told", "expected"),
    [(False, "", "true"), (False, "false", "false"), (True, "", "true"), (True, "false", "true")],
)
def test_pulumi_fetches_no_plugin_unless_it_is_told_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: bool, told: str, expected: str
) -> None:
    monkeypatch.setattr(environment, "_built", lambda: built)
    monkeypatch.delenv(environment.FETCHES_NONE, raising=False)
    environment.write()
    words = ["bash", "-c", f'. "$0"; echo "${environment.FETCHES_NONE}"', "venv/bin/activate"]
    given = {environment.FETCHES_NONE: told} if told else {}
    said = subprocess.check_output(words, cwd=tmp_path, text=True, env={**os.environ, **given})
    assert said.splitlines()[1:] == [expected]
    monkeypatch.setenv(environment.FETCHES_NONE, told or "true")
    assert environment.variables()[environment.FETCHES_NONE] == expected
    kept = environment.ENV_FILE.read_text()
    environment.write()
    assert environment.ENV_FILE.read_text() == kept, "what is told once holds once"


def test_a_passphrase_is_there_as_a_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pulumi reads an empty file as an empty passphrase, and would encrypt everything with that."""

    def full(file: Path, text: str) -> int:
        file.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            environment.write()
    assert not environment.PASSPHRASE.exists()
    environment.write()
    assert len(kept := environment.PASSPHRASE.read_text()) == 48
    assert environment.PASSPHRASE.stat().st_mode & 0o777 == 0o600
    environment.write()
    assert environment.PASSPHRASE.read_text() == kept


MODE = "import sys; print(sys.flags.utf8_mode)"


def test_texts_are_read_as_utf_8_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the targets of make, and by the program that Pulumi runs."""
    monkeypatch.delenv("PYTHONUTF8", raising=False)
    monkeypatch.setenv("MAKEFLAGS", "")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")  # in C it would be so by itself
    run = f"RUN={sys.executable} -c '{MODE}'"
    made = subprocess.check_output(["make", "-s", "-o", ".venv/.synced", "status", run], cwd=ROOT, text=True)
    env = environment.process_environment()
    ran = subprocess.check_output([sys.executable, "-c", MODE], env=env, text=True)
    assert (made, ran) == ("1\n", "1\n")
