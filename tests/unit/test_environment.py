"""The CLI of this checkout, as every tool runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

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
environment.cli = lambda: pathlib.Path("{folder}/pulumi")
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
