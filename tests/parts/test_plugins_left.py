"""A plugin whose `pulumi` was killed ends with the next one, and no other does."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support.cluster.cluster import wait
from tools import environment


def started(program: Path, parent: Path, *, stays: bool) -> tuple[int, subprocess.Popen[str]]:
    """Starts a program, whose parent waits for it or is gone. The program's id, and its parent."""
    words = f"{program} 600 >/dev/null 2>&1 & echo $!{'; wait' if stays else ''}"
    shell = subprocess.Popen([parent, "-c", words], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    with shell.stdout:
        number = int(shell.stdout.readline())
    if not stays:
        shell.wait()
    return number, shell


def test_a_plugin_whose_cli_was_killed_is_ended_and_one_at_work_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "PULUMI_HOME", tmp_path)
    plugin = tmp_path / "plugins" / "resource-kubernetes-v1" / "pulumi-resource-kubernetes"
    other, cli = tmp_path / "other" / plugin.name, tmp_path / "bin" / "pulumi"
    for place, what in ((plugin, "sleep"), (other, "sleep"), (cli, "sh")):
        place.parent.mkdir(parents=True)
        shutil.copy(Path(str(shutil.which(what))).resolve(), place)
    (left, _), (elsewhere, _) = started(plugin, cli, stays=False), started(other, cli, stays=False)
    works, parent = started(plugin, cli, stays=True)
    try:
        environment.end_left()
        wait(lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == "zombie", 10, "its end")
        assert psutil.pid_exists(works) and psutil.pid_exists(elsewhere)
    finally:
        for number in (works, elsewhere):
            os.kill(number, signal.SIGKILL)
        parent.wait(10)
